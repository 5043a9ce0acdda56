//! The worker's side against a stand-in that speaks the documented API of each service, over real sockets, with the files of
//! `deploy/trainers`; time is the test's own.
mod stand_in;

use super::*;
use crate::trainer::tabular_io;
use stand_in::{Fault, StandIn};

/// When the tests play, in seconds: later than any clock, because a run is due when it is submitted.
const BASE: i64 = 4_000_000_000;

const SERVICES: [&str; 4] = ["airflow", "kubeflow", "sagemaker", "github"];

/// The file as it is shipped, but for where the service and its secrets are.
fn file(service: &str, stand_in: &StandIn, dir: &Path) -> String {
    let (text, base) = match service {
        "airflow" => (include_str!("../../../../../deploy/trainers/airflow.toml"), "https://airflow.example"),
        "kubeflow" => (include_str!("../../../../../deploy/trainers/kubeflow.toml"), "http://ml-pipeline.kubeflow.svc.cluster.local:8888"),
        "sagemaker" => (include_str!("../../../../../deploy/trainers/sagemaker.toml"), "https://api.sagemaker.{var.region}.amazonaws.com"),
        _ => (include_str!("../../../../../deploy/trainers/github.toml"), "https://api.github.com"),
    };
    let secret = dir.join("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let from = format!("{{ file = {:?}", secret.display().to_string());
    let lines = text.lines().filter(|line| !line.starts_with("allow")).map(|line| match line.split_once("= { ") {
        Some((name, source)) if source.starts_with("env") || source.starts_with("file") => format!("{name}= {from} }}"),
        _ => line.to_owned(),
    });
    let text = lines.collect::<Vec<_>>().join("\n").replace(base, &stand_in.url());
    format!("allow = [\"127.0.0.1\"]\n{text}\n[limits]\nrequest_secs = 1\n")
}

fn spec() -> TrainSpec {
    let (inputs, outputs) = tabular_io(2);
    TrainSpec {
        v: 1,
        job: "rain-1700000000000".into(),
        line: "rain".parse().unwrap(),
        parent: None,
        reason: "At coast, wind speed moved, and it \"hurts\".".into(),
        features: vec!["a".into(), "b".into()],
        label: "label".into(),
        weight: None,
        inputs,
        outputs,
        datasets: Vec::new(),
    }
}

struct Worker {
    remote: Remote,
    now: Timestamp,
}

impl Worker {
    fn new(text: &str, dir: &Path, now: i64) -> Self {
        let mut remote = Remote::new(text, dir, "https://controller.example").unwrap();
        remote.submit(&spec(), b"train", b"holdout").unwrap();
        Self { remote, now: Timestamp::from_secs(BASE + now) }
    }

    fn steps(&mut self, most: usize) -> Standing {
        for _ in 0..most {
            let standing = self.remote.step(&spec().job, self.now).unwrap();
            if standing != Standing::Open {
                return standing;
            }
            self.now = self.now.plus_secs(5);
        }
        Standing::Open
    }
}

#[test]
fn a_run_is_started_once_followed_and_its_delivery_taken() {
    for service in SERVICES {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::start(service, "done", Vec::new());
        let mut worker = Worker::new(&file(service, &stand_in, dir.path()), dir.path(), 0);
        // Submitting again changes nothing.
        worker.remote.submit(&spec(), b"train", b"holdout").unwrap();
        assert_eq!(worker.steps(200), Standing::Done, "{service}");
        assert_eq!(stand_in.started(), 1, "{service}");
        assert_eq!(stand_in.complaints(), Vec::<String>::new(), "{service}");
        let said = worker.remote.external(&spec().job).unwrap();
        assert!(said.executor == service && !said.run.is_empty(), "{said:?}");
        assert!(worker.remote.wants_delivery(&spec().job));
        assert!(worker.remote.collect(&spec().job).unwrap_err().to_string().contains("leeway trainer deliver"), "{service}");
        let golden = br#"{"inputs":[[1,2]],"outputs":[[0.5]]}"#.to_vec();
        worker.remote.take_delivery(&spec().job, Delivered { model: b"onnx".to_vec(), golden, metrics: None });
        let made = worker.remote.collect(&spec().job).unwrap();
        assert!(made.model == b"onnx" && made.code.starts_with(&format!("{service} run ")), "{}", made.code);
    }
}

#[test]
fn runs_that_end_badly_say_so() {
    for service in SERVICES {
        for end in ["failed", "cancelled"] {
            let dir = tempfile::tempdir().unwrap();
            let stand_in = StandIn::start(service, end, Vec::new());
            let mut worker = Worker::new(&file(service, &stand_in, dir.path()), dir.path(), 0);
            let Standing::Failed(why) = worker.steps(200) else { panic!("{service}: {end}") };
            assert!(why.starts_with(&format!("{service} run ")) && why.contains(" is "), "{why}");
            assert!(matches!(worker.remote.poll(&spec().job), Ok(Progress::Failed(_))));
        }
    }
}

/// The connection breaks after the service has taken the run, and the worker is restarted; or it answers too late; or only 429 and 503.
#[test]
fn trouble_on_the_way_never_starts_a_second_run() {
    for service in SERVICES {
        // Two of them are asked for a list first.
        let before = usize::from(["kubeflow", "github"].contains(&service));
        let troubles: [(&str, Vec<Fault>); 4] = [
            ("lost", vec![Fault::TakenAndLost]),
            ("late", vec![Fault::TakenAndLate]),
            ("busy", vec![Fault::Status(429), Fault::Status(429)]),
            ("down", vec![Fault::TakenAndLost, Fault::Status(503), Fault::Status(500), Fault::Status(429)]),
        ];
        for (name, faults) in troubles {
            let dir = tempfile::tempdir().unwrap();
            let faults = std::iter::repeat_n(Fault::None, before).chain(faults).collect();
            let stand_in = StandIn::start(service, "done", faults);
            let text = file(service, &stand_in, dir.path());
            let mut worker = Worker::new(&text, dir.path(), 0);
            let first = worker.steps(before + 1);
            assert_eq!(first, Standing::Open, "{service} {name}");
            // Killed: another process with the same folder goes on.
            let seconds = worker.now.as_millis() / 1000 - BASE;
            drop(worker);
            let mut worker = Worker::new(&text, dir.path(), seconds);
            assert_eq!(worker.steps(400), Standing::Done, "{service} {name}: {:?}", worker.remote.external(&spec().job));
            assert_eq!(stand_in.started(), 1, "{service} {name}");
        }
    }
}

#[test]
fn it_goes_only_where_it_may_and_follows_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start("airflow", "done", vec![Fault::Redirect]);
    let text = file("airflow", &stand_in, dir.path());
    let mut worker = Worker::new(&text, dir.path(), 0);
    // A redirect is no answer that names a run, and no run was taken: it is asked again, not followed.
    assert_eq!(worker.steps(200), Standing::Done);
    assert_eq!((stand_in.started(), stand_in.followed()), (1, 0));

    let dir = tempfile::tempdir().unwrap();
    let inside = text.replace("allow = [\"127.0.0.1\"]", "allow = []");
    let mut worker = Worker::new(&inside, dir.path(), 0);
    let Standing::Failed(why) = worker.steps(400) else { panic!("it went inside") };
    assert!(why.contains("without TLS") || why.contains("not a public address"), "{why}");
    assert_eq!(stand_in.started(), 1, "nothing was sent");

    let missing = text.replace("secret\"", "no-secret\"");
    let error = Remote::new(&missing, dir.path(), "x").unwrap_err().to_string();
    assert!(error.contains("secret \"token\" cannot be had"), "{error}");
}
