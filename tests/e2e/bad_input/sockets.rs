//! What applications send to the runner, and what devices that went bad send to the embedded broker.
use leeway_protocol::trust::keyring::SigningKey;
use leeway_tests::api::Answer;
use leeway_tests::application::{Application, question};
use leeway_tests::device::Device;
use leeway_tests::harness::{PATIENCE, wait_for};
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde_json::{Value, json};
use tokio::time::timeout;

const INFER: &str = "/v2/models/rain/infer";

#[test]
fn sockets_refuse_by_name_and_go_on() {
    let site = Site::started("rain");
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..900, "the first model"));
    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    device.start();
    let rollout = site.roll_out("1.0.0");
    device.until_serves("1.0.0");
    the_runner_refuses_by_name(&device);

    let application = Application::start(device.unix(), "rain", 5, 2_000);
    assert_eq!(site.until_over(&rollout), "completed");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(a_device_that_went_bad(&site));
    let before = counted(&site);
    wait_for("the good device's windows still arrive", || {
        let now = counted(&site);
        if now > before { Ok(()) } else { Err(format!("{now} decisions")) }
    });
    assert_eq!(site.api().get("/readyz").expect("an answer").status, 200);
    drop(application);
    the_refusals_were_counted(&site);
    site.assert_chain();
    site.assert_calm();
}

fn the_runner_refuses_by_name(device: &Device) {
    let row = [0.5_f32; 8];
    let spoilt = |change: fn(&mut Value)| {
        let mut body = question(&row, None);
        change(&mut body);
        body.to_string()
    };
    let large = format!("{{\"inputs\":[{}]}}", " ".repeat(33 << 20));
    let metric = |value: Value| json!({ "metrics": [{ "name": "retry", "value": value }] }).to_string();
    let table: [(&str, String, u16, &str); 17] = [
        (INFER, "rubbish".to_owned(), 400, "not an inference request"),
        (INFER, String::new(), 400, "not an inference request"),
        (INFER, spoilt(|b| b["inputs"][0]["shape"] = json!([8])), 400, "expected FP32 of shape [1, 8]"),
        (INFER, spoilt(|b| b["inputs"][0]["shape"] = json!([1, 1u64 << 40])), 400, "expected FP32 of shape [1, 8]"),
        (INFER, spoilt(|b| b["inputs"][0]["datatype"] = json!("INT64")), 400, "expected FP32"),
        (INFER, spoilt(|b| b["inputs"][0]["name"] = json!("y")), 400, "\"x\" is missing"),
        (INFER, spoilt(|b| b["inputs"][0]["data"] = json!([1.0, 2.0])), 400, "x"),
        (INFER, spoilt(|b| b["inputs"][0]["data"][3] = json!("NaN")), 400, ""),
        (INFER, spoilt(|b| b["inputs"][0]["data"][3] = json!(1e39)), 400, ""),
        (INFER, spoilt(|b| b["inputs"][0]["data"][3] = Value::Null), 400, ""),
        (INFER, spoilt(|b| b["outputs"] = json!([{ "name": "z" }])), 400, "no output \"z\""),
        (INFER, spoilt(|b| b["parameters"]["data_time"] = json!("yesterday")), 400, "data_time"),
        ("/v2/models/snow/infer", question(&row, None).to_string(), 404, "snow"),
        (INFER, large, 413, "larger than"),
        ("/leeway/v1/metrics", "rubbish".to_owned(), 400, "expected {\"metrics\""),
        ("/leeway/v1/metrics", metric(json!(2)), 400, "a share from 0 to 1"),
        ("/leeway/v1/metrics", metric(Value::Null), 400, "expected f64"),
    ];
    for (path, body, status, says) in &table {
        for socket in [device.tcp(), device.unix()] {
            let answer = socket.request("POST", path, body.as_bytes()).unwrap_or_else(|e| panic!("{path} {body:.80}: {e}"));
            let text = answer.json()["error"].as_str().unwrap_or_default().to_owned();
            assert!(
                answer.status == *status && text.contains(says) && !text.is_empty(),
                "{body:.120}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
    let feedback = device.tcp().request("POST", "/leeway/v1/feedback", b"{\"id\":\"unknown\",\"label\":1}").and_then(Answer::ok);
    assert_eq!(feedback.expect("an answer").json()["matched"], false);
    let answer = device.tcp().ask("rain", &row).expect("it still answers");
    assert!(answer.value.is_finite());
}

fn counted(site: &Site) -> u64 {
    let quality: Value = site.api().read("/api/v1/models/rain/quality").expect("quality");
    quality["points"].as_array().into_iter().flatten().filter_map(|p| p["decisions"].as_u64()).sum()
}

/// It has an account and a key, and speaks rubbish on every topic, its own and those of others.
async fn a_device_that_went_bad(site: &Site) {
    let key = SigningKey::from_seed(&[66; 32]);
    let asked = json!({ "device": "vandal", "public_key": key.public().hex(), "labels": {}, "token": site.enrolment_token(1) });
    let enrolled = site.api().post("/api/v1/enrol", &asked).and_then(Answer::ok).expect("it is enrolled").json();
    let secret = enrolled["mqtt"]["password"].as_str().expect("a secret");
    let large = vec![b'['; 200 << 10];
    let rubbish: [&[u8]; 5] = [b"", b"rubbish", b"{\"v\":1}", &[0xff; 300], &large];
    let own =
        ["status", "reported", "tele/window", "tele/capture", "tele/event"].map(|channel| format!("leeway/v1/main/dev/vandal/{channel}"));
    let others =
        ["leeway/v1/main/dev/porch/reported", "leeway/v1/main/dev/vandal/desired", "leeway/v1/main/dev/vandal/tele", "anything", "$SYS/x"];
    for bytes in rubbish {
        for topic in own.iter().map(String::as_str).chain(others) {
            let (client, mut events) = connect(site.mqtt(), secret);
            client.try_publish(topic, QoS::AtLeastOnce, false, bytes.to_vec()).expect("room in the queue");
            until_heard_or_cut_off(&mut events).await;
        }
    }
}

fn connect(port: u16, secret: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new("vandal", "127.0.0.1", port);
    options.set_credentials("vandal", secret).set_max_packet_size(Some(256 << 10));
    AsyncClient::new(options, 8)
}

/// The broker takes the message, or ends the connection: both are fine.
async fn until_heard_or_cut_off(events: &mut EventLoop) {
    use rumqttc::v5::mqttbytes::v5::Packet;
    loop {
        match timeout(PATIENCE, events.poll()).await.expect("the broker does something") {
            Ok(Event::Incoming(Packet::PubAck(_))) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn the_refusals_were_counted(site: &Site) {
    wait_for("what could not be read was counted", || {
        let metrics = site.api().get("/metrics").and_then(Answer::ok)?.text();
        let refused = metrics.lines().find(|line| line.starts_with("leeway_telemetry_messages_total") && line.contains("refused"));
        let count = refused.and_then(|line| line.rsplit(' ').next()).and_then(|n| n.parse::<f64>().ok()).unwrap_or_default();
        if count >= 15.0 { Ok(()) } else { Err(format!("only {refused:?}")) }
    });
}
