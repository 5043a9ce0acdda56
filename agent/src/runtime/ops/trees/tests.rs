//! Every comparison, both two-class readings, and every crafted damage refused before it runs.
use super::ensemble::{Ensemble, Kind};
use crate::runtime::onnx::{Attribute, Node};
use crate::runtime::samples::{floats, int, ints, node, text, texts, with};

/// One split on feature 0 at 1.0: true gives class or target `ids.0`, false `ids.1`.
fn stump(mode: &str, prefix: &str, ids: (i64, i64), weights: (f32, f32)) -> Node {
    let mut n = node("TreeEnsembleClassifier", &["x"], &["label", "scores"]);
    n.attribute = vec![
        ints("nodes_treeids", &[0, 0, 0]),
        ints("nodes_nodeids", &[0, 1, 2]),
        ints("nodes_featureids", &[0, 0, 0]),
        floats("nodes_values", &[1.0, 0.0, 0.0]),
        texts("nodes_modes", &[mode, "LEAF", "LEAF"]),
        ints("nodes_truenodeids", &[1, 0, 0]),
        ints("nodes_falsenodeids", &[2, 0, 0]),
        ints(&format!("{prefix}_treeids"), &[0, 0]),
        ints(&format!("{prefix}_nodeids"), &[1, 2]),
        ints(&format!("{prefix}_ids"), &[ids.0, ids.1]),
        floats(&format!("{prefix}_weights"), &[weights.0, weights.1]),
    ];
    n
}

fn classes(n: Node, count: i64) -> Node {
    with(n, ints("classlabels_int64s", &(10..10 + count).collect::<Vec<_>>()))
}

fn replace(n: &mut Node, attribute: Attribute) {
    n.attribute.retain(|a| a.name != attribute.name);
    n.attribute.push(attribute);
}

fn run(n: &Node, kind: Kind, x: f32) -> (i64, Vec<f32>) {
    let mut out = Vec::new();
    let label = Ensemble::read(n, kind).unwrap().run(&[x], &mut out);
    (label, out)
}

#[test]
fn every_comparison_takes_its_branch() {
    let table = [
        ("BRANCH_LEQ", [true, true, false]),
        ("BRANCH_LT", [true, false, false]),
        ("BRANCH_GTE", [false, true, true]),
        ("BRANCH_GT", [false, false, true]),
        ("BRANCH_EQ", [false, true, false]),
        ("BRANCH_NEQ", [true, false, true]),
    ];
    for (mode, taken) in table {
        for (x, taken) in [0.5, 1.0, 1.5].into_iter().zip(taken) {
            let want = if taken { 7.0 } else { 8.0 };
            assert_eq!(run(&stump(mode, "target", (0, 0), (7.0, 8.0)), Kind::Regressor, x).1, [want], "{mode} {x}");
        }
        // Beside another mode the general walk is used; it must say the same.
        let mut mixed = stump(mode, "target", (0, 0), (7.0, 8.0));
        replace(&mut mixed, ints("nodes_missing_value_tracks_true", &[1, 0, 0]));
        for (x, taken) in [0.5, 1.0, 1.5].into_iter().zip(taken) {
            assert_eq!(run(&mixed, Kind::Regressor, x).1, [if taken { 7.0 } else { 8.0 }], "{mode} {x} mixed");
        }
        assert_eq!(run(&mixed, Kind::Regressor, f32::NAN).1, [7.0], "missing takes the true branch of {mode}");
    }
    assert_eq!(run(&stump("BRANCH_LEQ", "target", (0, 0), (7.0, 8.0)), Kind::Regressor, f32::NAN).1, [8.0]);
}

#[test]
fn two_classes_with_one_score_follow_the_weights_signs() {
    let probabilities = classes(stump("BRANCH_LEQ", "class", (0, 0), (0.25, 0.75)), 2);
    assert_eq!(run(&probabilities, Kind::Classifier, 0.0), (10, vec![0.75, 0.25]));
    assert_eq!(run(&probabilities, Kind::Classifier, 2.0), (11, vec![0.25, 0.75]));
    let logits = with(classes(stump("BRANCH_LEQ", "class", (0, 0), (-1.0, 2.0)), 2), text("post_transform", "LOGISTIC"));
    let (label, scores) = run(&logits, Kind::Classifier, 2.0);
    assert_eq!(label, 11);
    assert!((scores[1] - 0.880_797).abs() < 1e-6 && (scores[0] + scores[1] - 1.0).abs() < 1e-6);
    let three = classes(stump("BRANCH_LEQ", "class", (2, 1), (1.0, 1.0)), 3);
    assert_eq!(run(&three, Kind::Classifier, 0.0), (12, vec![0.0, 0.0, 1.0]));
}

#[test]
fn crafted_trees_are_refused() {
    let good = classes(stump("BRANCH_LEQ", "class", (0, 1), (1.0, 1.0)), 2);
    assert!(Ensemble::read(&good, Kind::Classifier).is_ok());
    let table: Vec<(&str, Attribute)> = vec![
        ("class id 40 is outside the 2", ints("class_ids", &[0, 40])),
        ("class id 2147483647", ints("class_ids", &[0, i64::from(i32::MAX)])),
        ("class id -1", ints("class_ids", &[0, -1])),
        ("two parents", ints("nodes_truenodeids", &[2, 0, 0])),
        ("not in its tree", ints("nodes_truenodeids", &[1_000_000, 0, 0])),
        ("runs in a circle", ints("nodes_truenodeids", &[0, 0, 0])),
        ("two nodes 1", ints("nodes_nodeids", &[0, 1, 1])),
        ("not in its tree", ints("nodes_treeids", &[0, 1, 1])),
        ("feature -1", ints("nodes_featureids", &[-1, 0, 0])),
        ("nodes_values must have 3", floats("nodes_values", &[1.0])),
        ("mode \"BRANCH_MAYBE\"", texts("nodes_modes", &["BRANCH_MAYBE", "LEAF", "LEAF"])),
        ("post-transform", text("post_transform", "COSINE")),
        ("base values", floats("base_values", &[1.0, 2.0, 3.0])),
        ("outside 2 to", ints("classlabels_int64s", &[1])),
        ("class labels", texts("classlabels_strings", &["a", "b"])),
        ("holds doubles", int("nodes_values_as_tensor", 0)),
    ];
    for (want, attribute) in table {
        let mut bad = good.clone();
        replace(&mut bad, attribute);
        let error = Ensemble::read(&bad, Kind::Classifier).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}
