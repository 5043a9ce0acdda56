//! From a description, flags and answers to a manifest that adds up.
use clap::Parser as _;

use super::*;
use crate::model::publish::answers;

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    publish: Publish,
}

fn args(more: &[&str]) -> Publish {
    let base = ["publish", "m.onnx", "--line", "rain", "--version", "1.0.0", "--key", "k", "--reference", "r.csv"];
    Cli::parse_from(base.iter().chain(more).copied()).publish
}

fn described(inputs: &str, outputs: &str) -> Described {
    let text = format!(r#"{{"digest":"sha256:0","length":9,"inputs":{inputs},"outputs":{outputs}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn tabular() -> Described {
    described(r#"[{"name":"x","datatype":"FP32","shape":[-1,2]}]"#, r#"[{"name":"p","datatype":"FP32","shape":[-1,1]}]"#)
}

fn table() -> Table {
    let mut text = "a,b,y\n".to_owned();
    for i in 0..200 {
        text += &format!("{},{},{}\n", f64::from(i) / 10.0, f64::from(200 - i) / 7.0, u8::from(i >= 100));
    }
    text += ",3,1\n";
    Table::parse(text.as_bytes()).unwrap()
}

/// The table, once the inputs are known.
fn data(args: &Publish, shape: &Shape) -> Outcome<Data> {
    Data::Table(table(), Vec::new()).fit(&args.features, args.label_column.as_deref(), shape)
}

fn made_from() -> MadeFrom {
    MadeFrom { data: Digest::of(b"the table"), golden: None, parent: Some(Digest::of(b"the parent")), run: None }
}

/// What the runner would say of a model that answers a/20.
fn said(table: &Table) -> String {
    let mut text = "decision,confidence,p_0\n".to_owned();
    for a in table.column("a").unwrap() {
        match a {
            Some(a) => {
                let p = (a / 20.0) as f32;
                text += &format!("{},{},{p}\n", u8::from(p >= 0.5), p.max(1.0 - p));
            }
            None => text += ",\n",
        }
    }
    text
}

#[test]
fn a_tabular_model_becomes_a_manifest() {
    let (args, table) = (args(&["--label-column", "y", "--metric", "auc=0.9", "--code", "git"]), table());
    let shape = shape(&args, &tabular()).unwrap();
    let data = data(&args, &shape).unwrap();
    assert_eq!(data.values(2), [Some(0.2), Some(198.0 / 7.0)]);
    let first = first(&args, &shape, &data, b"model", Timestamp::from_secs(1)).unwrap();
    Manifest::parse(&first.to_bytes()).unwrap();
    let answers = answers::parse(said(&table).as_bytes(), &first).unwrap();
    assert_eq!(answers.rows.len(), 200, "the row with a missing value has no answer");
    let made = manifest(&args, first, &data, &answers, made_from()).unwrap();
    let made = Manifest::parse(&made.to_bytes()).unwrap();
    assert_eq!(made.reference.features.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["a", "b", "p", "confidence"]);
    assert_eq!(made.lineage.metrics.get("accuracy"), Some(&1.0));
    assert_eq!(made.lineage.datasets[0].digest, Digest::of(b"the table"));
    assert_eq!(made.lineage.parent, Some(Digest::of(b"the parent")));
    assert_eq!(made.golden.vectors.len(), 16);
    assert!(made.golden.atol < 1e-3, "the tolerance of the first manifest must not survive");
    assert!(made.reference.features[0].masses[0] > 0.0, "the missing value is in the reference");
}

#[test]
fn what_does_not_fit_is_refused_with_the_flag_that_helps() {
    let failing = |more: &[&str], described: &Described| {
        let args = args(more);
        let made =
            shape(&args, described).and_then(|s| data(&args, &s).and_then(|data| first(&args, &s, &data, b"m", Timestamp::from_secs(1))));
        made.unwrap_err().whole()
    };
    assert!(failing(&[], &tabular()).contains("--features"), "three columns for two inputs");
    assert!(failing(&["--features", "a,z"], &tabular()).contains("no column \"z\""));
    assert!(failing(&["--features", "a,b", "--decision", "binary"], &tabular()).contains("--label-column"));
    assert!(failing(&["--shape", "q=1,2"], &tabular()).contains("neither an input nor an output"));
    let open = described(r#"[{"name":"x","datatype":"FP32","shape":[1,-1]}]"#, r#"[{"name":"p","datatype":"FP32","shape":[1,1]}]"#);
    assert!(failing(&[], &open).contains("--shape x=1,"));
    let odd = described(r#"[{"name":"x","datatype":null,"shape":[1,2]}]"#, r#"[{"name":"p","datatype":"FP32","shape":[1,1]}]"#);
    assert!(failing(&[], &odd).contains("does not serve"));
    assert!(failing(&["--constant", "sr=1"], &tabular()).contains("no input"));
}

#[test]
fn without_a_label_a_model_is_a_regression() {
    let args = args(&["--features", "a,b"]);
    let shape = shape(&args, &tabular()).unwrap();
    let data = data(&args, &shape).unwrap();
    let first = first(&args, &shape, &data, b"model", Timestamp::from_secs(1)).unwrap();
    assert_eq!(first.decision, Decision::None);
    let answers = answers::parse(b"decision,confidence,p_0\n1.5,,1.5\n2.5,,2.5\n", &first).unwrap();
    let made = manifest(&args, first, &data, &answers, made_from()).unwrap();
    assert!(Manifest::parse(&made.to_bytes()).unwrap().calibration.edges.is_empty());
    assert_eq!(made.reference.features.len(), 3, "no confidence without a decision");
}

#[test]
fn the_probabilities_are_read_and_not_the_label_in_front_of_them() {
    let both = r#"[{"name":"label","datatype":"INT64","shape":[-1]},{"name":"p","datatype":"FP32","shape":[-1,2]}]"#;
    let described = described(r#"[{"name":"x","datatype":"FP32","shape":[-1,2]}]"#, both);
    let args = args(&["--label-column", "y"]);
    let shape = shape(&args, &described).unwrap();
    assert_eq!(reading(&args, &shape).unwrap(), Decision::Classes { output: 1 });
}

#[test]
fn constants_fill_their_input_and_are_not_asked_of_the_application() {
    let described = described(
        r#"[{"name":"x","datatype":"FP32","shape":[1,2]},{"name":"sr","datatype":"INT64","shape":[]}]"#,
        r#"[{"name":"p","datatype":"FP32","shape":[1,1]}]"#,
    );
    let args = args(&["--constant", "sr=16000", "--label-column", "y"]);
    let shape = shape(&args, &described).unwrap();
    assert_eq!(data(&args, &shape).unwrap().values(0).len(), 2);
    assert_eq!(shape.constants[0].to_f64(), [16000.0]);
}
