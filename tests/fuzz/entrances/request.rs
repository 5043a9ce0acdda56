//! The body of an application's request for an inference.
use std::sync::OnceLock;

use leeway_agent::io::runner::judge_request;
use leeway_protocol::manifest::{Blob, Calibration, Decision, Golden, Limits, Lineage, Manifest, StateLink};
use leeway_protocol::profile::Reference;
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;

fn manifest() -> &'static Manifest {
    static MANIFEST: OnceLock<Manifest> = OnceLock::new();
    MANIFEST.get_or_init(|| {
        let spec = |name: &str, dtype: DType, shape: &[u64]| TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() };
        Manifest {
            v: 1,
            line: "rain".parse().expect("a line"),
            version: "1".parse().expect("a version"),
            seq: 1,
            model: Blob::of(b"model"),
            inputs: vec![spec("x", DType::F32, &[1, 2]), spec("n", DType::I64, &[1]), spec("h", DType::F32, &[1, 1])],
            outputs: vec![spec("y", DType::F32, &[1, 1]), spec("h2", DType::F32, &[1, 1])],
            state: vec![StateLink { input: "h".to_owned(), output: "h2".to_owned() }],
            constants: vec![Tensor::f32("c", &[1], &[1.0])],
            redact: Default::default(),
            decision: Decision::None,
            reference: Reference::default(),
            calibration: Calibration::default(),
            golden: Golden { rtol: 1e-3, atol: 1e-4, vectors: vec![] },
            limits: Limits::default(),
            lineage: Lineage::default(),
            created_at: Timestamp::from_secs(1),
        }
    })
}

/// A request is taken or refused with a sentence, and what is taken fits the model: one tensor for each free input.
pub fn enter(bytes: &[u8]) {
    match judge_request(bytes, manifest()) {
        Ok(inputs) => {
            assert_eq!(inputs.len(), 2);
            for (tensor, (_, spec)) in inputs.iter().zip(manifest().free_inputs()) {
                assert_eq!(tensor.spec(), *spec);
                assert_eq!(Some(tensor.to_f64().len()), spec.elements());
            }
        }
        Err(sentence) => assert!(!sentence.is_empty() && sentence.len() < 4_096, "{} bytes of answer", sentence.len()),
    }
}

/// What honest requests look like.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let plain = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.5,-2e3]},{"name":"n","shape":[1],"datatype":"INT64","data":[7]}]}"#;
    let full = r#"{"id":"order-17","parameters":{"data_time":"1950-01-02T00:00:00Z"},"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[[null,"NaN"]]},{"name":"n","shape":[1],"datatype":"INT64","data":[9007199254740993]}],"outputs":[{"name":"h2"}]}"#;
    vec![("plain.json".to_owned(), plain.into()), ("full.json".to_owned(), full.into())]
}
