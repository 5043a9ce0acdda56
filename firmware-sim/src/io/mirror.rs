//! Metadata and blobs over HTTP for every station of the process, and the ways a mirror can lie to one of them.
//!
//! One pool of connections and a few blocking calls at a time for all stations: hundreds of stations must not mean hundreds of
//! threads. What stays true: a lie replaces what one station receives and nothing else; judging is left to the agent.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leeway_agent::action::MetadataFile;
use leeway_agent::event::Fetched;
use leeway_protocol::digest::Digest;
use tokio::sync::Semaphore;

use crate::organ::Received;

/// Blocking calls at one time; more only wait for the same two cores and the same disk.
const CALLS: usize = 8;
/// One call, all of it.
const CALL_TIME: Duration = Duration::from_secs(20);

/// What a mirror does wrong to one station.
#[derive(Debug, Default)]
pub(super) struct Lies {
    /// One byte of every blob is another.
    pub(super) flip_blobs: bool,
    /// These bytes come instead, by path below the base address (`tuf/timestamp.json`).
    pub(super) instead: BTreeMap<String, Vec<u8>>,
}

/// The artifact server as the stations reach it.
#[derive(Debug, Clone)]
pub(super) struct Mirror {
    http: ureq::Agent,
    base: String,
    calls: Arc<Semaphore>,
}

impl Mirror {
    pub(super) fn new(base: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIME))
            .http_status_as_error(false)
            .max_idle_connections_per_host(CALLS)
            .build();
        Self { http: config.into(), base: base.trim_end_matches('/').to_owned(), calls: Arc::new(Semaphore::new(CALLS)) }
    }

    pub(super) async fn metadata(&self, file: &MetadataFile, max_len: u64, lies: &Mutex<Lies>) -> Fetched {
        let path = file.url_path();
        if let Some(bytes) = lies.lock().unwrap_or_else(PoisonError::into_inner).instead.get(&path) {
            return Fetched::Bytes(bytes.clone());
        }
        match self.call(path, None, max_len).await {
            Ok(Some(bytes)) => Fetched::Bytes(bytes),
            Ok(None) => Fetched::Absent,
            Err(error) => Fetched::Failed(error),
        }
    }

    pub(super) async fn blob(&self, digest: &Digest, offset: u64, length: u64, lies: &Mutex<Lies>) -> Received {
        let fetched = self.call(format!("blobs/{}", digest.hex()), Some(offset), length.saturating_sub(offset)).await;
        let (mut bytes, broken) = match fetched {
            Ok(Some(bytes)) => (bytes, None),
            Ok(None) => (Vec::new(), Some("the server has no such blob".to_owned())),
            Err(error) => (Vec::new(), Some(error)),
        };
        let middle = bytes.len() / 2;
        if lies.lock().unwrap_or_else(PoisonError::into_inner).flip_blobs
            && let Some(byte) = bytes.get_mut(middle)
        {
            *byte ^= 0x01;
        }
        Received { bytes, offset, broken }
    }

    /// `Ok(None)` when the server says that there is nothing. At most `max` bytes and one.
    async fn call(&self, path: String, offset: Option<u64>, max: u64) -> Result<Option<Vec<u8>>, String> {
        let _permit = self.calls.acquire().await.map_err(|e| e.to_string())?;
        let (http, url) = (self.http.clone(), format!("{}/{path}", self.base));
        let call = tokio::task::spawn_blocking(move || get(&http, &url, offset, max));
        call.await.map_err(|e| e.to_string())?
    }
}

fn get(http: &ureq::Agent, url: &str, offset: Option<u64>, max: u64) -> Result<Option<Vec<u8>>, String> {
    let mut request = http.get(url);
    if let Some(offset) = offset.filter(|&offset| offset > 0) {
        request = request.header("Range", format!("bytes={offset}-"));
    }
    let mut answer = request.call().map_err(|e| e.to_string())?;
    let expected = if offset.is_some_and(|offset| offset > 0) { 206 } else { 200 };
    match answer.status().as_u16() {
        404 => Ok(None),
        status if status == expected => {
            // One byte past the bound tells "too long" from "as long as allowed".
            answer.body_mut().with_config().limit(max + 1).read_to_vec().map(Some).map_err(|e| e.to_string())
        }
        status => Err(format!("the server answered {status} to {url}")),
    }
}
