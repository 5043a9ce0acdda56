//! The whole loop against a controller's door and a broker that speak TLS.
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::io::renew::tests::{broker, controller, enrolled};
use crate::io::tls::tests::Clients;

/// Certificates that live for a few seconds: the core decides, the loop asks, stores, leaves the broker and comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_agent_renews_its_certificate_and_shows_each_new_one_to_its_broker() {
    const LIFE_SECS: u64 = 4;
    let controller = controller();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let server = controller.authority.server(&["127.0.0.1"], (2020, 2090));
    let port = broker(&server, Clients::Only(&controller.authority), 0, Arc::clone(&seen));
    {
        let mut script = controller.script.lock().unwrap();
        script.life_secs = Some(LIFE_SECS);
        script.mqtt["port"] = json!(port);
    }
    let (_kept, ask, told) = enrolled(&controller);
    let mut config = Config::for_dir(&ask.dir);
    config.runner.tcp = None;
    let shown = || seen.lock().unwrap().iter().copied().collect::<BTreeSet<_>>();
    let enough = async {
        while shown().len() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let agent = Loop::open(&config).unwrap();
    tokio::select! {
        ended = agent.turn() => panic!("the agent ended: {ended:?}"),
        () = enough => {}
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("{} certificates in a minute, {} asked", shown().len(), controller.asked()),
    }
    // What the broker took last but one is not needed any more: it lies on the disk no longer, and its key neither.
    let certificates = Certificates::open(&identity(&ask.dir).unwrap(), &ask.dir).unwrap().unwrap();
    assert!(certificates.way().is_some());
    assert!(std::fs::read_dir(ask.dir.join("tls")).unwrap().count() <= 4, "at most two documents and two keys");
    assert_eq!(identity(&ask.dir).unwrap().tls, told.tls, "who the device is is not written again");
}
