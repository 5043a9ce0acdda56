//! `leeway model inspect`: what an ONNX file needs, asked of the runner in a child, and the same for `publish`.
use std::path::Path;
use std::process::{Command, Stdio};

use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::words;
use leeway_protocol::tensor::{DType, TensorSpec};
use serde::Deserialize;
use serde_json::Value;

use crate::context::Context;
use crate::failure::{During, Failure, Outcome};
use crate::output::{self, facts, put};

/// What the runner says of a file.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Described {
    /// Digest of the file.
    pub digest: String,
    /// Its length.
    pub length: u64,
    /// What made it.
    #[serde(default)]
    pub producer: String,
    /// Operator sets.
    #[serde(default)]
    pub opset: Value,
    /// Numbers in its weights.
    #[serde(default)]
    pub parameters: u64,
    /// Nodes.
    #[serde(default)]
    pub nodes: u64,
    /// Operators and how often each.
    #[serde(default)]
    pub operators: Value,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
}

/// An input or output as the file declares it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Port {
    /// Its name.
    pub name: String,
    /// The Open Inference Protocol's type name; absent for types the runtime does not serve.
    pub datatype: Option<String>,
    /// Its sizes, −1 for unknown ones; absent if the file does not say.
    pub shape: Option<Vec<i64>>,
}

impl Port {
    /// Concrete sizes and type: unknown leading sizes are 1 (one row at a time), others must be `given`.
    pub(super) fn spec(&self, given: Option<&[u64]>) -> Outcome<TensorSpec> {
        let unsupported = || {
            Failure::new(format!("{:?} has a type this runtime does not serve", self.name))
                .code(2)
                .help("devices serve tensors of numbers: export a scikit-learn model with options={'zipmap': False}")
        };
        let wanted = self.datatype.as_deref().ok_or_else(unsupported)?;
        if wanted == "BYTES" {
            return Err(Failure::new(format!("{:?} holds text, and a device's tensors hold numbers", self.name)).code(2).help(
                "encode categories as integers before training; for a classifier of named classes, train on their numbers or export with options={'nocl': True}, and the label is the name's place",
            ));
        }
        let types = [DType::F32, DType::I8, DType::U8, DType::I32, DType::I64, DType::Bool];
        let dtype = types.into_iter().find(|t| t.oip() == wanted).ok_or_else(unsupported)?;
        let shape = match (given, &self.shape) {
            (Some(given), _) => given.to_vec(),
            (None, Some(sizes)) => sizes
                .iter()
                .enumerate()
                .map(|(i, &n)| u64::try_from(n).ok().filter(|&n| n > 0).or((i == 0).then_some(1)))
                .collect::<Option<Vec<_>>>()
                .unwrap_or_default(),
            (None, None) => Vec::new(),
        };
        let spec = TensorSpec { name: self.name.clone(), dtype, shape };
        let open = self.shape.as_ref().is_none_or(|s| s.iter().skip(1).any(|&n| n < 1));
        if (open && given.is_none()) || spec.elements().is_none() {
            return Err(Failure::new(format!("the file does not say how large {:?} is", self.name))
                .code(2)
                .help(format!("give its sizes with --shape {}=1,…", self.name)));
        }
        Ok(spec)
    }

    fn text(&self) -> String {
        let sizes = self.shape.as_ref().map_or_else(
            || "?".to_owned(),
            |s| s.iter().map(|n| if *n < 0 { "?".to_owned() } else { n.to_string() }).collect::<Vec<_>>().join(","),
        );
        format!("{}: {}[{sizes}]", self.name, self.datatype.as_deref().unwrap_or("unsupported type"))
    }
}

/// Run the runner's `tool`; its output, and whether it said yes.
pub(super) fn runner(tool: &str, options: &[(&str, &Path)]) -> Outcome<(Vec<u8>, bool)> {
    let program = std::env::current_exe().during("finding this program")?;
    let mut command = Command::new(program);
    command.arg("runner").arg(tool);
    for (name, path) in options {
        command.arg(name).arg(path);
    }
    let done = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().during("starting the model runner")?;
    match done.status.code() {
        Some(0) => Ok((done.stdout, true)),
        Some(1) => Ok((done.stdout, false)),
        _ => {
            let said = String::from_utf8_lossy(&done.stderr);
            let last = said.trim().lines().last().unwrap_or("it said nothing").to_owned();
            Err(Failure::new(format!("the model made the runner end ({}): {last}", done.status)))
        }
    }
}

/// What the runner refuses, in its own sentence.
pub(super) fn refusal(onnx: &Path, answer: &[u8]) -> Failure {
    let value: Value = serde_json::from_slice(answer).unwrap_or_default();
    let said = value.get("sentence").and_then(Value::as_str).unwrap_or("the runner refused the model without saying why");
    let failure = Failure::new(format!("{}: {said}", onnx.display())).code(3);
    if value.pointer("/reason/code").and_then(Value::as_str) == Some("golden-mismatch") {
        return failure.help(
            "the devices' runtime computes something else than the golden vectors say: export a quantised model again without quantising Softmax \
             (op_types_to_quantize) or publish it unquantised, try another opset, or widen rtol and atol in --golden if the difference is rounding",
        );
    }
    failure
}

/// Ask the runner about a file.
pub(super) fn describe(onnx: &Path) -> Outcome<Described> {
    std::fs::metadata(onnx).during(format!("reading {}", onnx.display()))?;
    let (answer, yes) = runner("describe", &[("--model", onnx)])?;
    if !yes {
        return Err(refusal(onnx, &answer));
    }
    serde_json::from_slice(&answer).during("reading the runner's description")
}

/// Run `leeway model inspect`.
pub(super) fn run(onnx: &Path, context: &Context) -> Outcome {
    let d = describe(onnx)?;
    let counted = |value: &Value| match value {
        Value::Object(map) => map.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    if context.json {
        let ports = |ports: &[Port]| {
            ports.iter().map(|p| serde_json::json!({ "name": p.name, "datatype": p.datatype, "shape": p.shape })).collect::<Vec<_>>()
        };
        return output::json(&serde_json::json!({
            "digest": d.digest, "length": d.length, "producer": d.producer, "opset": d.opset, "nodes": d.nodes, "parameters": d.parameters,
            "operators": d.operators, "inputs": ports(&d.inputs), "outputs": ports(&d.outputs),
        }));
    }
    let style = &context.style;
    put!(
        "{}",
        facts(
            style,
            &[
                ("File", format!("{}  {}", onnx.display(), style.state(Level::Ok, "devices can read it"))),
                ("Digest", d.digest.clone()),
                ("Size", words::bytes(d.length)),
                ("Made by", d.producer.clone()),
                ("Operator sets", counted(&d.opset)),
                ("Nodes", format!("{}, {} parameters", d.nodes, words::count(d.parameters))),
                ("Operators", counted(&d.operators)),
                ("Inputs", d.inputs.iter().map(Port::text).collect::<Vec<_>>().join("\n           ")),
                ("Outputs", d.outputs.iter().map(Port::text).collect::<Vec<_>>().join("\n           ")),
            ]
        )
    );
    eprintln!("help: `leeway model publish` tries it out with its reference data before anything is signed");
    Ok(())
}
