//! Datasets over HTTP: brought, listed page by page, found, compared, given back; and what is refused.
use serde_json::{Value, json};

use super::site::Site;
use crate::access::Scope;
use crate::io::control::LinePolicies;

async fn get(site: &Site, path: &str) -> super::site::Answer {
    site.anyone("GET", path, None, &[("authorization", &site.bearer())]).await
}

async fn bring(site: &Site, bearer: &str, csv: &str, mut asked: Value) -> super::site::Answer {
    let octets = [("authorization", bearer), ("content-type", "application/octet-stream")];
    let stored = site.send("POST", "/api/v1/blobs", Some(csv.as_bytes().to_vec()), &octets).await;
    if stored.status == 200 {
        asked["file"] = stored.json()["digest"].clone();
    }
    site.anyone("POST", "/api/v1/datasets", Some(&asked.to_string()), &[("authorization", bearer)]).await
}

fn table(shift: f64, positive: usize) -> String {
    let row = |i: usize| format!("{},{},dry\n", (i * 7919 % 400) as f64 / 400.0 + shift, usize::from(i % 10 < positive));
    (0..400).fold("wind,rain,note\n".to_owned(), |text, i| text + &row(i))
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_brought_listed_compared_and_given_back() {
    let site = Site::start().await;
    let line = LinePolicies { line: "rain".parse().unwrap(), task: Some("rain".to_owned()), rollout: None, retrain: None };
    site.controller().put_line(line, "admin").await.unwrap();
    let publisher = site.bearer_of("paula", Scope::Publisher).await;
    let dvc = json!([{ "system": "dvc", "uri": "dvc:a.csv", "revision": "md5:a304afb96060aad90176268345e10355" }]);
    let first = bring(&site, &publisher, &table(0.0, 3), json!({ "title": "a", "line": "rain", "label": "rain", "external": dvc })).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let first = first.json();
    let said = first["sentence"].as_str().unwrap();
    assert_eq!(
        said,
        "400 rows with 1 features, imported as \"a\": 70.0 % class 0, 30.0 % class 1. It is also dvc:a.csv at md5:a304afb96060aad90176268345e10355."
    );
    assert!(first["made_by"].as_str().unwrap().contains("paula"), "{first}");
    let second = bring(&site, &publisher, &table(0.5, 6), json!({ "title": "b", "line": "rain", "label": "rain" })).await.json();

    // Pages, newest first, also by line.
    let page = get(&site, "/api/v1/datasets?limit=1&line=rain").await.json();
    assert_eq!(page["items"][0]["dataset"], second["dataset"], "{page}");
    let next = get(&site, &format!("/api/v1/datasets?limit=1&cursor={}", page["next_cursor"].as_str().unwrap())).await.json();
    assert_eq!((&next["items"][0]["dataset"], &next["next_cursor"]), (&first["dataset"], &Value::Null), "{next}");
    assert_eq!(get(&site, "/api/v1/datasets?cursor=nonsense").await.status, 400);
    assert_eq!(get(&site, "/api/v1/datasets?line=snow").await.json()["items"], json!([]));

    let whole = get(&site, "/api/v1/datasets/b").await.json();
    assert_eq!(whole["manifest"]["parents"][0]["digest"], first["dataset"], "{whole}");
    let roles: Vec<&str> = whole["manifest"]["columns"].as_array().unwrap().iter().map(|c| c["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["feature", "label", "other"]);
    let file = get(&site, "/api/v1/datasets/b/files/data").await;
    assert_eq!((file.text(), file.header("content-type")), (table(0.5, 6), "text/csv; charset=utf-8".to_owned()));
    assert_eq!(get(&site, "/api/v1/datasets/b/files/data?format=parquet").await.status, 422);
    assert_eq!(get(&site, "/api/v1/datasets/b/files/train").await.status, 404);

    let compared = get(&site, "/api/v1/datasets/a/compare/b").await.json();
    assert!((compared["features"][0]["gap"].as_f64().unwrap() - 0.5).abs() < 0.05, "{compared}");
    assert_eq!(compared["labels"]["1"], json!([0.3, 0.6]), "{compared}");
    assert_eq!(get(&site, "/api/v1/datasets/a/compare/c").await.status, 404);
    let kinds: Vec<String> = site.controller().last_events(20).unwrap().into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "dataset.imported").count(), 2, "{kinds:?}");
    assert_eq!(get(&site, "/api/v1/training/jobs/none/run").await.status, 404);
    assert_eq!(get(&site, "/api/v1/models/rain/versions/9/origin").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_data_is_refused_and_leaves_no_dataset() {
    let site = Site::start().await;
    let line = LinePolicies { line: "rain".parse().unwrap(), task: None, rollout: None, retrain: None };
    site.controller().put_line(line, "admin").await.unwrap();
    let publisher = site.bearer_of("paula", Scope::Publisher).await;
    let ask = |more: Value| {
        let mut asked = json!({ "title": "a", "line": "rain" });
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    let good = table(0.0, 3);
    let moving = json!({ "external": [{ "system": "lakefs", "uri": "lakefs://w/main/a.csv", "revision": "main" }] });
    for (csv, asked, status) in [
        ("PAR1 and then rubbish", ask(json!({})), 422),
        ("day\nmonday\n", ask(json!({})), 422),
        (good.as_str(), ask(json!({ "label": "snow" })), 422),
        (good.as_str(), ask(json!({ "title": " " })), 422),
        (good.as_str(), ask(json!({ "line": "snow" })), 404),
        (good.as_str(), ask(moving), 422),
        (good.as_str(), ask(json!({ "odd": 1 })), 400),
    ] {
        let answer = bring(&site, &publisher, csv, asked.clone()).await;
        assert_eq!(answer.status, status, "{asked}: {}", answer.text());
    }
    let viewer = site.bearer_of("vera", Scope::Viewer).await;
    let file = leeway_protocol::digest::Digest::of(good.as_bytes()).to_string();
    assert_eq!(bring(&site, &viewer, &good, ask(json!({ "file": file }))).await.status, 403);
    assert!(site.controller().datasets().unwrap().is_empty());
}
