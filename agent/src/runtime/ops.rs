//! Our own operators: what the engine lacks, and what it does slowly, wrongly or unsafely.
//!
//! The numbers are onnxruntime's, which is what publishers compare with and what exporters are tested on; where the format is
//! vague or onnxruntime departs from it, onnxruntime is followed. Every operator that has attributes reads and checks them in
//! one function, which the pre-scan asks first: see [`check`].
use tract_onnx::model::OnnxOpRegister;

mod array_feature_extractor;
pub mod attributes;
mod binarizer;
mod cast;
mod dequantize;
mod elements;
mod feature_vectorizer;
mod imputer;
mod label_encoder;
mod linear;
mod log_sum_exp;
mod normalizer;
mod one_hot;
mod rows;
mod scaler;
mod scores;
mod svm;
#[cfg(test)]
mod tests;
pub mod trees;
mod zipmap;

use attributes::{Attributes, Refused};

/// Put them into the engine's register, over its own where it has one.
pub fn register(register: &mut OnnxOpRegister) {
    register.insert("ArrayFeatureExtractor", array_feature_extractor::build);
    register.insert("Binarizer", |_, node| rows::build::<binarizer::Binarizer>(node));
    register.insert("Cast", cast::build);
    register.insert("DequantizeLinear", dequantize::build);
    register.insert("FeatureVectorizer", feature_vectorizer::build);
    register.insert("Imputer", |_, node| elements::build::<imputer::Imputer>(node));
    register.insert("LabelEncoder", |_, node| elements::build::<label_encoder::LabelEncoder>(node));
    register.insert("LinearClassifier", |_, node| rows::build::<linear::Classifier>(node));
    register.insert("LinearRegressor", |_, node| rows::build::<linear::Regressor>(node));
    register.insert("Normalizer", |_, node| rows::build::<normalizer::Normalizer>(node));
    register.insert("OneHotEncoder", |_, node| elements::build::<one_hot::OneHotEncoder>(node));
    register.insert("ReduceLogSumExp", log_sum_exp::build);
    register.insert("SVMClassifier", |_, node| rows::build::<svm::Classifier>(node));
    register.insert("SVMRegressor", |_, node| rows::build::<svm::Regressor>(node));
    register.insert("Scaler", scaler::build);
    register.insert("TreeEnsembleClassifier", trees::classifier);
    register.insert("TreeEnsembleRegressor", trees::regressor);
    register.insert("ZipMap", zipmap::build);
}

/// Whether an operator of ours accepts its attributes; true of every other operator. Trees have their own question.
pub fn check(op: &str, node: &impl Attributes) -> Result<(), Refused> {
    fn row<K: rows::Kernel>(node: &impl Attributes) -> Result<(), Refused> {
        K::read(node).map(drop)
    }
    fn element<K: elements::Kernel>(node: &impl Attributes) -> Result<(), Refused> {
        K::read(node).map(drop)
    }
    match op {
        "Binarizer" => row::<binarizer::Binarizer>(node),
        "FeatureVectorizer" => feature_vectorizer::FeatureVectorizer::read(node).map(drop),
        "Imputer" => element::<imputer::Imputer>(node),
        "LabelEncoder" => element::<label_encoder::LabelEncoder>(node),
        "LinearClassifier" => row::<linear::Classifier>(node),
        "LinearRegressor" => row::<linear::Regressor>(node),
        "Normalizer" => row::<normalizer::Normalizer>(node),
        "OneHotEncoder" => element::<one_hot::OneHotEncoder>(node),
        "SVMClassifier" => row::<svm::Classifier>(node),
        "SVMRegressor" => row::<svm::Regressor>(node),
        _ => Ok(()),
    }
}
