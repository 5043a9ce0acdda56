//! Starts after crashes at the wrong moments: the sums are always those of the log.
use super::*;
use crate::fleet::{CohortDoc, Device, Selector};
use crate::ingest::tests::{manifest, window};
use crate::io::store::StoreConfig;

fn device() -> DeviceId {
    "a".parse().unwrap()
}

fn cohort() -> Cohort {
    "everywhere".parse().unwrap()
}

async fn commit(store: &Store, writes: Vec<Write>) {
    store.commit(Batch { at: Timestamp::from_secs(1_000), writes, events: Vec::new(), urgent: true }).await.unwrap();
}

/// What a controller that starts now knows, from the store alone.
fn started(store: &Store) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.know(manifest().blob().digest, Arc::new(manifest()));
    let doc = CohortDoc {
        name: cohort(),
        line: manifest().line,
        selector: Selector::everything(),
        rank: 0,
        last_known_good: None,
        created_at: Timestamp::from_secs(1),
    };
    ledger.snapshot.cohorts = Arc::new([(cohort(), Arc::new(doc))].into());
    restore(store, &mut ledger).unwrap();
    ledger
}

fn decisions(ledger: &Ledger) -> u64 {
    let (_, quality, _) = ledger.derived(&cohort(), manifest().blob().digest);
    quality.map_or(0, |quality| quality.recent(&ledger.quality).decisions)
}

#[tokio::test]
async fn what_a_start_replayed_is_in_the_next_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), StoreConfig::default()).unwrap();
    let known = Device::new(device(), "0".repeat(64), BTreeMap::new(), Timestamp::from_secs(1));
    let known = StoredDevice { device: known, status: None, reported: None };
    commit(&store, vec![document(Kind::Device, device().to_string(), Some(&known)).unwrap()]).await;
    for number in 0..3 {
        let body = window(number).to_bytes();
        let logged = Logged { device: device(), boot: BootId(1), counter: number + 1, body, frame: None };
        commit(&store, vec![Write::Append { log: Log::Windows, record: postcard::to_stdvec(&logged).unwrap() }]).await;
        // The controller died before a checkpoint; it starts, writes one although nothing new came, and dies again.
        let first = started(&store);
        assert_eq!(decisions(&first), 4 * (number + 1), "replayed");
        commit(&store, everything(&first).unwrap()).await;
        let second = started(&store);
        assert_eq!(decisions(&second), 4 * (number + 1), "the position passed the window, so the sums must hold it");
        assert_eq!(second.position, first.position);
    }
}
