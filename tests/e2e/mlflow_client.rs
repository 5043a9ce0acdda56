//! MLflow's own client, from PyPI, against a controller: what it lists, registers, tags and aliases is what our own API and command
//! line show, with history and rows in the log; and nothing it does makes a device run anything.
use std::process::Command;

use leeway_tests::api::Answer;
use leeway_tests::harness::root;
use leeway_tests::lesson::teach_wrongly;
use leeway_tests::python::environment;
use leeway_tests::site::{Site, Told};
use serde_json::{Value, json};

/// What the client saw, with a token of this scope.
fn client(site: &Site, scope: &str, args: &[&str]) -> Told {
    let python = environment("mlflow", &root().join("tests/interop/requirements-mlflow.txt"));
    let token = site.leeway(&["token", "create", "--name", &format!("notebook-{scope}"), "--scope", scope, "--json"]).ok().json();
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/mlflow_client.py")).arg(site.api().base()).args(args);
    command.env("MLFLOW_TRACKING_TOKEN", token["token"].as_str().expect("a token")).env("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1");
    Told::by(&mut command)
}

#[test]
fn mlflows_client_lists_registers_tags_and_aliases_and_decides_nothing() {
    let mut site = Site::started("rain");
    site.configure();
    let manifest = site.publish(&teach_wrongly("rain", "1.0.0", 0..900));
    let digest = manifest.blob().digest.to_string();
    let args = ["rain", "1", digest.as_str()];
    let saw = client(&site, "publisher", &args).ok().json();

    assert_eq!((&saw["model"], &saw["models"]), (&json!({ "name": "rain", "latest": ["1"] }), &json!(["rain"])), "{saw}");
    assert_eq!((&saw["like"], &saw["latest"], &saw["by_digest"]), (&json!(["rain"]), &json!(["1"]), &json!(["1"])), "{saw}");
    let signed = &saw["signed"];
    assert_eq!((&signed["status"], &signed["stage"], &signed["source"]), (&json!("READY"), &json!("None"), &json!("leeway://rain/1.0.0")));
    assert_eq!(signed["tags"]["leeway.manifest"], digest, "{signed}");
    assert_eq!(signed["tags"]["leeway.version"], "1.0.0", "MLflow's clients take numbers only, so the name is a tag");
    assert_eq!(signed["tags"]["leeway.model"], manifest.model.digest.to_string(), "{signed}");
    assert_eq!((&signed["tags"]["leeway.status"], &signed["tags"]["leeway.signed_by"]), (&json!("published"), &json!("rain")));
    // The address leads to the very bytes that were signed.
    let uri = saw["uri"].as_str().expect("an address");
    let path = uri.strip_prefix(site.api().base()).unwrap_or_else(|| panic!("{uri} is not at {}", site.api().base()));
    let bytes = site.api().get(path).and_then(Answer::ok).expect("the model").body;
    assert_eq!(leeway_protocol::digest::Digest::of(&bytes), manifest.model.digest);

    let candidate = &saw["candidate"];
    assert_eq!((&candidate["status"], &candidate["tags"]["leeway.status"]), (&json!("READY"), &json!("candidate")), "{candidate}");
    assert_eq!((&candidate["source"], &candidate["tags"]["team"]), (&json!("s3://bucket/models/rain"), &json!("vision")));
    assert!(candidate["message"].as_str().is_some_and(|m| m.contains("nobody signed it") && m.contains("`leeway model publish ")));
    let named = &saw["named"];
    assert_eq!((&named["version"], &named["run"], &named["description"]), (&json!("3"), &json!("r-17"), &json!("in snow")), "{named}");
    assert_eq!(named["tags"]["leeway.version"], "2.0.0", "{named}");
    assert_eq!(saw["bound"], json!(["1", "1"]));
    assert_eq!(saw["created"], json!({ "name": "wind", "description": "is it windy?", "tags": { "team": "wind" } }));

    assert_eq!((&saw["by_alias"], &saw["line_tags"]), (&json!("1"), &json!({ "owner": "ann" })));
    assert_eq!(saw["line_aliases"], json!({ "staging": "1", "to-try": "3" }));
    let tagged = &saw["tagged"];
    assert_eq!((&tagged["tags"]["ticket"], &tagged["tags"]["draft"]), (&json!("A-7"), &Value::Null), "{tagged}");
    assert_eq!((&tagged["aliases"], &tagged["description"]), (&json!(["staging"]), &json!("the one of the first years")));
    assert_eq!((&saw["by_tag"], &saw["by_run"]), (&json!(["rain"]), &json!(["3"])));
    assert_eq!(saw["pages"], json!([["1"], ["2"], ["3"]]), "one version a page, in order, none twice");
    refusals(&saw["refused"]);

    assert_same_story(&mut site);
    let told = client(&site, "viewer", &args);
    assert!(told.code != 0 && told.err.contains("PERMISSION_DENIED") && told.err.contains("of scope publisher"), "{}", told.err);
    site.assert_chain();
    site.assert_calm();
}

/// Each with MLflow's code and our remedy.
fn refusals(refused: &Value) {
    for (what, code, says) in [
        ("absent", "RESOURCE_DOES_NOT_EXIST", "no-such-line"),
        ("absent_version", "RESOURCE_DOES_NOT_EXIST", "version=99"),
        ("absent_alias", "RESOURCE_DOES_NOT_EXIST", "staging"),
        ("deleted", "RESOURCE_DOES_NOT_EXIST", "not found"),
        ("again", "RESOURCE_ALREADY_EXISTS", "already exists"),
        ("name", "INVALID_PARAMETER_VALUE", "a-z, 0-9"),
        ("filter", "INVALID_PARAMETER_VALUE", "colour"),
        ("own_tag", "INVALID_PARAMETER_VALUE", "said by the controller"),
        ("champion", "PERMISSION_DENIED", "needs the scope operator"),
        ("challenger", "PERMISSION_DENIED", "needs the scope operator"),
        ("rename", "NOT_IMPLEMENTED", "leeway model publish --line"),
        ("delete", "NOT_IMPLEMENTED", "leeway model mark rain"),
        ("delete_version", "NOT_IMPLEMENTED", "leeway model mark rain 1.0.0 yanked"),
        ("stage", "NOT_IMPLEMENTED", "leeway rollout create --line rain --version 1.0.0"),
        ("foreign", "INVALID_PARAMETER_VALUE", "signed for one line"),
        ("runs", "ENDPOINT_NOT_FOUND", "MLFLOW_REGISTRY_URI"),
    ] {
        let found = &refused[what];
        assert!(found["code"] == code && found["says"].as_str().is_some_and(|s| s.contains(says)), "{what}: {found}");
    }
}

/// What the client did, as our own command line tells it, also after a restart; and what no alias can do.
fn assert_same_story(site: &mut Site) {
    site.stop();
    site.start();
    let moves = site.leeway(&["model", "aliases", "rain", "--history", "--json"]).ok().json();
    let staging: Vec<&Value> = moves["history"].as_array().expect("a list").iter().filter(|m| m["alias"] == "staging").collect();
    assert_eq!(staging.len(), 2, "{moves}");
    assert_eq!((&staging[0]["to"], &staging[1]["from"], &staging[1]["to"]), (&json!("1.0.0"), &json!("1.0.0"), &Value::Null));
    assert_eq!(staging[0]["by"], "notebook-publisher", "{moves}");
    let told = site.leeway(&["model", "aliases", "rain", "--history"]).ok().out;
    assert!(told.contains("asked for through MLflow's API"), "{told}");
    let list = site.leeway(&["model", "list"]).ok().out;
    assert!(list.contains("2.0.0") && list.contains("candidate") && list.contains("nobody"), "{list}");
    let tags = site.leeway(&["model", "tag", "rain", "--version", "1.0.0", "--json"]).ok().json();
    assert_eq!(tags["tags"], json!({ "ticket": "A-7" }));

    // A candidate is not rolled out, and champion is not moved past its stages, whoever asks.
    let begun = site.leeway(&["rollout", "create", "--line", "rain", "--version", "2.0.0", "--reason", "x"]);
    assert!(begun.code == 5 && begun.err.contains("publish it first"), "{} {}", begun.code, begun.err);
    let moved = site.leeway(&["model", "alias", "rain", "champion", "1.0.0", "--reason", "quick"]);
    assert!(moved.code == 6 && moved.err.contains("leeway rollout create --line rain --version 1.0.0"), "{} {}", moved.code, moved.err);

    // Signed at last: what was noted on the candidate is noted on the version.
    let _ = site.publish(&teach_wrongly("rain", "2.0.0", 0..1_000));
    let shown = site.leeway(&["model", "show", "rain", "2.0.0", "--json"]).ok().json();
    assert_eq!(shown["summary"]["aliases"], json!(["to-try"]), "{shown}");
    let model = site.api().get("/api/v1/models/rain").and_then(Answer::ok).expect("the line").json();
    assert_eq!(model["candidates"], json!([]), "{model}");
    for kind in ["alias.moved", "model.tagged", "candidate.added", "candidate.deleted", "model.described"] {
        let rows = site.api().get(&format!("/api/v1/events?kind={kind}")).and_then(Answer::ok).expect("rows").json();
        assert!(rows["items"].as_array().is_some_and(|rows| !rows.is_empty()), "{kind}: {rows}");
    }
}
