//! A Hugging Face model card: the YAML at the head of README.md. Pure.
use serde_json::Value;

use super::{Imported, yaml};

/// Results of a `model-index` that are read.
const MAX_RESULTS: usize = 64;
/// The longest title that is taken over.
const MAX_TITLE: usize = 200;
/// Keys that become tags as they are; everything of a card is about the whole repository, so none of it is signed.
const TAGS: [&str; 14] = [
    "license",
    "license_name",
    "license_link",
    "tags",
    "language",
    "pipeline_tag",
    "library_name",
    "datasets",
    "metrics",
    "base_model",
    "base_model_relation",
    "model_name",
    "thumbnail",
    "co2_eq_emissions",
];

/// From the text of the card.
pub(super) fn read(text: &str) -> Result<Imported, String> {
    let (head, body) = front(text)?;
    let document = yaml(head)?;
    let top = document.as_object().ok_or("what stands between its --- lines is no mapping")?;
    let mut imported = Imported::default();
    let heading = body.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default().trim();
    let title = document.get("model_name").and_then(Value::as_str).unwrap_or(heading);
    let title: String = title.chars().filter(|c| !c.is_control()).take(MAX_TITLE).collect();
    imported.reason =
        if title.is_empty() { "Imported from a model card.".to_owned() } else { format!("Imported from the model card of {title}.") };
    for key in TAGS {
        imported.tag_value(&format!("hf.{key}"), document.get(key).unwrap_or(&Value::Null));
    }
    // The one key that people look for wherever a model lies.
    imported.tag_value("license", document.get("license").unwrap_or(&Value::Null));
    for (key, why) in [
        ("datasets", "datasets are named without digests, so they are a tag and not lineage: --reference is what is signed"),
        ("base_model", "the model it was made from is named without a digest, so it is a tag and not the parent: --parent names one"),
    ] {
        if top.get(key).is_some_and(|v| !v.is_null()) {
            imported.left(format!("{key}: {why}"));
        }
    }
    results(&document, &mut imported);
    for key in top.keys().filter(|key| !TAGS.contains(&key.as_str()) && key.as_str() != "model-index") {
        imported.left(format!("{}: it has no place here", key.chars().take(60).collect::<String>()));
    }
    Ok(imported)
}

/// The YAML between the first two lines `---`, and what follows.
fn front(text: &str) -> Result<(&str, &str), String> {
    let missing = || "it has no YAML at its head, between two lines ---".to_owned();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rest = text.strip_prefix("---\n").or_else(|| text.strip_prefix("---\r\n")).ok_or_else(missing)?;
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Ok((rest.get(..at).unwrap_or_default(), rest.get(at + line.len()..).unwrap_or_default()));
        }
        at += line.len();
    }
    Err(missing())
}

/// Figures that the author reports, under names that say so: those measured here are named as they are.
fn results(document: &Value, imported: &mut Imported) {
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut seen = 0;
    for result in list(document, "model-index").iter().flat_map(|model| list(model, "results")) {
        for metric in list(&result, "metrics") {
            seen += 1;
            let name = metric.get("type").and_then(Value::as_str).unwrap_or_default();
            let plain: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).take(40).collect();
            let key = format!("reported_{plain}");
            let value = metric.get("value").and_then(Value::as_f64).filter(|v| v.is_finite());
            let is_new = !imported.metrics.iter().any(|(known, _)| *known == key);
            match value {
                Some(value) if !plain.is_empty() && is_new && seen <= MAX_RESULTS => imported.metrics.push((key, value)),
                _ if imported.left.len() < MAX_RESULTS => {
                    imported.left(format!("model-index: {plain}: only the first number of each metric is taken"))
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "---\nlicense: apache-2.0\ntags: [onnx, weather]\ndatasets:\n- noaa/bellevue\nbase_model: someone/rain-base\nmetrics: [accuracy]\nwidget: [{text: hello}]\nmodel-index:\n- name: rain\n  results:\n  - task: {type: tabular-classification}\n    dataset: {name: NOAA, type: noaa}\n    metrics:\n    - {type: accuracy, value: 0.84}\n    - {type: F1, value: 0.7}\n    - {type: accuracy, value: 0.5}\n---\n# Rain in Bellevue\n\nText.\n";

    #[test]
    fn a_card_becomes_tags_and_reported_metrics() {
        let read = read(CARD).unwrap();
        for (key, value) in [
            ("license", "apache-2.0"),
            ("hf.license", "apache-2.0"),
            ("hf.tags", "onnx,weather"),
            ("hf.base_model", "someone/rain-base"),
            ("hf.datasets", "noaa/bellevue"),
        ] {
            assert_eq!(read.tags.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert_eq!(read.metrics, [("reported_accuracy".to_owned(), 0.84), ("reported_f1".to_owned(), 0.7)]);
        assert_eq!(read.reason, "Imported from the model card of Rain in Bellevue.");
        for left in ["datasets: ", "base_model: ", "widget: ", "model-index: accuracy"] {
            assert!(read.left.iter().any(|l| l.starts_with(left)), "{left}: {:?}", read.left);
        }
        assert!(super::read(&CARD.replace('\n', "\r\n")).is_ok());
    }

    #[test]
    fn what_is_no_card_is_refused() {
        for text in ["# Title\n", "---\nlicense: mit\n", "", "---\n- a\n---\n", "---\na: &x 1\nb: *x\n---\n"] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert_eq!(read("---\n---\n").map(|r| r.tags.len()).unwrap_or(0), 0);
    }
}
