//! How things look on a terminal: signs, colours, tables. Data goes to standard output, everything else to standard error.
//!
//! A state is always sign and word; colour only repeats it. With `LANG=C` or `TERM=dumb` everything is plain ASCII. What stays
//! true: rendering is a pure function of a value, a moment and a style, so that it can be tested as text.
use leeway_controller::io::web::resource::Level;
use leeway_protocol::time::Timestamp;
use serde::Serialize;

use crate::failure::{During, Outcome};

/// Columns where nothing says how many there are.
const DEFAULT_COLUMNS: usize = 100;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// With colours.
    pub color: bool,
    /// Signs and lines beyond ASCII.
    pub unicode: bool,
    /// Width.
    pub columns: usize,
    /// Whether a person watches.
    pub terminal: bool,
}

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Standard output is a terminal.
    pub terminal: bool,
    /// Colours were asked not to be used.
    pub no_color: bool,
    /// `TERM`.
    pub term: Option<String>,
    /// The locale.
    pub locale: Option<String>,
    /// `COLUMNS`.
    pub columns: Option<usize>,
}

impl Style {
    /// Decide.
    pub fn of(asked: &Asked) -> Self {
        let dumb = asked.term.as_deref() == Some("dumb");
        let plain = matches!(asked.locale.as_deref(), Some("C" | "POSIX"));
        Self {
            color: asked.terminal && !asked.no_color && !dumb,
            unicode: !dumb && !plain,
            columns: asked.columns.unwrap_or(DEFAULT_COLUMNS).clamp(60, 200),
            terminal: asked.terminal && !dumb,
        }
    }

    /// The sign of a level.
    pub fn sign(&self, level: Level) -> &'static str {
        match (level, self.unicode) {
            (Level::Idle, true) => "•",
            (Level::Ok, true) => "✔",
            (Level::Busy, true) => "◌",
            (Level::Warn, true) => "॥",
            (Level::Bad, true) => "✖",
            (Level::Idle, false) => ".",
            (Level::Ok, false) => "+",
            (Level::Busy, false) => "o",
            (Level::Warn, false) => "!",
            (Level::Bad, false) => "x",
        }
    }

    /// Sign and word.
    pub fn state(&self, level: Level, word: &str) -> String {
        self.tint(level, &format!("{} {}", self.sign(level), word.replace('_', " ")))
    }

    /// In a level's colour.
    pub fn tint(&self, level: Level, text: &str) -> String {
        let code = match level {
            Level::Idle => "2",
            Level::Ok => "32",
            Level::Busy => "36",
            Level::Warn => "33",
            Level::Bad => "31",
        };
        self.ansi(code, text)
    }

    /// Stronger.
    pub fn bold(&self, text: &str) -> String {
        self.ansi("1", text)
    }

    /// Weaker.
    pub fn dim(&self, text: &str) -> String {
        self.ansi("2", text)
    }

    fn ansi(&self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Text as this terminal can show it: narrow spaces become plain ones; without Unicode, signs have a spelling.
    pub fn plain(&self, text: &str) -> String {
        let text = text.replace('\u{202f}', " ");
        if self.unicode {
            return text;
        }
        let spelt = [("→", "->"), ("−", "-"), ("–", "-"), ("µ", "u"), ("±", "+-"), ("≥", ">="), ("≤", "<="), ("…", "...")];
        let text = spelt.iter().fold(text, |text, (from, to)| text.replace(from, to));
        text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
    }
}

/// Characters that take room, without colours.
pub fn width(text: &str) -> usize {
    let mut visible = 0;
    let mut escape = false;
    for c in text.chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (true, 'm') => escape = false,
            (false, _) => visible += 1,
            (true, _) => {}
        }
    }
    visible
}

/// Padded to a width.
pub fn pad(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(width(text))))
}

/// Columns of which each is as wide as its widest cell; the last is not padded.
pub fn table(style: &Style, head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| style.plain(cell)).collect()).collect();
    let column = |i: usize| {
        rows.iter().filter_map(|row| row.get(i)).map(|c| width(c)).chain([head.get(i).map_or(0, |h| h.len())]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(column).collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .enumerate()
            .map(|(i, c)| if i + 1 == head.len() { c.clone() } else { pad(c, widths.get(i).copied().unwrap_or(0)) });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let top: Vec<String> = head.iter().map(|h| style.dim(h)).collect();
    std::iter::once(line(&top)).chain(rows.iter().map(|r| line(r))).map(|l| l + "\n").collect()
}

/// Names and values under each other.
pub fn facts(style: &Style, pairs: &[(&str, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{}  {}\n", style.dim(&pad(name, widest)), style.plain(value)))
        .collect()
}

/// Lines of at most `columns` characters, all but the first indented.
pub fn wrap(text: &str, columns: usize, indent: usize) -> String {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let room = columns.saturating_sub(indent).max(20);
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if width(line) + 1 + width(word) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

/// Write to standard output. A reader that has gone away (`| head`) ends the program quietly, as people expect of a tool.
pub fn write(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let Err(error) = std::io::stdout().lock().write_fmt(text) else { return };
    if error.kind() != std::io::ErrorKind::BrokenPipe {
        eprintln!("error: standard output cannot be written: {error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// `print!` that survives a closed pipe.
macro_rules! put {
    ($($text:tt)*) => { $crate::output::write(format_args!($($text)*)) };
}

/// `println!` that survives a closed pipe.
macro_rules! putln {
    ($($text:tt)*) => {{
        $crate::output::write(format_args!($($text)*));
        $crate::output::write(format_args!("\n"));
    }};
}

pub(crate) use {put, putln};

/// Print one JSON document.
pub fn json(value: &impl Serialize) -> Outcome {
    putln!("{}", serde_json::to_string_pretty(value).during("writing JSON")?);
    Ok(())
}

/// Print one JSON document on one line.
pub fn json_line(value: &impl Serialize) -> Outcome {
    putln!("{}", serde_json::to_string(value).during("writing JSON")?);
    Ok(())
}

/// Now, for relative times.
pub fn now() -> Timestamp {
    leeway_controller::io::clock::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) const PLAIN: Style = Style { color: false, unicode: true, columns: 100, terminal: false };

    #[test]
    fn tables_line_up_whatever_the_colours() {
        let style = Style { color: true, ..PLAIN };
        let rows = vec![vec![style.state(Level::Ok, "serving"), "a".into()], vec![style.state(Level::Bad, "x"), "b\u{202f}c".into()]];
        let text = table(&style, &["STATE", "NAME"], &rows);
        let starts: Vec<usize> = text.lines().map(|l| width(l) - l.split("  ").last().map_or(0, width)).collect();
        assert!(starts.windows(2).all(|w| w[0] == w[1]), "{text}");
        assert!(text.contains("b c"));
    }

    #[test]
    fn a_dumb_terminal_gets_ascii_and_no_colour() {
        let asked = Asked { terminal: true, term: Some("dumb".into()), ..Asked::default() };
        let style = Style::of(&asked);
        assert!(!style.color && !style.unicode && !style.terminal);
        assert!(style.plain("1.0.0 → 1.1.0 −2 µs ≥ é").is_ascii());
        assert!(!Style::of(&Asked { locale: Some("C".into()), ..Asked::default() }).unicode);
        assert!(Style::of(&Asked { terminal: true, locale: Some("de_DE.UTF-8".into()), ..Asked::default() }).color);
        assert!(!Style::of(&Asked { terminal: true, no_color: true, ..Asked::default() }).color);
    }

    #[test]
    fn long_sentences_wrap_under_themselves() {
        assert_eq!(wrap("aaa bbb ccc ddd eee fff", 24, 4), "aaa bbb ccc ddd eee\n    fff");
    }
}
