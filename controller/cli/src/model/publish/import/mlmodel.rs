//! An `MLmodel` file with an onnx flavour: which file, what goes in and out, which run made it. Pure.
use serde_json::Value;

use super::{Imported, yaml};

/// Columns or tensors of a signature that are read.
const MAX_PORTS: usize = 4_096;
/// Dimensions of a tensor.
const MAX_RANK: usize = 16;
/// What is read elsewhere in this file, or says nothing about the model.
const KNOWN: [&str; 12] = [
    "flavors",
    "signature",
    "run_id",
    "metadata",
    "model_uuid",
    "model_id",
    "mlflow_version",
    "utc_time_created",
    "artifact_path",
    "model_size_bytes",
    "saved_input_example_info",
    "is_signature_from_type_hint",
];

/// From the text of the file, and of `requirements.txt` beside it.
pub(super) fn read(text: &str, requirements: &str) -> Result<Imported, String> {
    let document = yaml(text)?;
    let top = document.as_object().ok_or("it is not a mapping, so it is no MLmodel file")?;
    let onnx = document.pointer("/flavors/onnx").ok_or_else(|| {
        let flavours: Vec<String> =
            document.get("flavors").and_then(Value::as_object).map(|all| all.keys().take(8).cloned().collect()).unwrap_or_default();
        format!("there is no onnx flavour, only {}: export the model to ONNX, and save it with mlflow.onnx.save_model", flavours.join(", "))
    })?;
    let file = onnx.get("data").and_then(Value::as_str).ok_or("its onnx flavour does not name the model's file")?;
    let word = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut imported =
        Imported { onnx: Some(file.to_owned()), run: Some(word("run_id").to_owned()).filter(|run| !run.is_empty()), ..Imported::default() };
    imported.reason = match &imported.run {
        Some(run) => format!("Imported from an MLflow model of run {run}."),
        None => "Imported from an MLflow model.".to_owned(),
    };
    for key in ["run_id", "model_uuid", "model_id", "mlflow_version", "utc_time_created", "artifact_path"] {
        imported.tag_value(&format!("mlflow.{key}"), document.get(key).unwrap_or(&Value::Null));
    }
    imported.tag("mlflow.requirements", requirements.trim());
    for (key, value) in document.get("metadata").and_then(Value::as_object).into_iter().flatten() {
        imported.tag_value(&format!("mlflow.metadata.{key}"), value);
    }
    signature(&document, &mut imported);
    for (name, _) in document.get("flavors").and_then(Value::as_object).into_iter().flatten().filter(|(name, _)| *name != "onnx") {
        imported.left(format!("flavors.{name}: devices run the ONNX file alone"));
    }
    for (key, _) in onnx
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, v)| !v.is_null() && matches!(key.as_str(), "providers" | "onnx_session_options" | "code"))
    {
        imported.left(format!("flavors.onnx.{key}: devices run the model with their own runtime"));
    }
    for key in top.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
        imported.left(format!("{}: it has no place here", key.chars().take(60).collect::<String>()));
    }
    // MLflow's default: tensors of more than a kilobyte lie beside the file, and a device has that one file.
    if onnx.get("save_as_external_data").and_then(Value::as_bool) == Some(true) {
        imported.left("weights beside the ONNX file: if it is refused for them, save it again with save_as_external_data=False");
    }
    if document.get("saved_input_example_info").is_some_and(|v| !v.is_null()) {
        imported.left("saved_input_example_info: --golden takes inputs and outputs of the training framework");
    }
    Ok(imported)
}

/// A signature is JSON within YAML: columns become features in their order, sizes of tensors those that the file leaves open.
fn signature(document: &Value, imported: &mut Imported) {
    let part = |name: &str| -> Vec<Value> {
        let text = document.pointer(&format!("/signature/{name}")).and_then(Value::as_str).unwrap_or_default();
        let mut list: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        list.truncate(MAX_PORTS);
        list
    };
    let inputs = part("inputs");
    let name = |port: &Value| port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_tensor = |port: &Value| port.get("type").and_then(Value::as_str) == Some("tensor");
    if inputs.iter().all(|port| !is_tensor(port) && !name(port).is_empty()) {
        imported.features = inputs.iter().map(name).collect();
    }
    for port in inputs.iter().chain(&part("outputs")).filter(|port| is_tensor(port)) {
        let sizes = port.pointer("/tensor-spec/shape").and_then(Value::as_array).filter(|sizes| sizes.len() <= MAX_RANK);
        // One row at a time: the leading size is open. Any other that is open only the publisher knows.
        let size = |(at, n): (usize, &Value)| n.as_i64().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).or((at == 0).then_some(1));
        let whole = sizes.and_then(|sizes| sizes.iter().enumerate().map(size).collect::<Option<Vec<u64>>>());
        match whole {
            Some(sizes) if !name(port).is_empty() => imported.shapes.push((name(port), sizes)),
            _ => imported.left(format!(
                "signature: the sizes of tensor {:?} are open: give them with --shape",
                name(port).chars().take(60).collect::<String>()
            )),
        }
    }
    if document.pointer("/signature/params").is_some_and(|v| !v.is_null()) {
        imported.left("signature.params: a device's model takes no parameters");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABULAR: &str = r#"
artifact_path: model
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.19.1
    providers: [CPUExecutionProvider]
  python_function:
    loader_module: mlflow.onnx
metadata: {team: vision, epochs: 20}
mlflow_version: 3.17.2
model_uuid: 0123abcd
run_id: 8f0e
signature:
  inputs: '[{"type": "double", "name": "temp", "required": true}, {"type": "double", "name": "dew"}]'
  outputs: '[{"type": "tensor", "name": "p", "tensor-spec": {"dtype": "float32", "shape": [-1, 1]}}]'
  params: null
utc_time_created: '2026-11-01 08:00:00.000000'
from_the_future: 1
"#;

    #[test]
    fn a_tabular_model_of_mlflow() {
        let read = read(TABULAR, "onnx==1.19.1\n").unwrap();
        assert_eq!((read.onnx.as_deref(), read.run.as_deref()), (Some("model.onnx"), Some("8f0e")));
        assert_eq!((read.features, read.shapes), (vec!["temp".to_owned(), "dew".to_owned()], vec![("p".to_owned(), vec![1, 1])]));
        for (key, value) in [
            ("mlflow.run_id", "8f0e"),
            ("mlflow.requirements", "onnx==1.19.1"),
            ("mlflow.metadata.epochs", "20"),
            ("mlflow.model_uuid", "0123abcd"),
        ] {
            assert_eq!(read.tags.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(read.reason.contains("run 8f0e"));
        for left in ["flavors.python_function", "flavors.onnx.providers", "from_the_future"] {
            assert!(read.left.iter().any(|l| l.starts_with(left)), "{left}: {:?}", read.left);
        }
    }

    #[test]
    fn tensors_with_open_sizes_are_left_to_the_publisher() {
        let text = r#"{flavors: {onnx: {data: model.onnx}}, signature: {inputs: '[{"type":"tensor","name":"image","tensor-spec":{"dtype":"float32","shape":[-1,3,-1,-1]}},{"type":"tensor","name":"x","tensor-spec":{"dtype":"float32","shape":[-1,8]}}]'}}"#;
        let read = read(text, "").unwrap();
        assert_eq!(read.shapes, [("x".to_owned(), vec![1, 8])]);
        assert!(read.left.iter().any(|l| l.contains("\"image\"") && l.contains("--shape")), "{:?}", read.left);
        assert!(read.features.is_empty());
    }

    #[test]
    fn what_is_no_onnx_model_is_refused_with_the_remedy() {
        for (text, says) in [
            ("flavors: {sklearn: {pickled_model: model.pkl}}", "only sklearn: export"),
            ("flavors: {onnx: {}}", "does not name"),
            ("just text", "no MLmodel"),
            ("a: &x [1]\nb: *x", ""),
        ] {
            let problem = read(text, "").unwrap_err();
            assert!(problem.contains(says), "{text}: {problem}");
        }
        let odd = read("{flavors: {onnx: {data: m.onnx}}, signature: {inputs: 'not json'}}", "").unwrap();
        assert!(odd.features.is_empty() && odd.shapes.is_empty());
        let outside = read("{flavors: {onnx: {data: m.onnx, save_as_external_data: true}}}", "").unwrap();
        assert!(outside.left.iter().any(|l| l.contains("save_as_external_data=False")));
    }
}
