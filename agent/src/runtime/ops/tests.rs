//! Each operator's numbers on the rows where engines differ, what each refuses, and whole graphs of those that are graphs.
use leeway_protocol::manifest::{Decision, GoldenVector};
use leeway_protocol::tensor::{DType, Tensor as Wire, TensorSpec};
use prost::Message as _;
use tract_onnx::prelude::Tensor as Native;

use super::elements::Kernel as _;
use super::rows::Kernel as _;
use super::{binarizer, check, imputer, label_encoder, linear, normalizer, one_hot};
use crate::runtime::onnx::{Attribute, Graph, Node, Tensor, element, kind};
use crate::runtime::samples::{float, floats, int, ints, manifest, ml, model, node, spec, text, texts, value, weights, with};
use crate::runtime::{Limits, Plan, prescan};

fn of(op: &str, attributes: Vec<Attribute>) -> Node {
    Node { attribute: attributes, ..ml(node(op, &["x"], &["y"])) }
}

fn row<K: super::rows::Kernel>(n: &Node, row: &[f32]) -> (i64, Vec<f32>) {
    let mut out = Vec::new();
    let label = K::read(n).unwrap().run(row, &mut out).unwrap();
    (label, out)
}

#[test]
fn normalizers_leave_zeros_and_take_the_largest_value_for_the_largest_magnitude() {
    let table: [(&str, [f32; 3], [f32; 3]); 6] = [
        ("MAX", [-4.0, 2.0, 1.0], [-2.0, 1.0, 0.5]),
        ("MAX", [-4.0, -2.0, -1.0], [4.0, 2.0, 1.0]),
        ("L1", [-2.0, 1.0, 1.0], [-0.5, 0.25, 0.25]),
        ("L2", [-3.0, 0.0, 4.0], [-0.6, 0.0, 0.8]),
        ("L2", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ("L1", [0.0, -0.0, 0.0], [0.0, 0.0, 0.0]),
    ];
    for (norm, x, want) in table {
        let (_, got) = row::<normalizer::Normalizer>(&of("Normalizer", vec![text("norm", norm)]), &x);
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{norm} of {x:?}: {got:?}");
    }
}

#[test]
fn a_lone_score_of_two_classes_is_shown_as_onnxruntime_shows_it() {
    let line = |post: &str, labels: &[i64]| {
        of(
            "LinearClassifier",
            vec![
                floats("coefficients", &[1.0, -1.0]),
                floats("intercepts", &[0.25]),
                ints("classlabels_ints", labels),
                text("post_transform", post),
            ],
        )
    };
    for post in ["NONE", "SOFTMAX"] {
        assert_eq!(row::<linear::Classifier>(&line(post, &[3, 7]), &[1.0, 0.5]), (7, vec![0.25, 0.75]), "{post}");
        assert_eq!(row::<linear::Classifier>(&line(post, &[3, 7]), &[0.0, 1.0]).0, 3, "{post}");
    }
    let (label, p) = row::<linear::Classifier>(&line("LOGISTIC", &[3, 7]), &[1.0, 0.5]);
    assert!(label == 7 && (p[1] - 0.679_178_7).abs() < 1e-6 && (p[0] + p[1] - 1.0).abs() < 1e-6, "{p:?}");
    let three = of(
        "LinearClassifier",
        vec![floats("coefficients", &[1.0, 2.0, 2.0]), floats("intercepts", &[0.0; 3]), ints("classlabels_ints", &[4, 5, 6])],
    );
    assert_eq!(row::<linear::Classifier>(&three, &[1.0]), (5, vec![1.0, 2.0, 2.0]), "the first of equals");
    assert_eq!(row::<linear::Classifier>(&three, &[f32::NAN]).0, 4, "a gap is never larger");
    let two = of("LinearRegressor", vec![floats("coefficients", &[1.0, 2.0, 3.0, 4.0]), int("targets", 2)]);
    assert_eq!(row::<linear::Regressor>(&two, &[1.0, 10.0]).1, [21.0, 43.0]);
}

#[test]
fn a_gap_has_no_side_of_a_threshold() {
    let n = of("Binarizer", vec![float("threshold", 0.5)]);
    assert_eq!(row::<binarizer::Binarizer>(&n, &[0.5, 0.6, -1.0]).1, [0.0, 1.0, 0.0]);
    let error = binarizer::Binarizer::read(&n).unwrap().run(&[f32::NAN], &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("imputer"), "{error}");
}

fn native(shape: &[usize], values: &[f32]) -> Native {
    Native::from_shape(shape, values).unwrap()
}

fn f32s(tensor: &Native) -> Vec<f32> {
    tensor.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec()
}

#[test]
fn gaps_and_chosen_values_are_filled_by_feature() {
    let by = floats("imputed_value_floats", &[1.0, 2.0]);
    let gaps = imputer::Imputer::read(&of("Imputer", vec![by.clone(), float("replaced_value_float", f32::NAN)])).unwrap();
    let x = native(&[2, 2], &[f32::NAN, 5.0, 6.0, f32::NAN]);
    assert_eq!(f32s(&gaps.run(&x).unwrap()), [1.0, 5.0, 6.0, 2.0]);
    let nines = imputer::Imputer::read(&of("Imputer", vec![by, float("replaced_value_float", 9.0)])).unwrap();
    assert_eq!(f32s(&nines.run(&native(&[1, 2], &[9.0, 9.0])).unwrap()), [1.0, 2.0]);
    assert!(f32s(&nines.run(&native(&[1, 2], &[f32::NAN, 0.0])).unwrap())[0].is_nan());
    assert!(gaps.shape(&[4usize, 3]).is_err(), "two values for three features");
}

#[test]
fn labels_are_looked_up_and_others_get_the_default() {
    let table = vec![floats("keys_floats", &[0.0, 1.5, 1.5]), floats("values_floats", &[10.0, 20.0, 30.0]), float("default_float", -7.0)];
    let encoder = label_encoder::LabelEncoder::read(&of("LabelEncoder", table)).unwrap();
    let got = f32s(&encoder.run(&native(&[4], &[-0.0, 1.5, 2.0, f32::NAN])).unwrap());
    assert_eq!(got, [10.0, 20.0, -7.0, -7.0], "both zeros, the first of equal keys, the default");
    let integers =
        label_encoder::LabelEncoder::read(&of("LabelEncoder", vec![ints("keys_int64s", &[5]), ints("values_int64s", &[50])])).unwrap();
    let got = integers.run(&Native::from_shape(&[2], &[5i64, 6]).unwrap()).unwrap();
    assert_eq!(got.try_as_plain_ram().unwrap().as_slice::<i64>().unwrap(), [50, -1]);
}

#[test]
fn a_category_never_seen_is_a_row_of_zeros_or_no_answer() {
    let categories = ints("cats_int64s", &[0, 20]);
    let ignoring = one_hot::OneHotEncoder::read(&of("OneHotEncoder", vec![categories.clone()])).unwrap();
    let x = native(&[1, 4], &[20.0, 0.0, 7.0, f32::NAN]);
    assert_eq!(f32s(&ignoring.run(&x).unwrap()), [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], "a gap is not category 0");
    let strict = one_hot::OneHotEncoder::read(&of("OneHotEncoder", vec![categories, int("zeros", 0)])).unwrap();
    assert!(strict.run(&x).unwrap_err().to_string().contains("7 is not among"));
    assert!(ignoring.shape(&[1usize << 20, 1 << 20]).is_err(), "more elements than a device holds");
}

#[test]
fn crafted_attributes_are_refused_before_the_engine_sees_them() {
    let table: Vec<(&str, Node)> = vec![
        ("norm is not", of("Normalizer", vec![text("norm", "L7")])),
        (
            "intercepts are missing",
            of("LinearClassifier", vec![floats("coefficients", &[1.0]), ints("classlabels_ints", &[1])]).with_intercepts(0),
        ),
        (
            "lines for 2 targets",
            of("LinearClassifier", vec![floats("coefficients", &[1.0]), ints("classlabels_ints", &[1, 2])]).with_intercepts(2),
        ),
        (
            "3 class labels for 2",
            of("LinearClassifier", vec![floats("coefficients", &[1.0; 2]), ints("classlabels_ints", &[1, 2, 3])]).with_intercepts(2),
        ),
        ("outside 1 to", of("LinearRegressor", vec![floats("coefficients", &[1.0]), int("targets", -1)])),
        ("outside 1 to", of("LinearRegressor", vec![floats("coefficients", &[1.0]), int("targets", 1 << 20)])),
        ("intercepts for 1", of("LinearRegressor", vec![floats("coefficients", &[1.0])]).with_intercepts(2)),
        ("either as floats", of("Imputer", vec![floats("imputed_value_floats", &[1.0]), ints("imputed_value_int64s", &[1])])),
        ("1 keys do not fit 2", of("LabelEncoder", vec![ints("keys_int64s", &[1]), ints("values_int64s", &[1, 2])])),
        ("not a number", of("LabelEncoder", vec![floats("keys_floats", &[f32::NAN]), ints("values_int64s", &[1])])),
        ("encodes texts", of("LabelEncoder", vec![texts("keys_strings", &["a"]), ints("values_int64s", &[1])])),
        ("is a tensor", of("LabelEncoder", vec![Attribute { name: "keys_tensor".into(), kind: kind::TENSOR, ..Attribute::default() }])),
        ("are texts", of("OneHotEncoder", vec![texts("cats_strings", &["a"])])),
        ("listed twice", of("OneHotEncoder", vec![ints("cats_int64s", &[1, 1])])),
        ("no categories", of("OneHotEncoder", vec![])),
        ("not a positive", of("FeatureVectorizer", vec![ints("inputdimensions", &[-1])])),
        ("more than 1048576", of("FeatureVectorizer", vec![ints("inputdimensions", &[1 << 20, 1 << 20])])),
        ("coefficients are missing", of("SVMClassifier", vec![ints("classlabels_ints", &[1, 2])])),
        ("n_supports is negative", of("SVMRegressor", vec![floats("coefficients", &[1.0]), floats("rho", &[0.0]), int("n_supports", -2)])),
    ];
    for (want, n) in table {
        let graph = Graph {
            input: vec![value("x", element::FLOAT, &[1, 2])],
            output: vec![value("y", element::FLOAT, &[1, 2])],
            node: vec![n.clone()],
            ..Graph::default()
        };
        let by_scan = prescan(model(graph).encode_to_vec(), &Limits::default()).expect_err(want).to_string();
        let by_check = check(&n.op_type, &n).expect_err(want).to_string();
        assert!(by_check.contains(want) && by_scan.contains(&by_check) && by_scan.contains(&n.op_type), "{want}: {by_check} | {by_scan}");
    }
}

trait WithIntercepts {
    fn with_intercepts(self, count: usize) -> Self;
}

impl WithIntercepts for Node {
    fn with_intercepts(self, count: usize) -> Self {
        // An attribute that is there and holds none, as a crafted file may.
        with(self, floats("intercepts", &vec![0.0; count]))
    }
}

/// What a graph answers to each of `rows`, in one session.
fn answers(graph: Graph, columns: u64, output: TensorSpec, rows: &[&[f32]]) -> Vec<Vec<f64>> {
    let bytes = model(graph).encode_to_vec();
    let x = |row: &[f32]| vec![Wire::f32("x", &[1, columns], row)];
    let nothing = GoldenVector { inputs: x(rows[0]), outputs: vec![] };
    let mut manifest = manifest(&bytes, vec![spec("x", &[1, columns])], vec![output], vec![nothing]);
    manifest.decision = Decision::None;
    let plan = Plan::load(&prescan(bytes, &Limits::default()).unwrap(), &manifest).unwrap();
    let mut session = std::sync::Arc::new(plan).spawn().unwrap();
    rows.iter().map(|row| session.infer(&x(row)).unwrap()[0].to_f64()).collect()
}

fn integers(name: &str, dims: &[i64], values: &[i64]) -> Tensor {
    Tensor { name: name.into(), dims: dims.to_vec(), data_type: element::INT64, int64_data: values.to_vec(), ..Tensor::default() }
}

fn graph(nodes: Vec<Node>, initializer: Vec<Tensor>, columns: i64) -> Graph {
    Graph {
        node: nodes,
        initializer,
        input: vec![value("x", element::FLOAT, &[0, columns])],
        output: vec![value("y", element::FLOAT, &[])],
    }
}

#[test]
fn features_are_taken_by_place_whatever_the_shape_of_the_places() {
    for dims in [&[][..], &[1], &[1, 1]] {
        let take = ml(node("ArrayFeatureExtractor", &["x", "at"], &["y"]));
        let got = answers(graph(vec![take], vec![integers("at", dims, &[2])], 3), 3, spec("y", &[1, 1]), &[&[1.0, 2.0, 3.0]]);
        assert_eq!(got, [[3.0]], "{dims:?}");
    }
}

#[test]
fn sums_of_exponentials_neither_overflow_nor_vanish() {
    let reduce = with(node("ReduceLogSumExp", &["x"], &["y"]), ints("axes", &[1]));
    let rows: [&[f32]; 4] = [&[1000.0, 1000.0], &[-1000.0, -1000.0], &[0.0, f32::NEG_INFINITY], &[f32::INFINITY, 0.0]];
    let got = answers(graph(vec![reduce], vec![], 2), 2, spec("y", &[1, 1]), &rows);
    let two = std::f64::consts::LN_2;
    for (got, want) in got.iter().zip([1000.0 + two, -1000.0 + two, 0.0, f64::INFINITY]) {
        assert!(got[0] == want || (got[0] - want).abs() < 1e-4, "{got:?} instead of {want}");
    }
}

#[test]
fn a_gap_cast_to_an_integer_is_no_category() {
    let to = int("to", i64::from(element::INT64));
    let nodes = vec![with(node("Cast", &["x"], &["i"]), to), with(ml(node("OneHotEncoder", &["i"], &["y"])), ints("cats_int64s", &[0, 2]))];
    let got = answers(graph(nodes, vec![], 1), 1, spec("y", &[1, 1, 2]), &[&[0.0], &[2.9], &[f32::NAN], &[1e30]]);
    assert_eq!(got, [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]);
    // 5,000,000,000 does not fit 32 bits, through which the engine takes it.
    let nodes = vec![with(node("Cast", &["x"], &["y"]), int("to", i64::from(element::INT64)))];
    let output = TensorSpec { name: "y".into(), dtype: DType::I64, shape: vec![1, 1] };
    assert_eq!(answers(graph(nodes, vec![], 1), 1, output, &[&[5e9]]), [[5e9]]);
}

#[test]
fn a_loop_begins_every_inference_anew() {
    // y = x + 1 + 2 + 3 by steps of a loop whose state begins as x.
    let body = Graph {
        node: vec![node("Add", &["s", "k"], &["s2"]), node("Identity", &["s2"], &["step"])],
        input: vec![value("s", element::FLOAT, &[1, 1]), value("k", element::FLOAT, &[1, 1])],
        output: vec![value("s2", element::FLOAT, &[1, 1]), value("step", element::FLOAT, &[1, 1])],
        ..Graph::default()
    };
    let body = Attribute { name: "body".into(), kind: kind::GRAPH, g: Some(body), ..Attribute::default() };
    let scan = with(with(node("Scan", &["x", "ks"], &["y", "steps"]), int("num_scan_inputs", 1)), body);
    let got =
        answers(graph(vec![scan], vec![weights("ks", &[3, 1, 1], &[1.0, 2.0, 3.0])], 1), 1, spec("y", &[1, 1]), &[&[0.0], &[10.0], &[0.0]]);
    assert_eq!(got, [[6.0], [16.0], [6.0]], "an answer depends on nothing but its own input");
}

#[test]
fn a_map_of_probabilities_is_described_as_the_row_it_is() {
    let nodes = vec![with(ml(node("ZipMap", &["x"], &["y"])), ints("classlabels_int64s", &[3, 7]))];
    let scanned = prescan(model(graph(nodes, vec![], 2)).encode_to_vec(), &Limits::default()).unwrap();
    assert_eq!((scanned.outputs[0].element, scanned.outputs[0].shape.clone()), (element::FLOAT, Some(vec![None, Some(2)])));
}

#[test]
fn types_other_than_numbers_do_not_reach_an_operator() {
    let encoder = with(with(ml(node("LabelEncoder", &["x"], &["y"])), ints("keys_int64s", &[1])), floats("values_floats", &[1.0]));
    let bytes = model(graph(vec![encoder], vec![], 1)).encode_to_vec();
    let output = TensorSpec { name: "y".into(), dtype: DType::F32, shape: vec![1, 1] };
    let manifest = manifest(&bytes, vec![spec("x", &[1, 1])], vec![output], vec![]);
    let error = Plan::load(&prescan(bytes, &Limits::default()).unwrap(), &manifest).unwrap_err().to_string();
    assert!(error.contains("LabelEncoder takes I64, the input is F32"), "{error}");
}
