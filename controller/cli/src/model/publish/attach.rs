//! What goes with a release for other people's tools: a model signature, and what only the publisher knows of the build.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use leeway_controller::supply::oms::{self, Files, IGNORED, SINGLE};
use leeway_controller::supply::provenance::{BUILDER, Build};
use leeway_protocol::digest::Digest;

use crate::failure::{Failure, Outcome};
use crate::model::bundle;

/// Flags of `leeway model publish`.
#[derive(Debug, Clone, Args)]
pub struct Attach {
    /// Make an OpenSSF Model Signing bundle of the model with this key: P-256, PEM.
    #[arg(long, value_name = "PEM", conflicts_with = "oms_bundle")]
    oms_key: Option<PathBuf>,
    /// An OpenSSF Model Signing bundle that came with the model; checked before anything is uploaded.
    #[arg(long, value_name = "FILE", requires = "oms_public_key")]
    oms_bundle: Option<PathBuf>,
    /// Its signer's public key: P-256, PEM.
    #[arg(long, value_name = "PEM", requires = "oms_bundle")]
    oms_public_key: Option<PathBuf>,
    /// The folder that was signed, where that is more than the ONNX file; the file must be in it.
    #[arg(long, value_name = "DIR", requires = "oms_bundle")]
    oms_dir: Option<PathBuf>,
    /// Who built the model, as a URI; for its provenance.
    #[arg(long, value_name = "URI", default_value = BUILDER)]
    builder: String,
    /// What the training was told, such as `epochs=20`; for its provenance.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = super::pair)]
    parameters: Vec<(String, String)>,
}

impl Attach {
    /// What provenance says beyond the manifest.
    pub(super) fn build(&self) -> Build {
        Build { builder: self.builder.clone(), parameters: self.parameters.iter().cloned().collect::<BTreeMap<_, _>>() }
    }

    /// The bundle, made or checked.
    pub(super) fn bundle(&self, onnx: &Path, model: &[u8]) -> Outcome<Option<Vec<u8>>> {
        let digest = Digest::of(model);
        let one = Files::from([(SINGLE.to_owned(), digest)]);
        if let Some(key) = &self.oms_key {
            let name = onnx.file_name().map_or_else(|| "model.onnx".to_owned(), |name| name.to_string_lossy().into_owned());
            return Ok(Some(oms::sign(&name, &one, &IGNORED.map(str::to_owned), &bundle::read_key(key)?)));
        }
        let (Some(file), Some(key)) = (&self.oms_bundle, &self.oms_public_key) else { return Ok(None) };
        let (bytes, listed) = bundle::checked(file, key)?;
        match &self.oms_dir {
            None => listed.expect(&one).map_err(|e| Failure::from(e).help("if a folder was signed, name it with --oms-dir"))?,
            Some(dir) => drop(bundle::expect(&listed, dir)?),
        }
        if !listed.has(digest) {
            return Err(Failure::new(format!("the bundle is not of {}: no file that it lists has its digest", onnx.display())));
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use leeway_controller::supply::oms::Key;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        attach: Attach,
    }

    /// A key of nobody's.
    const PEM: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIAVazSqAt4h+b22JgOLSZTfbmJCzi1rvBP05cYeLETaJoAoGCCqGSM49
AwEHoUQDQgAE8eSArHXxD8lP7Q22iCN+kvZNJpH0RjXCVWSXoLVE6fP9SCTifSwa
krs1Kpt99tAYA/4AOb45OYn693zndRs+Zw==
-----END EC PRIVATE KEY-----";

    #[test]
    fn a_signed_folder_is_checked_whole_and_must_hold_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = |name: &str| path(name).display().to_string();
        fs::create_dir(path("model")).unwrap();
        for (name, bytes) in [("model/rain.onnx", "model"), ("model/labels.txt", "dry"), ("key.pem", PEM)] {
            fs::write(path(name), bytes).unwrap();
        }
        fs::write(path("public.pem"), Key::from_pem(PEM).unwrap().public().to_pem()).unwrap();
        // Inside of the folder, where the other tool puts it unless told otherwise.
        bundle::sign(&bundle::Sign { model: path("model"), key: path("key.pem"), out: path("model/model.sig") }).unwrap();
        let (sig, public, folder) = (text("model/model.sig"), text("public.pem"), text("model"));
        let attached = |more: &[&str], model: &[u8]| {
            let base = ["x", "--oms-bundle", &sig, "--oms-public-key", &public];
            Cli::parse_from(base.iter().chain(more)).attach.bundle(&path("model/rain.onnx"), model)
        };
        assert_eq!(attached(&["--oms-dir", &folder], b"model").unwrap(), Some(fs::read(&sig).unwrap()));
        assert!(attached(&[], b"model").unwrap_err().whole().contains("--oms-dir"));
        assert!(attached(&["--oms-dir", &folder], b"another").unwrap_err().to_string().contains("no file that it lists"));
        fs::write(path("model/labels.txt"), "wet").unwrap();
        assert!(attached(&["--oms-dir", &folder], b"model").unwrap_err().to_string().contains("labels.txt"));
    }
}
