//! `leeway trainer fetch|deliver`: what a run of another system needs, and what it made.
//!
//! The folder has the form a command trainer's has, so that one training program serves both. A publisher's token is enough; what is
//! delivered is signed by nobody yet: the worker tries it out, the controller compares it, and the worker alone can sign it.
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use leeway_controller::io::trainer::command::forms;
use leeway_controller::io::training::{Delivery, JobSpec};
use leeway_protocol::manifest::{Blob, MAX_MODEL_BYTES};
use leeway_protocol::trust::metadata::percent_encoded;
use serde_json::Value;

use crate::client::Client;
use crate::failure::{During, Failure, Outcome};
use crate::worker;

/// A job and its folder.
#[derive(Debug, Args)]
pub struct Folder {
    /// The job, as the run was told: `leeway_job`.
    pub job: String,
    /// Its folder.
    #[arg(long)]
    pub dir: PathBuf,
}

/// Fetch.
pub fn fetch(folder: &Folder, client: &Client) -> Outcome {
    let spec: JobSpec = client.read(&format!("/api/v1/training/jobs/{}/spec", percent_encoded(&folder.job)))?;
    let dir = &folder.dir;
    fs::create_dir_all(dir).during(format!("making {}", dir.display()))?;
    let json = serde_json::to_vec_pretty(&spec.spec).during("writing spec.json")?;
    let (train, holdout) = (worker::data(client, spec.train)?, worker::data(client, spec.holdout)?);
    let mut files = vec![("spec.json".to_owned(), json)];
    for (name, table) in [("train", &train), ("holdout", &holdout)] {
        files.extend(forms(name, table).during(format!("reading {name} rows"))?);
    }
    for (name, bytes) in &files {
        let path = dir.join(name);
        fs::write(&path, bytes).during(format!("writing {}", path.display()))?;
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    println!("{}: {} are in {}", folder.job, names.join(", "), dir.display());
    Ok(())
}

/// Deliver.
pub fn deliver(folder: &Folder, client: &Client) -> Outcome {
    let model = upload(client, &folder.dir, "model.onnx")?;
    let golden = upload(client, &folder.dir, "golden.json")?;
    let has_metrics = folder.dir.join("metrics.json").exists();
    let metrics = if has_metrics { Some(upload(client, &folder.dir, "metrics.json")?) } else { None };
    let path = format!("/api/v1/training/jobs/{}/delivery", percent_encoded(&folder.job));
    let _: Value = client.send(&path, &Delivery { model, golden, metrics })?;
    println!("{}: delivered model {}; the worker takes it when the run is over", folder.job, model.digest);
    Ok(())
}

fn upload(client: &Client, dir: &Path, name: &str) -> Outcome<Blob> {
    let path = dir.join(name);
    let size = fs::metadata(&path).during(format!("reading {}", path.display()))?.len();
    if size > MAX_MODEL_BYTES {
        return Err(Failure::new(format!("{} has {size} bytes, the bound is {MAX_MODEL_BYTES}", path.display())).code(2));
    }
    let bytes = fs::read(&path).during(format!("reading {}", path.display()))?;
    client.send_bytes("/api/v1/blobs", "application/octet-stream", &bytes)?;
    Ok(Blob::of(&bytes))
}
