//! Bits flipped in every file of a device: it comes back to a good model by itself, or says which file is damaged and what to do; what
//! is damaged never runs.
use std::path::Path;

use leeway_firmware_sim::rng::Rng;
use leeway_tests::device::Device;

use crate::bench::Bench;
use crate::judge;

/// What the flash does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    FlippedBit,
    Half,
    Empty,
    Gone,
}

impl Damage {
    pub const ALL: [Self; 4] = [Self::FlippedBit, Self::Half, Self::Empty, Self::Gone];

    /// Do it to a file, and say what was done.
    pub fn strike(self, path: &Path, rng: &mut Rng) -> String {
        let mut bytes = std::fs::read(path).expect("the file");
        let what = match self {
            Self::FlippedBit if bytes.is_empty() => return "is empty as it is".to_owned(),
            Self::FlippedBit => {
                let (at, bit) = (rng.below(bytes.len() as u64) as usize, rng.below(8));
                bytes[at] ^= 1 << bit;
                format!("bit {bit} of byte {at} of {} is flipped", bytes.len())
            }
            Self::Half => {
                bytes.truncate(bytes.len() / 2);
                "half of it is left".to_owned()
            }
            Self::Empty => {
                bytes.clear();
                "it is empty".to_owned()
            }
            Self::Gone => {
                std::fs::remove_file(path).expect("the file");
                return "it is gone".to_owned();
            }
        };
        std::fs::write(path, bytes).expect("the file");
        what
    }
}

/// Who the device is: no copy of it can be had but by enrolling again.
const IDENTITY: &str = "identity.json";
/// What came with the device and nobody can send again; put back after its case.
const DELIVERED: [&str; 5] = [IDENTITY, "roots/director.json", "roots/image.json", "factory/manifest.json", "factory/model.onnx"];

/// More flipped bits in each blob.
const FLIPS_IN_BLOBS: usize = 30;

#[test]
fn whatever_rots_on_a_device_a_good_model_comes_back_or_the_file_is_named() {
    let bench = Bench::new();
    let seed = std::env::var("LEEWAY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(14);
    let (mut rng, mut device) = (Rng::new(seed), bench.device());
    device.start();
    judge::it_converges(&bench, &mut device).expect("an install");
    // What lies there when a device is cut off in the middle of its work, messages included.
    device.kill_agent();
    let mut files: Vec<String> = judge::files(&device.data).into_iter().map(|(name, _)| name).collect();
    files.retain(|name| name != "agent.lock");
    let damages = if crate::all() { Damage::ALL.as_slice() } else { &Damage::ALL[..1] };
    let (mut cases, mut failures) = (0, Vec::new());
    for name in &files {
        // A model has parts that are read in different ways: more of them are struck.
        let flips = if crate::all() && name.starts_with("blobs/") { FLIPS_IN_BLOBS } else { 0 };
        for damage in damages.iter().chain(std::iter::repeat_n(&Damage::FlippedBit, flips)) {
            cases += 1;
            let path = device.data.join(name);
            // A file of an earlier case's healing may have another name; what is gone cannot rot.
            let Ok(whole) = std::fs::read(&path) else { continue };
            let before = device.log().len();
            let what = damage.strike(&path, &mut rng);
            let judged = try_one(&bench, &mut device, name, before);
            let said =
                device.log()[before..].lines().find(|l| l.contains("ERROR") || l.contains("leeway-agent:")).unwrap_or("nothing").to_owned();
            println!("{name}: {what}: {}; said: {said}", judged.as_ref().map_or("FAILED", |how| how));
            if let Err(why) = judged {
                failures.push(format!("{name}, {what}: {why}"));
            }
            device.kill_agent();
            if DELIVERED.contains(&name.as_str()) {
                std::fs::write(&path, whole).expect("the file as it was");
            }
        }
    }
    println!("{cases} cases on {} files, seed {seed}", files.len());
    assert!(failures.is_empty(), "{} of {cases} failed:\n{}", failures.len(), failures.join("\n\n"));
}

/// Start the damaged device, and see what becomes of it.
fn try_one(bench: &Bench, device: &mut Device, name: &str, before: usize) -> Result<&'static str, String> {
    judge::the_runner_ends_with_its_agent(bench, device)?;
    device.start();
    let outcome = bench.watch(device, "a good model answers, or the file is named", |device, answered| match device.ended() {
        Some(status) => Ok(Some(status)),
        None if answered.is_empty() => Err(judge::tail(&device.log())),
        None => Ok(None),
    })?;
    let log = device.log()[before..].to_owned();
    if log.contains("panicked") {
        return Err(judge::tail(&log));
    }
    if let Some(status) = outcome {
        judge::ended_in_order(status, &log)?;
        let named = log.contains(name) && log.contains("enrol");
        return if name == IDENTITY && named {
            Ok("refused by name")
        } else {
            Err(format!("ended without a need:\n{}", judge::tail(&log)))
        };
    }
    judge::it_converges(bench, device)?;
    judge::no_litter(bench, &device.data)?;
    judge::calm(device, true)?;
    Ok("healed")
}
