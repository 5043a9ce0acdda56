//! Our own operators: what the engine lacks, and what it does slowly, wrongly or unsafely.
use tract_onnx::model::OnnxOpRegister;

mod dequantize;
mod scaler;
pub mod trees;
mod zipmap;

/// Put them into the engine's register, over its own where it has one.
pub fn register(register: &mut OnnxOpRegister) {
    register.insert("DequantizeLinear", dequantize::build);
    register.insert("Scaler", scaler::build);
    register.insert("TreeEnsembleClassifier", trees::classifier);
    register.insert("TreeEnsembleRegressor", trees::regressor);
    register.insert("ZipMap", zipmap::build);
}
