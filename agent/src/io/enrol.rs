//! Joining a fleet: the device draws its own keys, tells the controller the public halves, and writes down what it is told.
//!
//! A device should be *made* with its roots of trust and with the authority its controller belongs to; then nobody who answers
//! the enrolment chooses them. Where they are not given, the first answer is believed, as with a first SSH login; but over https
//! the authority must be given, or be known from an earlier enrolment, since TLS that believes anybody is none. What stays true:
//! no key leaves the device, and each is on disk before the controller hears of it, so an enrolment that is broken off, or that
//! waits for a person, goes on where it was under the same name.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::trust::keyring::{KeyFile, SigningKey};
use leeway_protocol::trust::tuf::{MAX_ROOT_BYTES, RootChain};

use super::certificates::{self, Drawn, MAX_DOCUMENT, Pair, Place, Store};
use super::clock::now;
use super::disk::{make_dir, read_bounded, write_durably};
use super::download::agent as http_agent;
use super::tls::{TrustedTime, client};
use crate::action::{Dir, DiskPath};
use crate::agent::built_at;
use crate::config::check_base;
use crate::identity::{IDENTITY_FILE, Identity, TlsAccess};

pub(super) mod door;
use door::{Answer, Asking, Enrolled, MAX_ANSWER};

/// The longest secret of a broker.
const MAX_SECRET: u64 = 4 << 10;
/// First pause of a device that waits to be accepted, unless the controller names a longer one; doubles.
const FIRST_PAUSE_SECS: u64 = 5;
/// The longest pause: a person who has accepted a device does not stand beside it for longer.
const MAX_PAUSE_SECS: u64 = 300;
/// Tries of a device that waits to be accepted: a week of the longest pauses. Run again, it goes on.
const MAX_TRIES: u32 = 2_000;
/// A controller that does not answer any more is given up after so many tries in a row.
const MAX_SILENT: u32 = 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// The controller's address.
    pub url: String,
    /// The name to take; without one it is made from the key.
    pub device: Option<DeviceId>,
    /// Lets the device in, where enrolment is not open.
    pub token: Option<String>,
    /// Where the device's data will lie.
    pub dir: PathBuf,
    /// Labels for cohorts.
    pub labels: BTreeMap<String, String>,
    /// The image repository's root, if the device is made with it.
    pub image_root: Option<PathBuf>,
    /// The director's root, if the device is made with it.
    pub director_root: Option<PathBuf>,
    /// File with this device's secret at a broker that is not the controller's own.
    pub broker_secret: Option<PathBuf>,
    /// File with the authority that signs the controller's certificates, if the device is made with it.
    pub ca: Option<PathBuf>,
    /// Whether to wait until a person has accepted the device, where one must.
    pub wait: bool,
}

/// How it ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The device is in.
    Enrolled(Box<Identity>),
    /// A person has yet to accept it, and it was not to wait: the controller's words.
    Pending(String),
}

/// Enrol, and write down who this device is now.
pub fn enrol(ask: &Enrolment) -> anyhow::Result<Outcome> {
    let base = check_base(&ask.url).map_err(|remedy| anyhow::anyhow!("--url {}: {remedy}", ask.url))?;
    let given = (root_file(ask.image_root.as_deref())?, root_file(ask.director_root.as_deref())?);
    let secret = ask.broker_secret.as_deref().map(secret_file).transpose()?;
    let pinned = ask.ca.as_deref().map(authority_file).transpose()?;
    let dir = &ask.dir;
    make_dir(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let earlier = super::run::identity(dir).ok();
    let known = pinned.clone().or_else(|| Some(earlier.as_ref()?.tls.as_ref()?.ca.clone()));
    let time = TrustedTime::new(now().max(built_at()));
    let tls = known.map(|ca| client(&ca, None, &time)).transpose()?;
    if base.starts_with("https://") && tls.is_none() {
        bail!(
            "--url {base} speaks TLS: give the certificate of the authority it belongs to with --ca FILE (the controller prints where it is)"
        );
    }
    let key = device_key(dir)?;
    let device = match &ask.device {
        Some(device) => device.clone(),
        None => format!("dev-{}", key.public().hex().chars().take(12).collect::<String>()).parse()?,
    };
    let drawn = certificates::draw(dir)?;
    let asking = Asking { device: &device, key: &key, labels: &ask.labels, token: ask.token.as_deref(), csr: &drawn.csr };
    let answer = match let_in(&http_agent(tls), &base, &asking, ask.wait)? {
        Ok(answer) => answer,
        Err(sentence) => return Ok(Outcome::Pending(sentence)),
    };
    let image_root = given.0.unwrap_or(answer.image_root.clone().into_bytes());
    let director_root = given.1.unwrap_or(answer.director_root.clone().into_bytes());
    RootChain::new(&image_root, None).context("the image root that was given cannot be used")?;
    RootChain::new(&director_root, None).context("the director's root that was given cannot be used")?;
    let (identity, pair) = identify(answer, &base, pinned, secret, &asking, &drawn, &time)?;
    let roots = [(DiskPath::image_root(), image_root, Dir::Tuf), (DiskPath::enrolled_director_root(), director_root, Dir::Director)];
    for (path, bytes, chain) in roots {
        begin_anew(dir, &path, &bytes, chain).with_context(|| format!("{chain:?} cannot be emptied for the other root of trust"))?;
        let place = dir.join(path.dir().as_str());
        make_dir(&place)
            .and_then(|()| write_durably(&place.join(path.name()), &bytes))
            .with_context(|| format!("{path} cannot be written"))?;
    }
    settle(dir, &identity, pair.as_ref())?;
    Ok(Outcome::Enrolled(Box::new(identity)))
}

/// Who the device is by this answer, and its certificate if one came.
fn identify(
    answer: Enrolled,
    base: &str,
    pinned: Option<String>,
    secret: Option<String>,
    asking: &Asking<'_>,
    drawn: &Drawn,
    time: &Arc<TrustedTime>,
) -> anyhow::Result<(Identity, Option<Pair>)> {
    let artifacts = check_base(&answer.http_base)
        .map_err(|remedy| anyhow::anyhow!("the controller names {} for artifacts: {remedy}", answer.http_base))?;
    let broker = answer.mqtt.with_secret(secret, None);
    let (tls, pair) = match answer.tls {
        None if broker.tls || artifacts.starts_with("https://") => {
            bail!("the controller at {base} speaks TLS and gave this device no certificate: is it older than this agent?")
        }
        None => (None, None),
        Some(certified) => {
            let ca = pinned.unwrap_or(certified.ca);
            let door = if base.starts_with("https://") { base.to_owned() } else { artifacts.clone() };
            let pair = drawn.with((ca.clone(), certified.chain), (broker.clone(), artifacts.clone()), time)?;
            (Some(TlsAccess { enrolment: drawn.name().to_owned(), ca, door }), Some(pair))
        }
    };
    let (device, key, labels) = (asking.device.clone(), asking.key.clone(), asking.labels.clone());
    Ok((Identity { tenant: answer.tenant, device, key, labels, broker, artifacts, tls }, pair))
}

/// Write down the certificate and then, last, who this device is: with that file it counts as enrolled, and the certificate that
/// it names is the one that counts.
fn settle(dir: &Path, identity: &Identity, pair: Option<&Pair>) -> anyhow::Result<()> {
    let store = identity.tls.as_ref().map(|tls| Store::open(dir, &tls.enrolment)).transpose()?;
    if let (Some(store), Some(pair)) = (&store, pair) {
        store.keep(Place::Current, pair)?;
    }
    write_durably(&dir.join(IDENTITY_FILE), identity.to_text().as_bytes()).with_context(|| format!("{IDENTITY_FILE} cannot be written"))?;
    match &store {
        Some(store) => store.clean()?,
        None => certificates::forget(dir),
    }
    drop(std::fs::remove_file(dir.join(KEY_FILE)));
    Ok(())
}

/// Ask, and go on asking while a person has yet to accept the device; `Err` inside is a device that does not wait.
fn let_in(http: &ureq::Agent, base: &str, asking: &Asking<'_>, wait: bool) -> anyhow::Result<Result<Enrolled, String>> {
    let mut said = String::new();
    let mut silent = 0;
    for tries in 1..=MAX_TRIES {
        let named = match door::ask(http, base, asking) {
            Ok(Answer::Enrolled(answer)) => return Ok(Ok(*answer)),
            Ok(Answer::Refused(sentence)) => bail!("the controller at {base} does not let {} in: {sentence}", asking.device),
            Ok(Answer::Pending { sentence, .. }) if !wait => return Ok(Err(sentence)),
            Ok(Answer::Pending { sentence, retry_secs }) => {
                silent = 0;
                if sentence != said {
                    tell(&format!("{} waits to be let in: {sentence}", asking.device));
                    said = sentence;
                }
                retry_secs
            }
            // Only a device that was told to wait bears a controller that is away for a while.
            Err(error) if said.is_empty() || silent >= MAX_SILENT => return Err(error),
            Err(error) => {
                silent += 1;
                tell(&format!("{error:#}; asked again later"));
                0
            }
        };
        std::thread::sleep(pause(asking.device, tries, named));
    }
    bail!("{} was not let in for {MAX_TRIES} tries: {said}; run this again, and it goes on", asking.device)
}

/// What the controller names, or doubling from the first to the longest; and up to half more by the device's name, so that a
/// fleet that waits together does not ask together.
fn pause(device: &DeviceId, tries: u32, named: u64) -> Duration {
    let doubled = FIRST_PAUSE_SECS.saturating_mul(1 << tries.saturating_sub(1).min(16));
    let span = if named > 0 { named } else { doubled }.clamp(1, MAX_PAUSE_SECS);
    let drawn = Digest::of(format!("{device} waits {tries}").as_bytes());
    let drawn = drawn.as_bytes().first_chunk::<8>().copied().map_or(0, u64::from_le_bytes);
    Duration::from_millis(span * 1000 + drawn % (span * 500))
}

fn tell(sentence: &str) {
    eprintln!("leeway-agent: {sentence}");
}

/// Another root of trust than the one enrolled with before: what was believed by that one's word is forgotten, or a root that
/// thieves of its keys signed would go on standing above the new one. Before the new one is written, so that a power cut
/// leaves the device with the old root of trust or with nothing, and never with a mixture.
fn begin_anew(dir: &Path, path: &DiskPath, bytes: &[u8], chain: Dir) -> std::io::Result<()> {
    let known = read_bounded(&dir.join(path.dir().as_str()).join(path.name()), MAX_ROOT_BYTES)?;
    if known.is_none_or(|known| known == bytes) {
        return Ok(());
    }
    match std::fs::remove_dir_all(dir.join(chain.as_str())) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => std::fs::File::open(dir)?.sync_all(),
    }
}

/// Where the key lies until the identity holds it.
const KEY_FILE: &str = "device.key";

/// The key of an earlier, broken off or repeated enrolment, or a new one.
fn device_key(dir: &Path) -> anyhow::Result<SigningKey> {
    if let Ok(identity) = super::run::identity(dir) {
        return Ok(identity.key);
    }
    let path = dir.join(KEY_FILE);
    if let Some(bytes) = read_bounded(&path, MAX_ANSWER).with_context(|| format!("{} cannot be read", path.display()))? {
        let text = String::from_utf8_lossy(&bytes);
        return Ok(KeyFile::parse(&text).with_context(|| format!("{} is damaged: remove it to draw a new key", path.display()))?.key);
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random bytes could be drawn for the device's key: {error}"))?;
    let key = SigningKey::from_seed(&seed);
    write_durably(&path, key.to_key_file("device").as_bytes()).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(key)
}

fn secret_file(path: &Path) -> anyhow::Result<String> {
    let bytes = read_bounded(path, MAX_SECRET).with_context(|| format!("{} cannot be read", path.display()))?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| text.trim().to_owned());
    text.filter(|text| !text.is_empty()).with_context(|| format!("there is no secret in {}", path.display()))
}

fn authority_file(path: &Path) -> anyhow::Result<String> {
    let bytes = read_bounded(path, MAX_DOCUMENT).with_context(|| format!("{} cannot be read", path.display()))?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.with_context(|| format!("there is no certificate in {}", path.display()))
}

fn root_file(path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    let bytes = read_bounded(path, MAX_ROOT_BYTES).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Some(bytes.with_context(|| format!("there is no file {}", path.display()))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_root_of_trust_begins_with_nothing_and_the_same_one_keeps_what_it_led_to() {
        let dir = tempfile::tempdir().unwrap();
        let put = |place: &str, bytes: &[u8]| {
            std::fs::create_dir_all(dir.path().join(place).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(place), bytes).unwrap();
        };
        let path = DiskPath::image_root();
        put("roots/image.json", b"first");
        put("tuf/root.json", b"signed by thieves");
        put("director/root.json", b"another matter");
        begin_anew(dir.path(), &path, b"first", Dir::Tuf).unwrap();
        assert!(dir.path().join("tuf/root.json").exists());
        begin_anew(dir.path(), &path, b"second", Dir::Tuf).unwrap();
        assert!(!dir.path().join("tuf").exists() && dir.path().join("director/root.json").exists());
        begin_anew(dir.path(), &path, b"second", Dir::Tuf).unwrap();
    }
}
