//! The state machine against answers as each service documents them; the files are those of `deploy/trainers`.
use std::sync::Arc;

use leeway_protocol::time::Timestamp;
use serde_json::{Value, json};

use super::*;

fn config(name: &str) -> Arc<Config> {
    let text = match name {
        "airflow" => include_str!("../../../../deploy/trainers/airflow.toml"),
        "kubeflow" => include_str!("../../../../deploy/trainers/kubeflow.toml"),
        "sagemaker" => include_str!("../../../../deploy/trainers/sagemaker.toml"),
        _ => include_str!("../../../../deploy/trainers/github.toml"),
    };
    Arc::new(Config::parse(text).unwrap())
}

const KEY: &str = "leeway-0123456789012345678901234567890123456789";

struct Talk {
    run: Run,
    now: Timestamp,
}

impl Talk {
    fn new(name: &str, record: Record) -> Self {
        let config = config(name);
        let secrets = config.secrets.keys().map(|name| (name.clone(), format!("secret-{name}"))).collect();
        let mut params: Params = PARAMS.into_iter().map(|name| (name.to_owned(), format!("the {name}"))).collect();
        params.insert("leeway_key".to_owned(), KEY.to_owned());
        let now = Timestamp::from_millis(1_000_000);
        Self { run: Run::new(config, secrets, params, record, KEY.to_owned(), now), now }
    }

    /// The next request, after waiting as long as is asked for.
    fn asked(&mut self) -> Request {
        for _ in 0..3 {
            match self.run.next(self.now) {
                Next::Wait(until) => self.now = until,
                Next::Ask(request) => {
                    if request.starts {
                        self.run.asking(self.now);
                    }
                    return *request;
                }
                Next::Over(standing) => panic!("over: {standing:?}"),
            }
        }
        panic!("it waits for ever")
    }

    fn answer(&mut self, status: u16, body: Value) {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.run.heard(Ok(Answer { status, retry_after: None, body }), self.now);
    }

    fn silence(&mut self) {
        self.run.heard(Err("no answer within 30 s".to_owned()), self.now);
    }
}

/// How each service answers: nothing is there, it takes the run, it lists it, it runs, it ends well, badly, or is ended.
struct Shape {
    name: &'static str,
    empty: Value,
    taken: (u16, Value),
    listed: Value,
    run: &'static str,
    running: Value,
    done: Value,
    failed: Value,
    cancelled: Value,
}

fn shapes() -> [Shape; 4] {
    let arn = "arn:aws:sagemaker:eu-west-1:123456789012:pipeline/leeway-retrain/execution/abc123def456";
    let kfp = |state: &str| json!({ "run_id": "4f8c", "display_name": KEY, "state": state });
    let airflow = |state: &str| json!({ "dag_run_id": KEY, "dag_id": "leeway_retrain", "state": state, "logical_date": null });
    let title = format!("Retrain {KEY}");
    let github =
        |status: &str, conclusion: Value| json!({ "id": 30433642, "display_title": title, "status": status, "conclusion": conclusion });
    let aws = |state: &str| json!({ "PipelineExecutionArn": arn, "PipelineExecutionStatus": state, "FailureReason": "Step train failed." });
    [
        Shape {
            name: "airflow",
            empty: Value::Null,
            taken: (200, airflow("queued")),
            listed: Value::Null,
            run: KEY,
            running: airflow("running"),
            done: airflow("success"),
            failed: airflow("failed"),
            // Airflow marks a run that a person ends as failed.
            cancelled: airflow("failed"),
        },
        Shape {
            name: "kubeflow",
            empty: json!({}),
            taken: (200, kfp("PENDING")),
            listed: json!({ "runs": [{ "run_id": "other", "display_name": "nightly" }, kfp("RUNNING")], "total_size": 2 }),
            run: "4f8c",
            running: kfp("CANCELING"),
            done: kfp("SUCCEEDED"),
            failed: kfp("FAILED"),
            cancelled: kfp("CANCELED"),
        },
        Shape {
            name: "sagemaker",
            empty: Value::Null,
            taken: (200, json!({ "PipelineExecutionArn": arn })),
            listed: Value::Null,
            run: arn,
            running: aws("Executing"),
            done: aws("Succeeded"),
            failed: aws("Failed"),
            cancelled: aws("Stopped"),
        },
        Shape {
            name: "github",
            empty: json!({ "total_count": 0, "workflow_runs": [] }),
            taken: (200, json!({ "workflow_run_id": 30433642, "run_url": "…", "html_url": "…" })),
            listed: json!({ "total_count": 2, "workflow_runs": [{ "id": 1, "display_title": "CI" }, github("queued", Value::Null)] }),
            run: "30433642",
            running: github("in_progress", Value::Null),
            done: github("completed", json!("success")),
            failed: github("completed", json!("failure")),
            cancelled: github("completed", json!("cancelled")),
        },
    ]
}

/// Up to the submission, which is answered by who calls this.
fn until_submitted(talk: &mut Talk, shape: &Shape) -> Request {
    let mut request = talk.asked();
    if !request.starts {
        talk.answer(200, shape.empty.clone());
        request = talk.asked();
    }
    assert!(request.starts, "{}: {request:?}", shape.name);
    request
}

#[test]
fn each_service_is_submitted_to_and_asked_until_its_run_is_over() {
    for shape in shapes() {
        for (end, wanted) in [(&shape.done, true), (&shape.failed, false), (&shape.cancelled, false)] {
            let mut talk = Talk::new(shape.name, Record::default());
            let request = until_submitted(&mut talk, &shape);
            let body: Value = serde_json::from_slice(request.body.as_deref().unwrap()).unwrap();
            assert!(body.to_string().contains(KEY) && body.to_string().contains("the leeway_job"), "{}: {body}", shape.name);
            talk.answer(shape.taken.0, shape.taken.1.clone());
            assert_eq!(talk.run.record().run.as_deref(), Some(shape.run), "{}", shape.name);
            for _ in 0..3 {
                let request = talk.asked();
                assert!(!request.starts);
                talk.answer(200, shape.running.clone());
            }
            talk.asked();
            talk.answer(200, end.clone());
            match talk.run.standing() {
                Standing::Done => assert!(wanted, "{}", shape.name),
                Standing::Failed(why) => assert!(!wanted && why.contains(shape.run), "{}: {why}", shape.name),
                Standing::Open => panic!("{} is not over", shape.name),
            }
            assert_eq!(talk.run.record().submits, 1);
        }
    }
}

#[test]
fn what_is_sent_is_what_each_service_documents() {
    let sent = |name: &str| {
        let shapes = shapes();
        let shape = shapes.iter().find(|shape| shape.name == name).unwrap();
        let mut talk = Talk::new(name, Record::default());
        let submit = until_submitted(&mut talk, shape);
        talk.answer(shape.taken.0, shape.taken.1.clone());
        (submit, talk.asked())
    };
    let body = |request: &Request| serde_json::from_slice::<Value>(request.body.as_deref().unwrap()).unwrap();
    let header =
        |request: &Request, name: &str| request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();

    let (submit, poll) = sent("airflow");
    assert!(submit.url.ends_with("/api/v2/dags/leeway_retrain/dagRuns"), "{}", submit.url);
    assert_eq!((body(&submit)["dag_run_id"].as_str(), &body(&submit)["logical_date"]), (Some(KEY), &Value::Null));
    assert_eq!(body(&submit)["conf"]["leeway_job"], "the leeway_job");
    assert!(poll.url.ends_with(&format!("/api/v2/dags/leeway_retrain/dagRuns/{KEY}")) && poll.method == "GET", "{}", poll.url);
    assert_eq!(header(&submit, "authorization"), "Bearer secret-token");

    let (submit, poll) = sent("kubeflow");
    assert!(submit.url.ends_with("/apis/v2beta1/runs") && poll.url.ends_with("/apis/v2beta1/runs/4f8c"), "{} {}", submit.url, poll.url);
    assert_eq!(
        (body(&submit)["display_name"].as_str(), &body(&submit)["runtime_config"]["parameters"]["leeway_key"]),
        (Some(KEY), &json!(KEY))
    );
    assert!(body(&submit)["pipeline_version_reference"]["pipeline_id"].is_string());

    let (submit, poll) = sent("sagemaker");
    assert_eq!(header(&submit, "x-amz-target"), "SageMaker.StartPipelineExecution");
    assert_eq!(header(&poll, "x-amz-target"), "SageMaker.DescribePipelineExecution");
    assert_eq!(header(&submit, "content-type"), "application/x-amz-json-1.1");
    let token = body(&submit)["ClientRequestToken"].as_str().unwrap().to_owned();
    assert!(token == KEY && (32..=128).contains(&token.len()), "{token}");
    assert_eq!(body(&submit)["PipelineParameters"][0], json!({ "Name": "leeway_holdout", "Value": "the leeway_holdout" }));
    assert!(body(&poll)["PipelineExecutionArn"].as_str().unwrap().starts_with("arn:aws:sagemaker:"), "{poll:?}");

    let (submit, poll) = sent("github");
    assert!(submit.url.contains("/repos/") && submit.url.ends_with("/actions/workflows/leeway-retrain.yml/dispatches"), "{}", submit.url);
    assert_eq!((body(&submit)["return_run_details"].as_bool(), body(&submit)["ref"].as_str()), (Some(true), Some("main")));
    assert_eq!(body(&submit)["inputs"]["leeway_key"], KEY);
    assert!(poll.url.ends_with("/actions/runs/30433642"), "{}", poll.url);
    assert_eq!(header(&poll, "accept"), "application/vnd.github+json");
}

#[test]
fn an_answer_that_was_lost_never_starts_a_second_run() {
    for shape in shapes() {
        let mut talk = Talk::new(shape.name, Record::default());
        until_submitted(&mut talk, &shape);
        talk.silence();
        // The worker is restarted in between: what it wrote down is all it knows.
        let mut talk = Talk { now: talk.now, ..Talk::new(shape.name, talk.run.record().clone()) };
        let next = talk.asked();
        if next.starts {
            // Airflow and SageMaker tell a second request under the same key from a new one themselves.
            assert!(["airflow", "sagemaker"].contains(&shape.name), "{}", shape.name);
            let first: Value = serde_json::from_slice(next.body.as_deref().unwrap()).unwrap();
            assert!(first.to_string().contains(KEY));
            let (status, body) = if shape.name == "airflow" { (409, json!({ "detail": "exists" })) } else { shape.taken.clone() };
            talk.answer(status, body);
        } else {
            // It is not listed at once: asked again, and not submitted again.
            talk.answer(200, shape.empty.clone());
            assert!(!talk.asked().starts, "{}", shape.name);
            talk.answer(200, shape.listed.clone());
        }
        assert_eq!(talk.run.record().run.as_deref(), Some(shape.run), "{}", shape.name);
    }
}

#[test]
fn another_worker_finds_the_run_and_one_that_was_never_taken_is_submitted_again() {
    for shape in shapes().into_iter().filter(|shape| !shape.listed.is_null()) {
        let mut other = Talk::new(shape.name, Record::default());
        assert!(!other.asked().starts, "it looks first");
        other.answer(200, shape.listed.clone());
        assert_eq!((other.run.record().run.as_deref(), other.run.record().submits), (Some(shape.run), 0), "{}", shape.name);

        let mut talk = Talk::new(shape.name, Record::default());
        until_submitted(&mut talk, &shape);
        talk.answer(503, Value::Null);
        let since = talk.now;
        let mut looks = 0;
        while !talk.asked().starts {
            looks += 1;
            talk.answer(200, shape.empty.clone());
            assert!(looks < 1000);
        }
        assert!(talk.now.millis_since(since) >= 120_000 && looks > 3, "{}: {looks} looks", shape.name);
        assert_eq!(talk.run.record().submits, 2);
    }
}

#[test]
fn limits_are_kept_and_refusals_end_it() {
    for shape in shapes() {
        let mut talk = Talk::new(shape.name, Record::default());
        until_submitted(&mut talk, &shape);
        talk.run.heard(Ok(Answer { status: 429, retry_after: Some(60), body: Vec::new() }), talk.now);
        let since = talk.now;
        assert!(talk.asked().starts && talk.now.millis_since(since) == 60_000, "{}: it waits as long as it is asked to", shape.name);
        talk.answer(403, json!({ "message": talk.run.fill().secrets }));
        let Standing::Failed(why) = talk.run.standing() else { panic!("{}", shape.name) };
        assert!(why.contains("refused the run: it answered 403") && !why.contains("secret-"), "{why}");

        let mut talk = Talk::new(shape.name, Record::default());
        until_submitted(&mut talk, &shape);
        talk.answer(shape.taken.0, shape.taken.1.clone());
        let mut questions = 0;
        while talk.run.standing() == Standing::Open {
            talk.asked();
            match questions % 3 {
                0 => talk.silence(),
                1 => talk.answer(502, Value::Null),
                _ => talk.run.heard(Ok(Answer { status: 429, retry_after: Some(5), body: Vec::new() }), talk.now),
            }
            questions += 1;
        }
        assert_eq!(questions, 31, "{}: a bound on answers that are none", shape.name);

        let mut talk = Talk::new(shape.name, Record::default());
        until_submitted(&mut talk, &shape);
        talk.answer(shape.taken.0, shape.taken.1.clone());
        talk.now = talk.now.plus_millis(13 * 3_600_000);
        let Next::Over(Standing::Failed(why)) = talk.run.next(talk.now) else { panic!("{}", shape.name) };
        assert!(why.contains("is not over after 12 hours"), "{why}");
    }
}

#[test]
fn the_key_is_of_the_job_and_its_data() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    assert_eq!(key("rain-1", a, b), key("rain-1", a, b));
    assert!(key("rain-1", a, b) != key("rain-2", a, b) && key("rain-1", a, b) != key("rain-1", b, b));
    assert_eq!(key("rain-1", a, b).len(), 47);
}

#[test]
fn a_file_that_cannot_be_meant_is_refused() {
    let text = include_str!("../../../../deploy/trainers/github.toml");
    for (from, to, wanted) in [
        ("{key}", "{kee}", "no placeholder"),
        ("[poll]", "[pol]", "unknown field"),
        ("return_run_details\": true", "return_run_details\": tru", "not JSON"),
        ("failed = [", "failed = []\nunused = [", "unknown field"),
        ("env = ", "env = \"A\", file = ", "needs either env or file"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Config::parse(&text.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(wanted), "{from}: {error}");
    }
}
