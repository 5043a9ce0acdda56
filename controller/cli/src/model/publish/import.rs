//! `--from-mlflow DIR` and `--from-hf DIR`: what another tool wrote about a model, turned into flags, tags and lineage.
//!
//! Such a folder came from outside: its YAML is read within a budget of events and depth and without aliases, a path in it must stay
//! within the folder, and nothing in it is run. What has a place in a manifest goes there and is signed; what has none becomes a tag,
//! which is not; what has neither is listed, so that nobody believes it came along. A flag that was given wins over what was read.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use leeway_controller::registry::TagChanges;
use leeway_controller::registry::tags::{MAX_KEY, MAX_TAGS, MAX_VALUE, OWN_PREFIX};
use serde_json::Value;

use super::Publish;
use crate::failure::{During, Failure, Outcome};
use crate::model::describe::{Described, Port};

mod card;
mod mlmodel;

/// The largest description that is read: an MLmodel file has some 2 KB, a long model card 100.
const MAX_TEXT: u64 = 1 << 20;
/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 1_000;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Imported {
    /// The ONNX file within the folder, if the description names it.
    pub onnx: Option<String>,
    /// The run that trained it.
    pub run: Option<String>,
    /// What it is, in a sentence.
    pub reason: String,
    /// Metrics that its author reports.
    pub metrics: Vec<(String, f64)>,
    /// Input columns, in order.
    pub features: Vec<String>,
    /// Sizes of inputs that the file may leave open.
    pub shapes: Vec<(String, Vec<u64>)>,
    /// What is kept beside the signed manifest.
    pub tags: BTreeMap<String, String>,
    /// What did not come along, each in a sentence.
    pub left: Vec<String>,
}

impl Imported {
    /// Keep a text as a tag; one that does not fit is listed instead.
    fn tag(&mut self, key: &str, value: &str) {
        let fits = key.len() <= MAX_KEY && value.len() <= MAX_VALUE && self.tags.len() < MAX_TAGS && !key.chars().any(char::is_control);
        if value.is_empty() || key.starts_with(OWN_PREFIX) || !fits {
            let shown: String = key.chars().take(60).collect();
            if !value.is_empty() {
                self.left.push(format!("{shown}: {} bytes do not fit into a tag", value.len()));
            }
            return;
        }
        self.tags.insert(key.to_owned(), value.to_owned());
    }

    /// Keep a value as a tag, lists joined by commas, whatever is deeper as JSON.
    fn tag_value(&mut self, key: &str, value: &Value) {
        let plain = |v: &Value| match v {
            Value::String(text) => Some(text.clone()),
            Value::Bool(_) | Value::Number(_) => Some(v.to_string()),
            _ => None,
        };
        let text = match value {
            Value::Null => return,
            Value::Array(list) => list.iter().map(plain).collect::<Option<Vec<_>>>().map(|all| all.join(",")),
            other => plain(other),
        };
        self.tag(key, &text.unwrap_or_else(|| value.to_string()));
    }

    /// What did not come along.
    fn left(&mut self, what: impl Into<String>) {
        self.left.push(what.into());
    }

    /// The tags as a change.
    pub fn changes(&self) -> TagChanges {
        self.tags.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
    }
}

/// The flags with what was read filled in, and where the model lies.
pub(super) fn resolve(args: &Publish) -> Outcome<(Publish, PathBuf, Imported)> {
    let (dir, imported) = match (&args.from_mlflow, &args.from_hf) {
        (Some(dir), _) => {
            (dir, mlmodel::read(&text(&dir.join("MLmodel"))?, &requirements(dir)?).map_err(|e| wrong(&dir.join("MLmodel"), e))?)
        }
        (None, Some(dir)) => (dir, card::read(&text(&dir.join("README.md"))?).map_err(|e| wrong(&dir.join("README.md"), e))?),
        (None, None) => {
            let onnx =
                args.onnx.clone().ok_or_else(|| Failure::new("name the ONNX file, or a folder with --from-mlflow or --from-hf").code(2))?;
            return Ok((args.clone(), onnx, Imported::default()));
        }
    };
    let onnx = match (&args.onnx, &imported.onnx) {
        (Some(given), _) => given.clone(),
        (None, Some(named)) => within(dir, named)?,
        (None, None) => only_onnx(dir)?,
    };
    Ok((filled(args, &imported), onnx, imported))
}

/// What was read, where no flag says otherwise.
fn filled(args: &Publish, imported: &Imported) -> Publish {
    let mut args = args.clone();
    if args.reason.is_empty() {
        args.reason.clone_from(&imported.reason);
    }
    if args.features.is_empty() {
        args.features.clone_from(&imported.features);
    }
    let missing = |known: &[String], name: &String| !known.contains(name);
    let known: Vec<String> = args.metrics.iter().map(|(name, _)| name.clone()).collect();
    args.metrics.extend(imported.metrics.iter().filter(|(name, _)| missing(&known, name)).cloned());
    args
}

/// Sizes that the file leaves open, no flag gives, and the description knows.
pub(super) fn sizes(args: &mut Publish, imported: &Imported, described: &Described) {
    let is_open = |port: &Port| port.shape.as_ref().is_none_or(|sizes| sizes.iter().skip(1).any(|n| *n < 1));
    for port in described.inputs.iter().chain(&described.outputs).filter(|port| is_open(port)) {
        let given = args.shapes.iter().any(|(name, _)| *name == port.name);
        let fits = |sizes: &Vec<u64>| port.shape.as_ref().is_none_or(|open| open.len() == sizes.len());
        if let Some(known) = imported.shapes.iter().find(|(name, sizes)| *name == port.name && fits(sizes)).filter(|_| !given) {
            args.shapes.push(known.clone());
        }
    }
}

fn text(path: &Path) -> Outcome<String> {
    let length = fs::metadata(path).during(format!("reading {}", path.display()))?.len();
    if length > MAX_TEXT {
        return Err(Failure::new(format!("{} has {length} bytes, the bound is {MAX_TEXT}", path.display())).code(2));
    }
    fs::read_to_string(path).during(format!("reading {}", path.display()))
}

/// The Python packages it was trained with; empty if the folder does not say.
fn requirements(dir: &Path) -> Outcome<String> {
    let path = dir.join("requirements.txt");
    if path.exists() { text(&path) } else { Ok(String::new()) }
}

fn wrong(path: &Path, problem: String) -> Failure {
    Failure::new(format!("{}: {problem}", path.display())).code(2)
}

/// A file that a description names: plain names only, and nothing that leads out of the folder, links included.
fn within(dir: &Path, named: &str) -> Outcome<PathBuf> {
    let out = || Failure::new(format!("{named:?} does not lie in {}: a model folder may only name its own files", dir.display())).code(2);
    let plain = !named.is_empty() && Path::new(named).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err(out());
    }
    let path = dir.join(named);
    let real = fs::canonicalize(&path).during(format!("finding {}", path.display()))?;
    let home = fs::canonicalize(dir).during(format!("finding {}", dir.display()))?;
    if real.starts_with(home) { Ok(path) } else { Err(out()) }
}

/// The one ONNX file of a folder, or of its folder `onnx`, where exporters put it.
fn only_onnx(dir: &Path) -> Outcome<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in [dir.to_path_buf(), dir.join("onnx")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let files = entries.take(MAX_ENTRIES).flatten().map(|e| e.path());
        found.extend(files.filter(|path| path.extension().is_some_and(|e| e == "onnx")));
    }
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::new(format!("there is no *.onnx in {}", dir.display()))
            .code(2)
            .help("export the model to ONNX first, and name the file")),
        several => {
            let names: Vec<String> = several.iter().take(8).map(|path| path.display().to_string()).collect();
            let problem = format!("{} has {} ONNX files ({})", dir.display(), several.len(), names.join(", "));
            Err(Failure::new(problem).code(2).help("name the one to publish: `leeway model publish FILE.onnx --from-hf DIR …`"))
        }
    }
}

/// YAML within a budget, as one value.
fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_events: 20_000, max_nodes: 20_000, max_depth: 32, max_aliases: 0, max_anchors: 0, max_documents: 1 },
    };
    let said = |e: serde_saphyr::Error| e.to_string().lines().next().unwrap_or("it is no YAML").to_owned();
    serde_saphyr::from_str_with_options(text, options).map_err(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_yaml_is_refused_quickly() {
        let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n";
        let deep = "[".repeat(5_000);
        let wide = format!("[{}]", "1,".repeat(100_000));
        for (what, text) in [
            ("aliases", bomb),
            ("depth", deep.as_str()),
            ("width", wide.as_str()),
            ("two documents", "a: 1\n---\nb: 2\n"),
            ("garbage", "\u{0}\u{1}: ["),
        ] {
            assert!(yaml(text).is_err(), "{what}");
        }
        assert_eq!(yaml("a: [1, x]").unwrap(), serde_json::json!({ "a": [1, "x"] }));
    }

    #[test]
    fn a_folder_names_only_its_own_files() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("model");
        fs::create_dir(&home).unwrap();
        fs::write(dir.path().join("secret.onnx"), "s").unwrap();
        fs::write(home.join("model.onnx"), "m").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret.onnx"), home.join("link.onnx")).unwrap();
        assert_eq!(within(&home, "model.onnx").unwrap(), home.join("model.onnx"));
        for bad in ["../secret.onnx", "/etc/passwd", "", "./../secret.onnx", "link.onnx", "absent.onnx"] {
            assert!(within(&home, bad).is_err(), "{bad}");
        }
        fs::remove_file(home.join("link.onnx")).unwrap();
        assert_eq!(only_onnx(&home).unwrap(), home.join("model.onnx"));
        fs::create_dir(home.join("onnx")).unwrap();
        fs::write(home.join("onnx/model_int8.onnx"), "q").unwrap();
        assert!(only_onnx(&home).unwrap_err().whole().contains("name the one to publish"));
        assert!(only_onnx(dir.path().join("nothing").as_path()).is_err());
    }

    #[test]
    fn what_does_not_fit_is_listed() {
        let mut imported = Imported::default();
        imported.tag("long", &"x".repeat(MAX_VALUE + 1));
        imported.tag_value("list", &serde_json::json!(["a", 1, true]));
        imported.tag_value("deep", &serde_json::json!({ "a": [1] }));
        imported.tag_value("none", &Value::Null);
        assert_eq!(
            imported.changes(),
            TagChanges::from([("list".into(), Some("a,1,true".into())), ("deep".into(), Some("{\"a\":[1]}".into()))])
        );
        assert!(imported.left[0].contains("do not fit"));
    }
}
