//! Reports per second through the whole of ingestion, and what one report costs.
//!
//! A real controller in this process: signatures are checked, reports judged, committed durably in groups, added to drift,
//! quality and evidence, and receipted. First by the batch path (no broker), then over the embedded broker with one report per
//! message. CPU is this process's, so the second part includes the clients that send.
//!
//! `cargo run --release -p leeway-controller --example bench_ingest -- [devices] [reports]`
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use leeway_controller::fleet::CohortDoc;
use leeway_controller::io::control::{Controller, EnrolRequest, Enrolled};
use leeway_controller::io::mqtt::Incoming;
use leeway_controller::io::serve::{Handle, METADATA_FILES, ServeConfig, start_with};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Tenant, WindowId};
use leeway_protocol::manifest::{CONFIDENCE_BINS, Calibration, Decision, Golden, GoldenVector, Limits, Lineage, Manifest, TargetCustom};
use leeway_protocol::profile::{Counts, Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, WindowReport};
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::{Channel, Topic};
use leeway_protocol::trust::envelope::{self, Kind};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::repository::{Ceremony, Lifetimes, LineGrant, RoleBuilder, ceremony};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};

/// Features of the model, and bins of each.
const FEATURES: usize = 10;
const BINS: usize = 10;
/// Reports handed over at one time in the batch path.
const BATCH: usize = 5_000;
/// Connections in the second part, and reports on their way on each.
const CONNECTIONS: usize = 200;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |default: usize| args.next().and_then(|a| a.parse().ok()).unwrap_or(default);
    let (devices, reports) = (number(1_000), number(100_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(devices, reports))
}

struct Sender {
    id: DeviceId,
    key: SigningKey,
    access: Enrolled,
}

async fn run(devices: usize, reports: usize) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (handle, ceremony) = controller(dir.path()).await?;
    let manifest = publish(&handle.controller, &ceremony).await?;
    let mut senders = Vec::new();
    for n in 0..devices {
        senders.push(enrol(&handle.controller, n).await?);
    }
    println!(
        "{devices} devices, {FEATURES} features of {BINS} bins, {} bytes an envelope",
        sealed(&senders[0], &manifest, 0, 0).bytes.len()
    );
    batches(&handle.controller, &senders, &manifest, reports, dir.path()).await;
    over_mqtt(&handle, &senders, &manifest, reports / 4).await;
    handle.shutdown().await;
    Ok(())
}

async fn batches(controller: &Controller, senders: &[Sender], manifest: &Manifest, reports: usize, dir: &Path) {
    let uplinks: Vec<Incoming> =
        (0..reports).map(|n| sealed(&senders[n % senders.len()], manifest, (n / senders.len()) as u64, n as u64)).collect();
    let before = size(dir);
    let (since, cpu) = (Instant::now(), cpu());
    let mut rest = uplinks.into_iter();
    loop {
        let batch: Vec<Incoming> = rest.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        controller.take_in(batch).await;
    }
    say("batch path", controller, reports, since, cpu);
    println!("  {} bytes of store per report", (size(dir) - before) / reports as u64);
}

async fn over_mqtt(handle: &Handle, senders: &[Sender], manifest: &Manifest, reports: usize) {
    let before = handle.controller.metrics().uplinks.accepted;
    let senders: Vec<&Sender> = senders.iter().take(CONNECTIONS).collect();
    let each = reports / senders.len();
    let first = 1_u64 << 32;
    let uplinks: Vec<Vec<Incoming>> =
        senders.iter().map(|sender| (0..each as u64).map(|n| sealed(sender, manifest, first + n, first + n)).collect()).collect();
    let (since, cpu) = (Instant::now(), cpu());
    let mut clients = Vec::new();
    for (sender, uplinks) in senders.iter().zip(uplinks) {
        let mqtt = &sender.access.mqtt;
        let mut options = MqttOptions::new(&mqtt.username, &mqtt.host, mqtt.port);
        options.set_credentials(&mqtt.username, &mqtt.password);
        let (client, mut events) = AsyncClient::new(options, each + 8);
        for uplink in uplinks {
            let _ = client.try_publish(uplink.topic, QoS::AtLeastOnce, false, uplink.bytes);
        }
        clients.push((client, tokio::spawn(async move { while events.poll().await.is_ok() {} })));
    }
    let total = each * senders.len();
    while handle.controller.metrics().uplinks.accepted < before + total as u64 {
        if since.elapsed() > Duration::from_secs(120) {
            println!("  only {} of {total} arrived", handle.controller.metrics().uplinks.accepted - before);
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    say("over the broker, one report per message, clients included", &handle.controller, total, since, cpu);
}

fn say(what: &str, controller: &Controller, reports: usize, since: Instant, cpu_before: f64) {
    let (wall, used) = (since.elapsed().as_secs_f64(), cpu() - cpu_before);
    let metrics = controller.metrics();
    let refused: u64 = metrics.uplinks.refused.values().sum();
    println!(
        "{what}: {:.0} reports/s, {:.1} µs of CPU per report ({reports} in {wall:.2} s; {} batches so far, {refused} refused)",
        reports as f64 / wall,
        used * 1e6 / reports as f64,
        metrics.batches
    );
}

/// CPU seconds of this process, in ticks of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    fields.iter().sum::<f64>() / 100.0
}

fn size(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("store.redb")).map_or(0, |meta| std::os::unix::fs::MetadataExt::blocks(&meta) * 512)
}

fn sealed(sender: &Sender, manifest: &Manifest, window: u64, counter: u64) -> Incoming {
    let mut bins = vec![0; SPECIALS + BINS];
    bins.iter_mut().skip(SPECIALS).for_each(|bin| *bin = 10);
    let mut latency = vec![0; LATENCY_BUCKETS];
    latency[14] = 100;
    let at = Timestamp::from_secs(1_795_000_000 + (window & 0xffff_ffff) as i64 * 600);
    let report = WindowReport {
        manifest: manifest.blob().digest,
        model: manifest.model.digest,
        window: WindowId(window),
        opened_at: at,
        closed_at: at,
        inferences: 100,
        recorded: 100,
        errors: Errors::default(),
        latency,
        features: vec![Counts(bins); FEATURES],
        rho_percent: vec![30; FEATURES],
        confidence: [10; CONFIDENCE_BINS],
        classes: vec![60, 40],
        labelled: [Labelled::default(); CONFIDENCE_BINS],
        data_time: None,
        user: Default::default(),
    };
    let topic = Topic::new(&sender.access.tenant, &sender.id, Channel::Window).to_string();
    let bytes = envelope::seal(&sender.key, &sender.id, BootId(1), counter, Kind::Window, &report.to_bytes()).unwrap_or_default();
    Incoming { topic, bytes }
}

async fn enrol(controller: &Controller, n: usize) -> anyhow::Result<Sender> {
    let key = SigningKey::from_seed(Digest::of(&n.to_le_bytes()).as_bytes());
    let id: DeviceId = format!("station-{n:05}").parse()?;
    let labels = [("region".to_owned(), format!("r{}", n % 3))].into();
    let request =
        EnrolRequest { device: id.clone(), public_key: key.public().hex(), labels, token: None, challenge: None, proof: None, csr: None };
    Ok(Sender { id, key, access: controller.enrol(request).await? })
}

async fn controller(dir: &Path) -> anyhow::Result<(Handle, Ceremony)> {
    let mut seed = 0;
    let mut next = || {
        seed += 1;
        [seed; 32]
    };
    let now = Timestamp::from_secs(std::time::UNIX_EPOCH.elapsed()?.as_secs() as i64);
    let ceremony = ceremony(&[LineGrant { line: "rain".parse()?, trainer_io: None }], &Lifetimes::default(), now, &mut next)?;
    let keys = dir.join("keys");
    std::fs::create_dir(&keys)?;
    for name in ["snapshot", "timestamp", "director"] {
        let path = keys.join(format!("{name}.key"));
        std::fs::write(&path, ceremony.key(name).map(|key| key.to_key_file(name)).unwrap_or_default())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    for (name, bytes) in METADATA_FILES.iter().zip([&ceremony.image_root, &ceremony.image_targets, &ceremony.director_root]) {
        std::fs::write(keys.join(name), bytes)?;
    }
    // No model is loaded here: what is measured is what happens to reports about one.
    let runner = dir.join("runner.sh");
    std::fs::write(&runner, format!("#!/bin/sh\necho '{{\"ok\":true,\"proof\":{{\"golden\":\"sha256:{}\"}}}}'\n", "0".repeat(64)))?;
    std::fs::set_permissions(&runner, std::fs::Permissions::from_mode(0o755))?;
    let config = ServeConfig::local(dir.to_owned(), "bench".parse::<Tenant>()?);
    let handle = start_with(ServeConfig { open_enrolment: true, runner: Some((runner, Vec::new())), ..config }, |_| Router::new()).await?;
    for n in 0..3 {
        let cohort = CohortDoc {
            name: format!("r{n}").parse()?,
            line: "rain".parse()?,
            selector: format!("region=r{n}").parse()?,
            rank: 0,
            last_known_good: None,
            created_at: now,
        };
        handle.controller.put_cohort(cohort, "bench").await?;
    }
    Ok((handle, ceremony))
}

async fn publish(controller: &Controller, ceremony: &Ceremony) -> anyhow::Result<Arc<Manifest>> {
    let spec = |name: &str, n: usize| TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: vec![1, n as u64] };
    let mut masses = vec![0.0; SPECIALS];
    masses.extend(vec![1.0 / BINS as f64; BINS]);
    let feature = |i: usize| FeatureReference {
        name: format!("feature {i}"),
        source: Source::Input { tensor: 0, index: i },
        cuts: Cuts::Numeric { edges: (0..=BINS).map(|e| e as f64).collect() },
        masses: masses.clone(),
        importance: None,
        worth: None,
    };
    let vector = GoldenVector {
        inputs: vec![Tensor::f32("x", &[1, FEATURES as u64], &[0.5; FEATURES])],
        outputs: vec![Tensor::f32("p", &[1, 1], &[0.5])],
    };
    let model = controller.blobs().put(b"a model").await?;
    let manifest = Manifest {
        v: 1,
        line: "rain".parse()?,
        version: "1".parse()?,
        seq: 1,
        model,
        inputs: vec![spec("x", FEATURES)],
        outputs: vec![spec("p", 1)],
        state: Vec::new(),
        constants: Vec::new(),
        redact: Default::default(),
        decision: Decision::Binary { output: 0, index: 0, threshold: 0.5 },
        reference: Reference { rows: 1000, features: (0..FEATURES).map(feature).collect() },
        calibration: Calibration {
            edges: (0..=CONFIDENCE_BINS).map(|i| 0.5 + 0.05 * i as f64).collect(),
            accuracy: vec![0.8; CONFIDENCE_BINS],
            rows: vec![100; CONFIDENCE_BINS],
        },
        golden: Golden { rtol: 1e-3, atol: 1e-4, vectors: vec![vector] },
        limits: Limits::default(),
        lineage: Lineage::default(),
        created_at: Timestamp::from_secs(1),
    };
    controller.blobs().put(&manifest.to_bytes()).await?;
    let expires = Timestamp::from_secs(std::time::UNIX_EPOCH.elapsed()?.as_secs() as i64 + 86_400);
    let key = ceremony.key("rain").ok_or_else(|| anyhow::anyhow!("no release key"))?;
    let role = RoleBuilder::new(false, expires).add(&model, &TargetCustom::of(&manifest)).sign(&[key])?;
    controller.upload_role("rain", &role, "bench").await?;
    Ok(Arc::new(manifest))
}
