//! Joining a fleet: the device draws its own key, tells the controller the public half, and writes down what it is told.
//!
//! A device should be *made* with its roots of trust; then nobody who answers the enrolment chooses them. Where they are not
//! given, the first answer is believed, as with a first SSH login. What stays true: the key never leaves the device, and it is
//! on disk before the controller hears of it, so an enrolment that is broken off can be done again under the same name.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use leeway_protocol::enrolment;
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::trust::keyring::{KeyFile, SigningKey};
use leeway_protocol::trust::tuf::{MAX_ROOT_BYTES, RootChain};
use serde::{Deserialize, Serialize};

use super::disk::{make_dir, read_bounded, write_durably};
use super::download::agent as http_agent;
use crate::action::{Dir, DiskPath};
use crate::config::check_base;
use crate::identity::{BrokerAccess, IDENTITY_FILE, Identity};

/// The name is taken; proof that it is ours is asked for.
const CONFLICT: u16 = 409;
/// The longest answer: two roots and a few words.
const MAX_ANSWER: u64 = 2 * MAX_ROOT_BYTES + (64 << 10);
/// The longest secret of a broker.
const MAX_SECRET: u64 = 4 << 10;
/// The longest text of a refusal that is shown.
const MAX_SHOWN: usize = 300;

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
}

#[derive(Serialize)]
struct Request<'a> {
    device: &'a DeviceId,
    public_key: String,
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
}

/// What a controller says that knows this device already.
#[derive(Deserialize)]
struct Taken {
    challenge: Option<String>,
}

/// What the controller answers; fields for newer devices are ignored.
#[derive(Deserialize)]
struct Answer {
    tenant: Tenant,
    mqtt: MqttAnswer,
    http_base: String,
    image_root: String,
    director_root: String,
}

#[derive(Deserialize)]
struct MqttAnswer {
    host: String,
    port: u16,
    username: String,
    password: String,
}

/// Enrol, and write down who this device is now.
pub fn enrol(ask: &Enrolment) -> anyhow::Result<Identity> {
    let base = check_base(&ask.url).map_err(|remedy| anyhow::anyhow!("--url {}: {remedy}", ask.url))?;
    let given = (root_file(ask.image_root.as_deref())?, root_file(ask.director_root.as_deref())?);
    let secret = ask.broker_secret.as_deref().map(secret_file).transpose()?;
    let dir = &ask.dir;
    make_dir(dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let key = device_key(dir)?;
    let device = match &ask.device {
        Some(device) => device.clone(),
        None => format!("dev-{}", key.public().hex().chars().take(12).collect::<String>()).parse()?,
    };
    let answer = ask_controller(&base, ask, &device, &key)?;
    let image_root = given.0.unwrap_or(answer.image_root.into_bytes());
    let director_root = given.1.unwrap_or(answer.director_root.into_bytes());
    RootChain::new(&image_root, None).context("the image root that was given cannot be used")?;
    RootChain::new(&director_root, None).context("the director's root that was given cannot be used")?;
    let MqttAnswer { host, port, username, password } = answer.mqtt;
    // A controller with a broker of its own hands out a secret; elsewhere the broker's operator does.
    let password = secret.unwrap_or(password);
    let broker = BrokerAccess { host, port, username, password };
    let artifacts = check_base(&answer.http_base)
        .map_err(|remedy| anyhow::anyhow!("the controller names {} for artifacts: {remedy}", answer.http_base))?;
    let identity = Identity { tenant: answer.tenant, device, key, labels: ask.labels.clone(), broker, artifacts };
    let roots = [(DiskPath::image_root(), image_root, Dir::Tuf), (DiskPath::enrolled_director_root(), director_root, Dir::Director)];
    for (path, bytes, chain) in roots {
        begin_anew(dir, &path, &bytes, chain).with_context(|| format!("{chain:?} cannot be emptied for the other root of trust"))?;
        let place = dir.join(path.dir().as_str());
        make_dir(&place)
            .and_then(|()| write_durably(&place.join(path.name()), &bytes))
            .with_context(|| format!("{path} cannot be written"))?;
    }
    // Last: with this file the device counts as enrolled.
    write_durably(&dir.join(IDENTITY_FILE), identity.to_text().as_bytes()).with_context(|| format!("{IDENTITY_FILE} cannot be written"))?;
    drop(std::fs::remove_file(dir.join(KEY_FILE)));
    Ok(identity)
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

fn root_file(path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    let bytes = read_bounded(path, MAX_ROOT_BYTES).with_context(|| format!("{} cannot be read", path.display()))?;
    Ok(Some(bytes.with_context(|| format!("there is no file {}", path.display()))?))
}

fn ask_controller(base: &str, ask: &Enrolment, device: &DeviceId, key: &SigningKey) -> anyhow::Result<Answer> {
    let url = format!("{base}/api/v1/enrol");
    let public_key = key.public().hex();
    let mut request =
        Request { device, public_key: public_key.clone(), labels: &ask.labels, token: ask.token.as_deref(), challenge: None, proof: None };
    let (mut status, mut body) = post(&url, &request)?;
    let taken = serde_json::from_str::<Taken>(&body).ok().filter(|_| status == CONFLICT);
    // The name is this key's own: what was sent could have been sent by anybody, so the controller asks for a signature.
    if let Some(challenge) = taken.and_then(|taken| taken.challenge).filter(|text| text.len() <= enrolment::MAX_CHALLENGE) {
        request.proof = Some(key.sign(&enrolment::proof(device, &public_key, &challenge, None)).hex());
        request.challenge = Some(challenge);
        (status, body) = post(&url, &request)?;
    }
    if !(200..300).contains(&status) {
        let shown: String = body.chars().take(MAX_SHOWN).collect();
        bail!("the controller at {base} does not enrol {device}: it answered {status}: {shown}");
    }
    serde_json::from_str(&body)
        .with_context(|| format!("the controller at {base} answered something else than an enrolment: is it a leeway controller?"))
}

fn post(url: &str, request: &Request<'_>) -> anyhow::Result<(u16, String)> {
    use std::io::Read as _;
    let json = serde_json::to_vec(request).context("the request has no JSON form")?;
    let unreachable = || format!("the controller at {url} does not answer: is `leeway serve` running there?");
    let mut answer = http_agent().post(url).header("Content-Type", "application/json").send(&json).with_context(unreachable)?;
    let mut body = String::new();
    answer.body_mut().as_reader().take(MAX_ANSWER).read_to_string(&mut body).with_context(unreachable)?;
    Ok((answer.status().as_u16(), body))
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
