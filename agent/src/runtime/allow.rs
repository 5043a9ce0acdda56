//! The operators this runtime runs, by domain: what the engine registers (tract 0.23.9) plus our own, minus what draws chance.
//!
//! The engine looks operators up by name alone and ignores the domain, so a foreign operator that shares a name would run as
//! something else; here the pair counts. Left out on purpose: the random operators (an output must be a function of the
//! inputs, else golden vectors prove nothing) and everything the engine does not know, which it would refuse later and less
//! clearly.

/// The standard operator set.
const STANDARD: &str = "
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot
    BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvInteger
    ConvTranspose Cos Cosh CumSum DFT DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp
    Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
    Greater GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization
    MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul Neg NonMaxSuppression
    NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign
    SimplifiedLayerNormalization Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan
    Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
";

/// Classical machine learning: all our own but CategoryMapper, whose texts can only be inside a model.
const ML: &str = "
    ArrayFeatureExtractor Binarizer CategoryMapper FeatureVectorizer Imputer LabelEncoder LinearClassifier LinearRegressor
    Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsembleClassifier TreeEnsembleRegressor ZipMap
";

/// onnxruntime's contributed operators.
const MICROSOFT: &str = "
    BiasGelu FastGelu GatherBlockQuantized Gelu MatMulNBits QuickGelu RotaryEmbedding SimplifiedLayerNormalization
    SkipLayerNormalization SkipSimplifiedLayerNormalization
";

/// Domains, the versions this runtime reads of them, and their operators.
const DOMAINS: &[(&str, std::ops::RangeInclusive<i64>, &str)] = &[
    // The engine is tested on 9 to 18; exporters write up to 22 for the same operators, and golden vectors prove each model.
    ("", 7..=22, STANDARD),
    ("ai.onnx", 7..=22, STANDARD),
    ("ai.onnx.ml", 1..=5, ML),
    ("com.microsoft", 1..=1, MICROSOFT),
];

/// Whether an operator may run.
pub fn is_allowed(domain: &str, op: &str) -> bool {
    DOMAINS.iter().any(|(name, _, ops)| *name == domain && ops.split_whitespace().any(|known| known == op))
}

/// The versions of a domain this runtime reads, or `None` for a foreign one.
pub fn versions(domain: &str) -> Option<std::ops::RangeInclusive<i64>> {
    DOMAINS.iter().find(|(name, ..)| *name == domain).map(|(_, versions, _)| versions.clone())
}

/// The standard domain has two names.
pub fn is_standard(domain: &str) -> bool {
    domain.is_empty() || domain == "ai.onnx"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_counts_and_the_engine_knows_every_name() {
        assert!(is_allowed("", "Conv") && is_allowed("ai.onnx.ml", "Scaler"));
        assert!(
            !is_allowed("evil.example", "Conv") && !is_allowed("", "Scaler") && !is_allowed("", "RandomNormal") && !is_allowed("", "Loop")
        );
        let onnx = crate::runtime::recipe::framework();
        for (domain, _, ops) in DOMAINS {
            for op in ops.split_whitespace() {
                assert!(onnx.op_register.0.contains_key(op), "{domain}:{op} is allowed but cannot run");
            }
        }
    }
}
