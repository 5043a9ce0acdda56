//! Roles change only after proof, no request finds nobody, the shadow is compared, windows and labels reach their model.
use std::cell::Cell;
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::tensor::Tensor;

use super::*;
use crate::runtime::samples::logistic;

#[derive(Default)]
struct World {
    files: BTreeMap<String, Vec<u8>>,
    nanos: Cell<u64>,
}

impl Organs for World {
    fn read(&mut self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        let bytes = self.files.get(path).cloned().ok_or_else(|| format!("{path} does not exist"))?;
        if bytes.len() as u64 > most { Err(format!("{path} is too long")) } else { Ok(bytes) }
    }

    fn nanos(&self) -> u64 {
        self.nanos.set(self.nanos.get() + 50_000);
        self.nanos.get()
    }

    fn resident_bytes(&self) -> u64 {
        0
    }
}

impl World {
    /// Put a release on the disk and name the command that loads it.
    fn release(&mut self, name: &str, slot: Slot, role: Role, w: [f32; 2], spoil: fn(&mut Manifest, &mut Vec<u8>)) -> RunnerCommand {
        let (mut bytes, mut manifest) = logistic(w, 0.0);
        spoil(&mut manifest, &mut bytes);
        let (model_path, manifest_path) = (format!("{name}.onnx"), format!("{name}.json"));
        let manifest_bytes = manifest.to_bytes();
        let digest = Digest::of(&manifest_bytes);
        self.files.insert(model_path.clone(), bytes);
        self.files.insert(manifest_path.clone(), manifest_bytes);
        RunnerCommand::Load { slot, role, model_path, manifest_path, manifest: digest }
    }
}

fn now(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn ask(host: &mut Host, world: &World, id: u64, x: [f32; 2]) -> Result<f64, Refusal> {
    let inputs = [Tensor::f32("x", &[1, 2], &x)];
    let answer = host.infer(now(1_000), world, &Request { id, inputs: &inputs, nulls: &[], data_time: None })?;
    host.follow_up(world);
    Ok(answer.outputs[0].to_f64()[0])
}

#[test]
fn a_release_serves_after_its_proof_and_its_window_is_told() {
    let (mut world, mut host) = (World::default(), Host::new());
    assert_eq!(ask(&mut host, &world, 0, [0.0, 0.0]), Err(Refusal::NoModel));
    let load = world.release("one", Slot::A, Role::Active, [1.0, 0.0], |_, _| ());
    let notices = host.handle(now(1), &mut world, load);
    let [RunnerNotice::Loaded { slot: Slot::A, role: Role::Active, proof }] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!((proof.p50_us, proof.p99_us), (50, 50));
    host.handle(
        now(1),
        &mut world,
        RunnerCommand::SetPolicy { windows: Windows { max_inferences: 3, max_ms: 60_000 }, capture: CapturePolicy::default() },
    );
    for id in 0..3 {
        assert!(ask(&mut host, &world, id, [3.0, 0.0]).unwrap() > 0.9);
    }
    let notices = host.notices();
    let [RunnerNotice::Window(report)] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!((report.inferences, report.manifest, report.classes.clone()), (3, proof.manifest, vec![0, 3]));
    assert!(host.label(now(2_000), 1, 1.0) && !host.label(now(2_000), 77, 1.0));
    let notices = host.tick(now(2_000), 1_000_000_000);
    assert_eq!(notices, [RunnerNotice::Progress { slot: Slot::A, inferences: 3, errors: Errors::default() }]);
    assert!(host.tick(now(2_000), 1_100_000_000).is_empty());
    let notices = host.handle(now(3_000), &mut world, RunnerCommand::Stop);
    assert!(
        matches!(notices.as_slice(), [RunnerNotice::Window(late)] if late.labels().correct == 1 && late.inferences == 0),
        "{notices:?}"
    );
}

#[test]
fn a_model_that_rotted_is_never_taken_for_one_that_is_at_fault() {
    let length = logistic([1.0, 0.0], 0.0).0.len();
    for at in 0..length {
        let (mut world, mut host) = (World::default(), Host::new());
        let load = world.release("x", Slot::A, Role::Active, [1.0, 0.0], |_, _| ());
        world.files.get_mut("x.onnx").unwrap()[at] ^= 1 << (at % 8);
        let notices = host.handle(now(1), &mut world, load);
        let [RunnerNotice::LoadFailed { reason, .. }] = notices.as_slice() else { panic!("byte {at}: {notices:?}") };
        assert_eq!(reason.code, Code::DigestMismatch, "byte {at}: {reason}");
    }
}

#[test]
fn what_does_not_prove_itself_changes_nothing() {
    type Spoil = fn(&mut Manifest, &mut Vec<u8>);
    let table: [(Code, Spoil); 6] = [
        (Code::GoldenMismatch, |m, _| m.golden.vectors[0].outputs[0].data = 0.75f32.to_le_bytes().to_vec()),
        (Code::LengthMismatch, |_, b| b.push(0)),
        (Code::DigestMismatch, |_, b| b[40] ^= 1),
        (Code::PrescanRefused, |m, b| {
            *b = vec![255; 300];
            m.model = leeway_protocol::manifest::Blob::of(b);
        }),
        (Code::ManifestInvalid, |m, _| m.v = 9),
        (Code::IoMismatch, |m, _| {
            m.outputs[0].name = "q".into();
            m.golden.vectors.iter_mut().for_each(|v| v.outputs[0].name = "q".into());
        }),
    ];
    for (code, spoil) in table {
        let (mut world, mut host) = (World::default(), Host::new());
        let good = world.release("good", Slot::A, Role::Active, [1.0, 0.0], |_, _| ());
        host.handle(now(1), &mut world, good);
        for role in [Role::Candidate, Role::Shadow, Role::Active] {
            let bad = world.release("bad", Slot::B, role, [-1.0, 0.0], spoil);
            let notices = host.handle(now(2), &mut world, bad);
            let [RunnerNotice::LoadFailed { slot: Slot::B, reason, .. }] = notices.as_slice() else { panic!("{code:?}: {notices:?}") };
            assert_eq!(reason.code, code, "{reason}");
        }
        assert!(ask(&mut host, &world, 0, [3.0, 0.0]).unwrap() > 0.9, "the good one serves on");
    }
    let (mut world, mut host) = (World::default(), Host::new());
    let RunnerCommand::Load { slot, role, model_path, manifest_path, .. } =
        world.release("x", Slot::A, Role::Active, [1.0, 0.0], |_, _| ())
    else {
        panic!()
    };
    let other = RunnerCommand::Load { slot, role, model_path, manifest_path: manifest_path.clone(), manifest: Digest::of(b"other") };
    assert!(
        matches!(host.handle(now(1), &mut world, other).as_slice(), [RunnerNotice::LoadFailed { reason, .. }] if reason.code == Code::DigestMismatch)
    );
    let missing = RunnerCommand::Load { slot, role, model_path: "none".into(), manifest_path, manifest: Digest::of(b"") };
    world.files.clear();
    assert!(
        matches!(host.handle(now(1), &mut world, missing).as_slice(), [RunnerNotice::LoadFailed { reason, .. }] if reason.code == Code::DiskFailed)
    );
}

#[test]
fn a_candidate_is_judged_by_its_limits_and_dropped() {
    let (mut world, mut host) = (World::default(), Host::new());
    let slow = world.release("slow", Slot::B, Role::Candidate, [1.0, 0.0], |m, _| m.limits.p99_us = 10);
    let notices = host.handle(now(1), &mut world, slow);
    assert!(matches!(notices.as_slice(), [RunnerNotice::LoadFailed { reason, .. }] if reason.code == Code::TooSlow), "{notices:?}");
    let good = world.release("good", Slot::B, Role::Candidate, [1.0, 0.0], |_, _| ());
    assert!(matches!(host.handle(now(1), &mut world, good).as_slice(), [RunnerNotice::Loaded { role: Role::Candidate, .. }]));
    assert!(host.serving().is_none());
    let notices = host.handle(now(1), &mut world, RunnerCommand::Activate { slot: Slot::B });
    assert!(matches!(notices.as_slice(), [RunnerNotice::LoadFailed { .. }]), "{notices:?}");
}

#[test]
fn a_shadow_is_compared_then_takes_over_without_a_gap() {
    let (mut world, mut host) = (World::default(), Host::new());
    let one = world.release("one", Slot::A, Role::Active, [1.0, 0.0], |_, _| ());
    host.handle(now(1), &mut world, one);
    let two = world.release("two", Slot::B, Role::Shadow, [0.0, 1.0], |_, _| ());
    host.handle(now(1), &mut world, two);
    ask(&mut host, &world, 0, [2.0, 2.0]).unwrap();
    ask(&mut host, &world, 1, [2.0, -2.0]).unwrap();
    assert!(ask(&mut host, &world, 2, [-2.0, 2.0]).unwrap() < 0.5, "the active one answers");
    let notices = host.handle(now(2), &mut world, RunnerCommand::Activate { slot: Slot::B });
    let [RunnerNotice::Shadow { slot: Slot::B, summary }, RunnerNotice::Window(report), RunnerNotice::Activated { slot: Slot::B }] =
        notices.as_slice()
    else {
        panic!("{notices:?}")
    };
    assert_eq!((summary.compared, summary.disagreed), (3, 2));
    assert!(summary.p50_us > 0);
    assert_eq!(report.inferences, 3);
    assert!(ask(&mut host, &world, 3, [-2.0, 2.0]).unwrap() > 0.5, "the new one answers");
    assert!(host.label(now(3), 0, 1.0), "the former one still takes its labels");
    assert!(matches!(
        host.handle(now(4), &mut world, RunnerCommand::Activate { slot: Slot::A }).last(),
        Some(RunnerNotice::Activated { slot: Slot::A })
    ));
    assert!(ask(&mut host, &world, 4, [-2.0, 2.0]).unwrap() < 0.5, "and can take over again at once");
    host.handle(now(5), &mut world, RunnerCommand::Drop { slot: Slot::A });
    assert_eq!(ask(&mut host, &world, 5, [0.0, 0.0]), Err(Refusal::NoModel));
}

#[test]
fn missing_values_are_refused_by_name_but_counted_in_the_profile() {
    let (mut world, mut host) = (World::default(), Host::new());
    let load = world.release("one", Slot::A, Role::Active, [1.0, 0.0], |_, _| ());
    host.handle(now(1), &mut world, load);
    let refusal = ask(&mut host, &world, 0, [f32::NAN, 0.0]).unwrap_err().to_string();
    assert!(refusal.contains("element 0 (f0) of input \"x\" has no finite value"), "{refusal}");
    let x = [Tensor::f32("x", &[1, 2], &[0.0, 0.0])];
    let refused = host.infer(now(1), &world, &Request { id: 1, inputs: &x, nulls: &[(0, 0)], data_time: None });
    assert!(matches!(refused, Err(Refusal::Rejected(text)) if text.contains("element 0 (f0)")));
    let wide = [Tensor::f32("x", &[1, 3], &[0.0; 3])];
    let refused = host.infer(now(1), &world, &Request { id: 1, inputs: &wide, nulls: &[], data_time: None });
    assert!(matches!(refused, Err(Refusal::Rejected(text)) if text.contains("must be FP32 [1, 2]")));
    let serving = host.serving().unwrap();
    assert_eq!((serving.errors.rejected, serving.errors.against_model(), serving.inferences), (3, 0, 0));
    let notices = host.handle(now(2), &mut world, RunnerCommand::CloseWindows);
    let [RunnerNotice::Window(report)] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!((report.features[0].0[0], report.features[0].0[1], report.errors.rejected), (1, 1, 3), "one null, one NaN");
    assert_eq!(leeway_protocol::report::WindowReport::parse(&report.to_bytes()), Ok((**report).clone()));
}

#[test]
fn a_model_proved_on_missing_values_is_asked() {
    let (mut world, mut host) = (World::default(), Host::new());
    let load = world.release("one", Slot::A, Role::Active, [1.0, 0.0], |m, _| {
        let mut vector = m.golden.vectors[0].clone();
        vector.inputs[0] = Tensor::f32("x", &[1, 2], &[f32::NAN, 0.0]);
        vector.outputs[0] = Tensor::f32("p", &[1, 1], &[0.0]);
        m.golden.vectors.push(vector);
    });
    let notices = host.handle(now(1), &mut world, load);
    assert!(matches!(notices.as_slice(), [RunnerNotice::Loaded { .. }]), "{notices:?}");
    assert!(ask(&mut host, &world, 0, [f32::NAN, 0.0]).is_ok());
}

/// An image model: the mean of a picture of 8 × 8, and a manifest that watches its light and its sharpness.
fn camera() -> (Vec<u8>, Manifest) {
    use leeway_protocol::manifest::{Decision, GoldenVector};
    use leeway_protocol::profile::{Cuts, FeatureReference, SPECIALS, Source};
    use leeway_protocol::statistic::{Figure, Layout, Place, View};
    use prost::Message as _;

    use crate::runtime::onnx::{Graph, element};
    use crate::runtime::samples::{manifest, model, node, spec, value};

    let shape = [1u64, 1, 8, 8];
    let graph = Graph {
        node: vec![node("GlobalAveragePool", &["x"], &["mean"])],
        initializer: vec![],
        input: vec![value("x", element::FLOAT, &[1, 1, 8, 8])],
        output: vec![value("mean", element::FLOAT, &[1, 1, 1, 1])],
    };
    let bytes = model(graph).encode_to_vec();
    let golden =
        |x: f32| GoldenVector { inputs: vec![Tensor::f32("x", &shape, &[x; 64])], outputs: vec![Tensor::f32("mean", &[1, 1, 1, 1], &[x])] };
    let mut manifest = manifest(&bytes, vec![spec("x", &shape)], vec![spec("mean", &[1, 1, 1, 1])], vec![golden(0.25), golden(0.75)]);
    manifest.decision = Decision::None;
    let view = View::Image { layout: Layout::Nchw, channels: 1, height: 8, width: 8, black: vec![0.0], white: vec![1.0], every: 1 };
    let feature = |name: &str, figure, edges: Vec<f64>| {
        let cuts = Cuts::Numeric { edges };
        let mut masses = vec![0.0; SPECIALS + cuts.bins()];
        masses[SPECIALS] = 1.0;
        let source = Source::Derived { of: Place::Input(0), view: view.clone(), figure };
        FeatureReference { name: name.into(), source, cuts, masses, importance: None, worth: None }
    };
    manifest.reference.features = vec![
        feature("x_mean", Figure::ChannelMean { channel: 0 }, vec![0.4, 0.6]),
        feature("x_sharpness", Figure::Sharpness, vec![5.0, 20.0]),
    ];
    (bytes, manifest)
}

#[test]
fn an_image_model_is_watched_by_how_its_pictures_look() {
    let (mut world, mut host) = (World::default(), Host::new());
    let load = world.release("camera", Slot::A, Role::Active, [0.0, 0.0], |manifest, bytes| (*bytes, *manifest) = camera());
    let notices = host.handle(now(1), &mut world, load);
    assert!(matches!(notices.as_slice(), [RunnerNotice::Loaded { .. }]), "{notices:?}");
    let sharp: Vec<f32> = (0..64).map(|i| ((i % 8 + i / 8) % 2) as f32).collect();
    let dull: Vec<f32> = sharp.iter().map(|x| 0.5 + 0.1 * (x - 0.5)).collect();
    for (id, pixels) in [&sharp, &sharp, &dull, &dull, &dull].into_iter().enumerate() {
        let inputs = [Tensor::f32("x", &[1, 1, 8, 8], pixels)];
        let request = Request { id: id as u64, inputs: &inputs, nulls: &[], data_time: None };
        let answer = host.infer(now(1_000), &world, &request).unwrap();
        assert!((answer.outputs[0].to_f64()[0] - 0.5).abs() < 1e-6);
    }
    let notices = host.handle(now(2_000), &mut world, RunnerCommand::CloseWindows);
    let [RunnerNotice::Window(report)] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!(report.features[0].0, [0, 0, 0, 0, 0, 5], "the light is the same");
    assert_eq!(report.features[1].0, [0, 0, 3, 0, 0, 2], "three pictures have lost their sharpness");
}
