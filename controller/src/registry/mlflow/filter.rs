//! MLflow's search language, the part that its registry takes: comparisons joined by AND.
//!
//! `name = 'rain' AND tags.team LIKE 'vis%' AND version_number > 3`
//!
//! A reader of its own, because the language is a dozen words and comes from outside: it looks at each character once, and matching
//! a pattern never goes back further than its last `%`. A tag that is not there matches nothing, also not `!=`, as in MLflow; its
//! clients add one exception to every question, the mark of prompts, which nothing here has.
use super::entry::{ModelVersion, RegisteredModel, Tag};

/// The longest question.
const MAX_LENGTH: usize = 4_000;
/// Comparisons of one question.
const MAX_CLAUSES: usize = 32;
/// The mark of prompts, which MLflow's clients ask about each time.
pub const PROMPT: &str = "mlflow.prompt.is_prompt";

/// A question that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the filter cannot be read at {at:?}: {expected}")]
pub struct FilterError {
    at: String,
    expected: String,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Run,
    Source,
    Number,
    Created,
    Updated,
    Tag(String),
}

/// How.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(String),
    IsNot(String),
    Like(String),
    Ilike(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Number(Sign, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A question: every comparison must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<(Field, Test)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// Letters, digits, `_ . -`, with quoted parts within.
    Word(String),
    Text(String),
    Sign(Sign),
    Open,
    Close,
    Comma,
}

impl Filter {
    /// A question about registered models.
    pub fn of_models(text: &str) -> Result<Self, FilterError> {
        Self::parse(text, |field| matches!(field, Field::Name | Field::Created | Field::Updated | Field::Tag(_)))
    }

    /// A question about versions.
    pub fn of_versions(text: &str) -> Result<Self, FilterError> {
        Self::parse(text, |_| true)
    }

    /// Whether a model is an answer.
    pub fn takes_model(&self, model: &RegisteredModel) -> bool {
        self.holds(&model.tags, |field| match field {
            Field::Name => Value::Text(&model.name),
            Field::Created => Value::Number(model.creation_timestamp),
            Field::Updated => Value::Number(model.last_updated_timestamp),
            _ => Value::None,
        })
    }

    /// Whether a version is an answer.
    pub fn takes_version(&self, version: &ModelVersion) -> bool {
        self.holds(&version.tags, |field| match field {
            Field::Name => Value::Text(&version.name),
            Field::Run => Value::Text(&version.run_id),
            Field::Source => Value::Text(&version.source),
            Field::Number => Value::Number(i64::try_from(version.number).unwrap_or(i64::MAX)),
            Field::Created => Value::Number(version.creation_timestamp),
            Field::Updated => Value::Number(version.last_updated_timestamp),
            Field::Tag(_) => Value::None,
        })
    }

    fn holds<'a>(&self, tags: &'a [Tag], value: impl Fn(&Field) -> Value<'a>) -> bool {
        self.0.iter().all(|(field, test)| {
            let found = match field {
                Field::Tag(key) => tags.iter().find(|tag| tag.key == *key).map_or(Value::None, |tag| Value::Text(&tag.value)),
                other => value(other),
            };
            match (field, &found, test) {
                (Field::Tag(key), Value::None, Test::IsNot(value)) if key == PROMPT => value == "true",
                (Field::Tag(key), Value::None, Test::Is(value)) if key == PROMPT => value == "false",
                _ => test.holds(&found),
            }
        })
    }

    fn parse(text: &str, takes: impl Fn(&Field) -> bool) -> Result<Self, FilterError> {
        if text.len() > MAX_LENGTH {
            return Err(expected("", &format!("it has {} bytes, the bound is {MAX_LENGTH}", text.len())));
        }
        let tokens = tokens(text)?;
        let mut rest = tokens.as_slice();
        let mut clauses = Vec::new();
        while !rest.is_empty() {
            if !clauses.is_empty() {
                rest = match rest.split_first() {
                    Some((Token::Word(word), rest)) if word.eq_ignore_ascii_case("and") => rest,
                    _ => return Err(at(rest, "comparisons are joined by AND")),
                };
            }
            let (clause, after) = clause(rest, &takes)?;
            clauses.push(clause);
            if clauses.len() > MAX_CLAUSES {
                return Err(at(rest, &format!("there are more than {MAX_CLAUSES} comparisons")));
            }
            rest = after;
        }
        Ok(Self(clauses))
    }
}

enum Value<'a> {
    Text(&'a str),
    Number(i64),
    None,
}

impl Test {
    fn holds(&self, value: &Value<'_>) -> bool {
        match (value, self) {
            (Value::Text(text), Self::Is(wanted)) => text == wanted,
            (Value::Text(text), Self::IsNot(wanted)) => text != wanted,
            (Value::Text(text), Self::Like(pattern)) => like(text, pattern),
            (Value::Text(text), Self::Ilike(pattern)) => like(&text.to_lowercase(), &pattern.to_lowercase()),
            (Value::Text(text), Self::In(list)) => list.iter().any(|wanted| wanted == text),
            (Value::Text(text), Self::NotIn(list)) => list.iter().all(|wanted| wanted != text),
            (Value::Number(number), Self::Number(sign, wanted)) => match sign {
                Sign::Equal => number == wanted,
                Sign::Unequal => number != wanted,
                Sign::Less => number < wanted,
                Sign::AtMost => number <= wanted,
                Sign::More => number > wanted,
                Sign::AtLeast => number >= wanted,
            },
            _ => false,
        }
    }
}

/// SQL's LIKE: `%` is any text, `_` any character. Linear but for the product of both lengths: only the last `%` is tried again.
fn like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut t, mut p) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while let Some(here) = text.get(t) {
        match pattern.get(p) {
            Some('%') => {
                again = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == '_' || c == here => (t, p) = (t + 1, p + 1),
            _ => match again {
                Some((after, from)) => {
                    again = Some((after, from + 1));
                    (t, p) = (from + 1, after);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '%')
}

fn clause<'a>(tokens: &'a [Token], takes: &impl Fn(&Field) -> bool) -> Result<((Field, Test), &'a [Token]), FilterError> {
    let Some((Token::Word(word), rest)) = tokens.split_first() else {
        return Err(at(tokens, "a comparison begins with name, tags.KEY or another attribute"));
    };
    let found = field(word)
        .filter(takes)
        .ok_or_else(|| at(tokens, "this cannot be searched for here: use name, tags.KEY, version_number, run_id"))?;
    let is_number = matches!(found, Field::Number | Field::Created | Field::Updated);
    let word_is = |token: Option<&Token>, wanted: &str| matches!(token, Some(Token::Word(w)) if w.eq_ignore_ascii_case(wanted));
    let text = |tokens: &'a [Token]| match tokens.split_first() {
        Some((Token::Text(text), rest)) => Ok((text.clone(), rest)),
        _ => Err(at(tokens, "a text in quotes is expected here, such as 'rain'")),
    };
    let (test, rest) = match rest.split_first() {
        Some((Token::Sign(sign), rest)) if is_number => {
            let Some((Token::Word(number), rest)) = rest.split_first() else { return Err(at(rest, "a number is expected here")) };
            let number = number.parse().map_err(|_| at(tokens, "a whole number is expected here"))?;
            (Test::Number(*sign, number), rest)
        }
        Some((Token::Sign(sign @ (Sign::Equal | Sign::Unequal)), rest)) => {
            let (value, rest) = text(rest)?;
            (if *sign == Sign::Equal { Test::Is(value) } else { Test::IsNot(value) }, rest)
        }
        Some((word, rest)) if !is_number && word_is(Some(word), "like") => {
            let (value, rest) = text(rest)?;
            (Test::Like(value), rest)
        }
        Some((word, rest)) if !is_number && word_is(Some(word), "ilike") => {
            let (value, rest) = text(rest)?;
            (Test::Ilike(value), rest)
        }
        Some((word, rest)) if !is_number && word_is(Some(word), "in") => {
            let (values, rest) = list(rest)?;
            (Test::In(values), rest)
        }
        Some((word, rest)) if !is_number && word_is(Some(word), "not") && word_is(rest.first(), "in") => {
            let (values, rest) = list(rest.get(1..).unwrap_or_default())?;
            (Test::NotIn(values), rest)
        }
        _ => return Err(at(rest, "a comparison is expected here: =, !=, LIKE, ILIKE, IN, and <, <=, >, >= for numbers")),
    };
    Ok(((found, test), rest))
}

fn list(tokens: &[Token]) -> Result<(Vec<String>, &[Token]), FilterError> {
    let wrong = || at(tokens, "a list of texts is expected here, such as ('a', 'b')");
    let Some((Token::Open, mut rest)) = tokens.split_first() else { return Err(wrong()) };
    let mut values = Vec::new();
    loop {
        let Some((Token::Text(text), after)) = rest.split_first() else { return Err(wrong()) };
        values.push(text.clone());
        match after.split_first() {
            Some((Token::Comma, after)) => rest = after,
            Some((Token::Close, after)) => return Ok((values, after)),
            _ => return Err(wrong()),
        }
    }
}

fn field(word: &str) -> Option<Field> {
    let (entity, key) = word.split_once('.').unwrap_or(("attribute", word));
    match (entity.to_ascii_lowercase().as_str(), key) {
        (_, "") => None,
        ("tag" | "tags", key) => Some(Field::Tag(key.to_owned())),
        ("attribute" | "attributes", key) => match key {
            "name" => Some(Field::Name),
            "run_id" => Some(Field::Run),
            "source_path" => Some(Field::Source),
            "version_number" => Some(Field::Number),
            "creation_timestamp" => Some(Field::Created),
            "last_updated_timestamp" => Some(Field::Updated),
            _ => None,
        },
        _ => None,
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            ',' => tokens.push(Token::Comma),
            '\'' | '"' => tokens.push(Token::Text(quoted(&mut chars, c)?)),
            '=' => {
                let _ = chars.next_if_eq(&'=');
                tokens.push(Token::Sign(Sign::Equal));
            }
            '!' if chars.next_if_eq(&'=').is_some() => tokens.push(Token::Sign(Sign::Unequal)),
            '<' if chars.next_if_eq(&'>').is_some() => tokens.push(Token::Sign(Sign::Unequal)),
            '<' => tokens.push(Token::Sign(if chars.next_if_eq(&'=').is_some() { Sign::AtMost } else { Sign::Less })),
            '>' => tokens.push(Token::Sign(if chars.next_if_eq(&'=').is_some() { Sign::AtLeast } else { Sign::More })),
            c if is_plain(c) || c == '`' => {
                let mut word = if c == '`' { quoted(&mut chars, '`')? } else { c.to_string() };
                while let Some(c) = chars.next_if(|c| is_plain(*c) || *c == '`' || *c == '"') {
                    match c {
                        '`' | '"' => word.push_str(&quoted(&mut chars, c)?),
                        c => word.push(c),
                    }
                }
                tokens.push(Token::Word(word));
            }
            c => return Err(expected(&c.to_string(), "this character has no meaning here")),
        }
    }
    Ok(tokens)
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || "_.-/:".contains(c)
}

/// Up to the closing quote; a doubled one stands for itself.
fn quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> Result<String, FilterError> {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        if c != quote {
            text.push(c);
        } else if chars.next_if_eq(&quote).is_some() {
            text.push(quote);
        } else {
            return Ok(text);
        }
    }
    Err(expected(&text.chars().take(40).collect::<String>(), "a quote is not closed"))
}

fn at(tokens: &[Token], what: &str) -> FilterError {
    let shown = match tokens.first() {
        Some(Token::Word(text) | Token::Text(text)) => text.chars().take(40).collect(),
        Some(token) => format!("{token:?}").to_lowercase(),
        None => "the end".to_owned(),
    };
    expected(&shown, what)
}

fn expected(at: &str, what: &str) -> FilterError {
    FilterError { at: at.to_owned(), expected: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(tags: &[(&str, &str)]) -> ModelVersion {
        ModelVersion {
            name: "rain".into(),
            version: "7".into(),
            creation_timestamp: 1_000,
            last_updated_timestamp: 2_000,
            user_id: String::new(),
            current_stage: "None",
            description: String::new(),
            source: "leeway://rain/1.0.0".into(),
            run_id: "r1".into(),
            status: "READY",
            status_message: String::new(),
            tags: tags.iter().map(|(k, v)| Tag { key: (*k).to_owned(), value: (*v).to_owned() }).collect(),
            run_link: String::new(),
            aliases: Vec::new(),
            number: 7,
            called: "1.0.0".into(),
        }
    }

    #[test]
    fn questions_of_mlflows_clients() {
        let v = version(&[("team", "vision"), ("a b", "x'y"), ("leeway.status", "published")]);
        let table = [
            ("", true),
            ("name = 'rain'", true),
            ("name='rain'", true),
            ("name == \"rain\"", true),
            ("name != 'rain'", false),
            ("attribute.name = 'rain' and run_id='r1'", true),
            ("name LIKE 'ra%'", true),
            ("name like '_ain'", true),
            ("name LIKE 'RA%'", false),
            ("name ILIKE 'RA%'", true),
            ("name LIKE '%a%i%n%'", true),
            ("name LIKE '%a%z'", false),
            ("name IN ('snow', 'rain')", true),
            ("name NOT IN ('snow', 'rain')", false),
            ("tags.team = 'vision' AND version_number > 6", true),
            ("version_number >= 8", false),
            ("version_number <> 8 AND creation_timestamp < 1001", true),
            ("tag.`a b` = 'x''y'", true),
            ("tags.\"a b\" = 'x''y'", true),
            ("tags.`leeway.status` = 'published'", true),
            ("tags.leeway.status = 'published'", true),
            ("tags.absent != 'x'", false),
            ("name = 'rain' AND tag.`mlflow.prompt.is_prompt` != 'true'", true),
            ("tag.`mlflow.prompt.is_prompt` = 'false'", true),
            ("tag.`mlflow.prompt.is_prompt` = 'true'", false),
            ("source_path LIKE 'leeway://%'", true),
        ];
        for (text, expected) in table {
            assert_eq!(Filter::of_versions(text).map(|f| f.takes_version(&v)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_what_is_expected() {
        for (text, says) in [
            ("name", "a comparison is expected"),
            ("name = rain", "text in quotes"),
            ("name = 'rain", "not closed"),
            ("colour = 'red'", "cannot be searched"),
            ("name = 'a' OR name = 'b'", "AND"),
            ("name = 'a' AND", "begins with"),
            ("version_number > 'x'", "number"),
            ("version_number LIKE '1'", "comparison is expected"),
            ("name IN ()", "list of texts"),
            ("name IN 'a'", "list of texts"),
            ("name > 'a'", "comparison is expected"),
            ("tags. = 'a'", "cannot be searched"),
            ("; DROP TABLE", "no meaning"),
        ] {
            let error = Filter::of_versions(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Filter::of_models("run_id = 'r1'").is_err(), "models have no run");
        let many = vec!["name = 'a'"; MAX_CLAUSES + 1].join(" AND ");
        assert!(Filter::of_versions(&many).unwrap_err().to_string().contains("more than"));
        assert!(Filter::of_versions(&"x".repeat(MAX_LENGTH + 1)).unwrap_err().to_string().contains("bound"));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let text = "a".repeat(5_000);
        let pattern = format!("{}b", "%a".repeat(1_900));
        assert!(!like(&text, &pattern));
        assert!(like(&text, &format!("{}%", "%a".repeat(1_900))));
    }
}
