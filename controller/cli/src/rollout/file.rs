//! Rollouts' files on the disk: YAML or JSON, several documents in one file, every mistake named with its file.
use std::path::Path;

use leeway_controller::io::web::resource::rollout::CreateRollout;
use leeway_controller::rollout::file::{RolloutFile, read as read_document};
use serde_json::Value;

use crate::failure::{During, Failure, Outcome};

/// The largest file that is read: a rollout of 32 stages has some 10 KB.
const MAX_BYTES: u64 = 1 << 20;

/// Every rollout of a file.
pub fn read(path: &Path) -> Outcome<Vec<RolloutFile>> {
    let length = std::fs::metadata(path).during(format!("reading {}", path.display()))?.len();
    if length > MAX_BYTES {
        return Err(Failure::new(format!("{}: {length} bytes are more than a rollout's file has ({MAX_BYTES})", path.display())).code(2));
    }
    let text = std::fs::read_to_string(path).during(format!("reading {}", path.display()))?;
    parse(&text, path.extension().is_some_and(|e| e == "json")).map_err(|problem| {
        let lines: Vec<String> = problem.lines().map(|line| format!("{}: {line}", path.display())).collect();
        Failure::new(lines.join("\n")).code(2).help("`leeway rollout schema` describes the file")
    })
}

fn parse(text: &str, json: bool) -> Result<Vec<RolloutFile>, String> {
    let documents: Vec<Value> = if json {
        vec![serde_json::from_str(text).map_err(|e| e.to_string())?]
    } else {
        serde_saphyr::from_multiple(text).map_err(|e| e.to_string())?
    };
    let (mut found, mut mistakes) = (Vec::new(), Vec::new());
    for (number, document) in documents.iter().filter(|document| !document.is_null()).enumerate() {
        match read_document(document) {
            Ok(file) => found.push(file),
            Err(wrong) if documents.len() == 1 => mistakes.extend(wrong.iter().map(ToString::to_string)),
            Err(wrong) => mistakes.extend(wrong.iter().map(|mistake| format!("document {}: {mistake}", number + 1))),
        }
    }
    match (mistakes.is_empty(), found.is_empty()) {
        (true, false) => Ok(found),
        (true, true) => Err("there is no rollout in it".to_owned()),
        _ => Err(mistakes.join("\n")),
    }
}

/// What the API is asked for.
pub fn request(file: &RolloutFile) -> Outcome<CreateRollout> {
    Ok(CreateRollout {
        line: file.line.to_string(),
        version: file.version.to_string(),
        id: Some(file.name.to_string()),
        policy: file.policy.as_ref().map(serde_json::to_value).transpose().during("writing the policy")?,
        reason: file.reason.clone(),
        force: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "apiVersion: leeway/v1\nkind: Rollout\nmetadata: {name: rain-2}\nspec: {line: rain, version: '2'}\n";

    #[test]
    fn yaml_and_json_say_the_same_and_one_file_may_hold_several() {
        let json = r#"{"apiVersion":"leeway/v1","kind":"Rollout","metadata":{"name":"rain-2"},"spec":{"line":"rain","version":"2"}}"#;
        assert_eq!(parse(ONE, false).unwrap(), parse(json, true).unwrap());
        let two = format!("{ONE}---\n{}", ONE.replace("rain-2", "rain-3"));
        assert_eq!(parse(&two, false).unwrap().len(), 2);
    }

    #[test]
    fn mistakes_have_their_place() {
        let table = [
            (ONE.replace("version: '2'", "version: 2"), "spec.version: must be a text, but it is 2: put it in quotes"),
            (ONE.replace("line: rain", "lien: rain"), "spec.lien: there is no such key; did you mean \"line\"?"),
            (format!("{ONE}---\n{}", ONE.replace("Rollout", "Rolout")), "document 2: kind: must be"),
            ("a: [1".to_owned(), "line 1"),
            (String::new(), "there is no rollout in it"),
        ];
        for (text, expected) in table {
            let problem = parse(&text, false).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn every_example_is_what_the_schema_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/rollouts");
        let mut read_files = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            assert!(!read(&path).unwrap_or_else(|e| panic!("{e}")).is_empty());
            read_files += 1;
        }
        assert!(read_files >= 3, "{read_files} examples in {}", folder.display());
    }
}
