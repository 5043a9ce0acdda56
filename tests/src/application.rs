//! The application on a device: asks the runner for answers over the Open Inference Protocol, and tells it the truth later.
//!
//! A few lines of HTTP of our own, because the same must go over TCP and over the Unix socket, and because a test also sends
//! what no library would.
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use leeway_firmware_sim::sensor::Sensor;
use leeway_firmware_sim::weather::Weather;
use serde_json::{Value, json};

use crate::api::Answer;

/// How long a runner may take for one answer before the application gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions: some hundred a second, so that windows fill while programs are killed.
const PAUSE: Duration = Duration::from_millis(3);
/// After a runner was not there.
const RETRY: Duration = Duration::from_millis(20);

/// Where a runner listens.
#[derive(Debug, Clone)]
pub enum Socket {
    /// Loopback TCP.
    Tcp(u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What a runner said about one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The version that answered.
    pub version: String,
    /// The request's name, to label it later.
    pub id: String,
    /// The class decided.
    pub decision: u64,
    /// The first value of the first output.
    pub value: f64,
}

impl Socket {
    /// A Unix socket at `path`.
    pub fn unix(path: &Path) -> Self {
        Self::Unix(path.to_path_buf())
    }

    /// Any request.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
        match self {
            Self::Tcp(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).map_err(|e| e.to_string())?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
                exchange(stream, method, path, body)
            }
            Self::Unix(socket) => {
                let stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
                exchange(stream, method, path, body)
            }
        }
    }

    /// Ask the model `line` about one row of its one f32 input `x`.
    pub fn ask(&self, line: &str, row: &[f32]) -> Result<Decision, String> {
        self.ask_at(line, row, None)
    }

    /// Ask about a row of a day of the application's own time.
    pub fn ask_at(&self, line: &str, row: &[f32], data_time: Option<&str>) -> Result<Decision, String> {
        let answer = self.request("POST", &format!("/v2/models/{line}/infer"), question(row, data_time).to_string().as_bytes())?.ok()?;
        read(&answer.json()).ok_or_else(|| format!("not an inference answer: {}", answer.text()))
    }

    /// The truth about an earlier answer; whether the runner still knew the question.
    pub fn tell(&self, id: &str, label: f64) -> Result<bool, String> {
        let answer = self.request("POST", "/leeway/v1/feedback", json!({ "id": id, "label": label }).to_string().as_bytes())?.ok()?;
        Ok(answer.json()["matched"] == true)
    }
}

/// One inference request.
pub fn question(row: &[f32], data_time: Option<&str>) -> Value {
    json!({
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, row.len()], "data": row }],
        "parameters": { "data_time": data_time },
    })
}

fn read(answer: &Value) -> Option<Decision> {
    Some(Decision {
        version: answer["model_version"].as_str()?.to_owned(),
        id: answer["id"].as_str()?.to_owned(),
        decision: answer["parameters"]["decision"].as_u64()?,
        value: answer["outputs"][0]["data"][0].as_f64()?,
    })
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    // A server that has seen enough answers and stops reading: its answer is what counts.
    let sent = stream.write_all(body);
    let mut bytes = Vec::new();
    let received = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(end) = end else { return Err(format!("no answer: sent {sent:?}, received {received:?}")) };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("not HTTP: {head}"))?;
    Ok(Answer { status, body: bytes[end + 4..].to_vec() })
}

/// What an application has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Answers by version.
    pub answers: BTreeMap<String, u64>,
    /// Labels that found their question.
    pub labels: u64,
    /// The last thing that went wrong.
    pub trouble: Option<String>,
}

/// An application that keeps asking, whatever happens to the runner, until it is dropped.
#[derive(Debug)]
pub struct Application {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Application {
    /// Begin with `first_day`, as a station with the instruments of `seed`; labels follow at once.
    pub fn start(socket: Socket, line: &str, seed: u64, first_day: usize) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (ends, sees, line) = (Arc::clone(&stop), Arc::clone(&seen), line.to_owned());
        let thread = std::thread::spawn(move || {
            let weather = Weather::bellevue().expect("the series is in the binary");
            let sensor = Sensor::new(seed, None);
            let mut day = first_day;
            while !ends.load(Ordering::Relaxed) {
                let Some(reading) = sensor.read(&weather, day) else {
                    day = first_day;
                    continue;
                };
                let asked = socket.ask_at(&line, &reading.features, Some(&reading.at.to_string()));
                let told = asked.as_ref().map_err(Clone::clone).and_then(|a| socket.tell(&a.id, f64::from(u8::from(reading.rain))));
                let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
                match asked {
                    Ok(answer) => {
                        *seen.answers.entry(answer.version).or_default() += 1;
                        seen.labels += u64::from(told == Ok(true));
                        day += 1;
                        drop(seen);
                        std::thread::sleep(PAUSE);
                    }
                    Err(trouble) => {
                        seen.trouble = Some(trouble);
                        drop(seen);
                        std::thread::sleep(RETRY);
                    }
                }
            }
        });
        Self { stop, seen, thread: Some(thread) }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers by `version` so far.
    pub fn answers(&self, version: &str) -> u64 {
        self.seen().answers.get(version).copied().unwrap_or_default()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
