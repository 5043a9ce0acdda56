//! By hand where a hand can follow, and every crafted file refused.
use super::{Classifier, Regressor};
use crate::runtime::onnx::{Attribute, Node};
use crate::runtime::ops::rows::Kernel;
use crate::runtime::samples::{floats, int, ints, node, text, texts};

/// Two features, one support vector per class: (1,0), (0,1), (-1,-1).
fn machine(classes: usize, kernel: &str) -> Node {
    let pairs = classes * (classes - 1) / 2;
    let mut n = node("SVMClassifier", &["x"], &["label", "scores"]);
    n.attribute = vec![
        text("kernel_type", kernel),
        floats("kernel_params", &[0.5, 1.0, 3.0]),
        floats("support_vectors", &[1.0, 0.0, 0.0, 1.0, -1.0, -1.0][..2 * classes]),
        ints("vectors_per_class", &vec![1; classes]),
        floats("coefficients", &[0.5, -0.5, 0.25, 1.0, -1.0, 0.75][..(classes - 1) * classes]),
        floats("rho", &[0.25, -0.5, 0.125][..pairs]),
        ints("classlabels_ints", &[3, 7, 9][..classes]),
    ];
    n
}

fn replaced(mut n: Node, attribute: Attribute) -> Node {
    n.attribute.retain(|a| a.name != attribute.name);
    n.attribute.push(attribute);
    n
}

fn run(n: &Node, row: [f32; 2]) -> (i64, Vec<f32>) {
    let classifier = Classifier::read(n).unwrap();
    let mut out = Vec::new();
    let label = classifier.run(&row, &mut out).unwrap();
    assert_eq!(Some(out.len()), classifier.width());
    (label, out)
}

#[test]
fn two_classes_show_both_signs_of_their_one_score() {
    // 0.5·2 - 0.5·1 + 0.25
    assert_eq!(run(&machine(2, "LINEAR"), [2.0, 1.0]), (3, vec![-0.75, 0.75]));
    assert_eq!(run(&machine(2, "LINEAR"), [-2.0, 1.0]), (7, vec![1.25, -1.25]));
    let softmax = replaced(machine(2, "LINEAR"), text("post_transform", "SOFTMAX"));
    assert_eq!(run(&softmax, [2.0, 1.0]), (3, vec![0.25, 0.75]), "onnxruntime takes the score for a probability");
    let logistic = run(&replaced(machine(2, "LINEAR"), text("post_transform", "LOGISTIC")), [2.0, 1.0]).1;
    assert!((logistic[1] - 0.679_178_7).abs() < 1e-6 && (logistic[0] + logistic[1] - 1.0).abs() < 1e-6, "{logistic:?}");
    let named = replaced(machine(2, "LINEAR"), texts("classlabels_strings", &["a", "b"]));
    let named = Node { attribute: named.attribute.into_iter().filter(|a| a.name != "classlabels_ints").collect(), ..named };
    assert_eq!(run(&named, [-2.0, 1.0]).0, 1, "a name's place");
}

#[test]
fn three_classes_show_a_score_per_pair_and_vote() {
    // near = (2, 1, -3). Pairs: 0-1: 0.5·2 - 0.5·1 + 0.25; 0-2: 1·2 + 0.25·(-3) - 0.5; 1-2: -1·1 + 0.75·(-3) + 0.125, where the
    // coefficients of a class against a later one lie one row up.
    let (label, scores) = run(&machine(3, "LINEAR"), [2.0, 1.0]);
    assert_eq!(scores, [0.5 * 2.0 - 0.5 + 0.25, 1.0 * 2.0 + 0.25 * -3.0 - 0.5, -1.0 + 0.75 * -3.0 + 0.125]);
    assert_eq!(label, 3, "two of three pairs are for the first");
}

#[test]
fn kernels_are_those_of_the_format() {
    // x·v = 2 and 1; |x - v|² = 2 and 4.
    let table: [(&str, fn(f32, f32) -> f32); 3] = [
        ("POLY", |dot, _| (0.5 * dot + 1.0).powi(3)),
        ("RBF", |_, far| (-0.5 * far).exp()),
        ("SIGMOID", |dot, _| (0.5 * dot + 1.0).tanh()),
    ];
    for (kernel, near) in table {
        let want = 0.5 * near(2.0, 2.0) - 0.5 * near(1.0, 4.0) + 0.25;
        let got = run(&machine(2, kernel), [2.0, 1.0]).1[1];
        assert!((got - want).abs() < 1e-6, "{kernel}: {got} instead of {want}");
    }
}

#[test]
fn probabilities_of_pairs_become_probabilities_of_classes() {
    for classes in [2, 3] {
        let pairs = classes * (classes - 1) / 2;
        let n = replaced(machine(classes, "LINEAR"), floats("prob_a", &vec![-1.5; pairs]));
        let n = replaced(n, floats("prob_b", &vec![0.1; pairs]));
        let (_, p) = run(&n, [2.0, 1.0]);
        assert!((p.iter().sum::<f32>() - 1.0).abs() < 1e-5 && p.iter().all(|p| (0.0..=1.0).contains(p)), "{p:?}");
        if classes == 2 {
            // One pair decides alone: 1 - logistic(-1.5 s + 0.1), to the iteration's stop.
            let want = 1.0 - 1.0 / (1.0 + (1.5 * 0.75f32 - 0.1).exp());
            assert!((p[0] - want).abs() < 0.005, "{} instead of {want}", p[0]);
        }
    }
}

#[test]
fn without_vectors_there_is_a_line_per_class() {
    let mut n = node("SVMClassifier", &["x"], &["label", "scores"]);
    n.attribute = vec![floats("coefficients", &[1.0, 0.0, 0.0, -1.0]), floats("rho", &[0.5]), ints("classlabels_ints", &[3, 7])];
    assert_eq!(run(&n, [-2.0, 1.0]), (7, vec![-1.5, -0.5]), "the larger of two negative scores");
    assert_eq!(run(&n, [2.0, 1.0]), (7, vec![2.5, -0.5]), "a positive score is for the second, as in onnxruntime");
}

#[test]
fn a_regressor_adds_up_and_one_class_shows_the_side() {
    let mut n = node("SVMRegressor", &["x"], &["y"]);
    n.attribute = vec![
        floats("coefficients", &[0.5, -0.5]),
        floats("support_vectors", &[1.0, 0.0, 0.0, 1.0]),
        floats("rho", &[0.25]),
        int("n_supports", 2),
    ];
    let value = |n: &Node, row: [f32; 2]| {
        let mut out = Vec::new();
        Regressor::read(n).unwrap().run(&row, &mut out).unwrap();
        out
    };
    assert_eq!(value(&n, [2.0, 1.0]), [0.75]);
    let side = replaced(n.clone(), int("one_class", 1));
    assert_eq!([value(&side, [2.0, 1.0]), value(&side, [-2.0, 1.0])], [[1.0], [-1.0]]);
    let line = replaced(n, int("n_supports", 0));
    assert_eq!(value(&line, [2.0, 1.0]), [0.75], "coefficients of the features");
}

#[test]
fn crafted_machines_are_refused() {
    let table = [
        ("coefficients has 1 entries, 6", floats("coefficients", &[1.0])),
        ("rho has 1 entries, 3", floats("rho", &[1.0])),
        ("prob_a has 1 entries, 3", floats("prob_a", &[1.0])),
        ("prob_b has 3 entries, 0", floats("prob_b", &[1.0; 3])),
        ("a class has -1 support vectors", ints("vectors_per_class", &[1, -1, 1])),
        ("coefficients has 6 entries", ints("vectors_per_class", &[1, i64::MAX, i64::MAX])),
        ("vectors_per_class has 2 entries, 3", ints("vectors_per_class", &[1, 2])),
        ("do not make 3 vectors", floats("support_vectors", &[1.0; 7])),
        ("do not make 3 vectors", floats("support_vectors", &[])),
        ("kernel is not", text("kernel_type", "COSINE")),
        ("must be gamma", floats("kernel_params", &[1.0])),
        ("fewer than two", ints("classlabels_ints", &[1])),
        ("more than 256", ints("classlabels_ints", &vec![0; 300])),
        ("post-transform", text("post_transform", "COSINE")),
        ("either as integers or as texts", texts("classlabels_strings", &["a", "b", "c"])),
    ];
    for (want, attribute) in table {
        let error = Classifier::read(&replaced(machine(3, "RBF"), attribute)).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    let probit = replaced(machine(2, "RBF"), text("post_transform", "PROBIT"));
    assert!(Classifier::read(&probit).expect_err("PROBIT").to_string().contains("PROBIT"));
}
