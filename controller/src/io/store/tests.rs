//! The store as it is used: batches, restarts, logs, damage, and what must never be lost.
use std::sync::atomic::{AtomicU64, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;
use serde_json::json;

use super::*;
use crate::audit;

fn happening(n: i64) -> Draft {
    Draft {
        at: Timestamp::from_secs(n),
        actor: "controller".to_owned(),
        kind: "test".to_owned(),
        subject: format!("tests/{n}"),
        sentence: format!("Event {n}."),
        data: json!({ "n": n }),
    }
}

fn put(kind: Kind, key: &str, value: &[u8]) -> Write {
    Write::Put { kind, key: key.to_owned(), value: value.to_vec() }
}

fn append(log: Log, record: &[u8]) -> Write {
    Write::Append { log, record: record.to_vec() }
}

fn batch(day: i64, writes: Vec<Write>) -> Batch {
    Batch { at: Timestamp::from_secs(day * 86_400), writes, events: Vec::new(), urgent: true }
}

#[tokio::test]
async fn documents_logs_and_events_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path, StoreConfig::default()).unwrap();
    let mut first = batch(1, vec![put(Kind::Device, "a", b"1"), put(Kind::Device, "b", b"2"), put(Kind::Line, "a", b"3")]);
    first.events = vec![happening(1), happening(2)];
    let committed = store.commit(first).await.unwrap();
    assert_eq!(committed.events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2]);
    let second = batch(1, vec![append(Log::Windows, b"w0"), append(Log::Captures, b"c0"), append(Log::Windows, b"w1")]);
    let committed = store.commit(second).await.unwrap();
    assert_eq!((committed.windows, committed.captures), (0..2, 0..1));
    store.commit(batch(2, vec![Write::Delete { kind: Kind::Device, key: "b".into() }, append(Log::Windows, b"w2")])).await.unwrap();
    drop(store);

    let store = loop {
        // The writer lets go of the file in its own time.
        match Store::open(&path, StoreConfig::default()) {
            Ok(store) => break store,
            Err(StoreError::InUse(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(store.docs(Kind::Device).unwrap(), [("a".to_owned(), b"1".to_vec())]);
    assert_eq!(store.doc(Kind::Line, "a").unwrap(), Some(b"3".to_vec()));
    let windows = store.records(Log::Windows, 1, 10).unwrap();
    assert_eq!(windows.iter().map(|r| (r.seq, r.bytes.as_slice())).collect::<Vec<_>>(), [(1, &b"w1"[..]), (2, &b"w2"[..])]);
    assert_eq!(store.records(Log::Windows, 0, 1).unwrap().len(), 1);
    assert_eq!(store.next_seq(Log::Windows).unwrap(), 3);
    let third = Batch { events: vec![happening(3)], ..batch(3, Vec::new()) };
    assert_eq!(store.commit(third).await.unwrap().events[0].seq, 3);
    let events = store.events(0, 10).unwrap();
    assert_eq!(audit::verify(audit::Head::default(), &events).unwrap().seq, 3);
    assert_eq!(store.last_events(2).unwrap().iter().map(|e| e.seq).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn many_batches_share_a_commit_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), StoreConfig::default()).unwrap();
    let tasks: Vec<_> = (0..500u32)
        .map(|i| {
            let store = store.clone();
            let batch = Batch { urgent: false, ..batch(1, vec![append(Log::Windows, &i.to_le_bytes())]) };
            tokio::spawn(async move { store.commit(batch).await.unwrap().windows })
        })
        .collect();
    let mut seen = Vec::new();
    for task in tasks {
        seen.extend(task.await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    assert_eq!(store.records(Log::Windows, 0, 1000).unwrap().len(), 500);
}

#[tokio::test]
async fn retention_drops_whole_days_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), StoreConfig::default()).unwrap();
    for day in 1..=4 {
        store.commit(batch(day, vec![append(Log::Windows, b"w"), append(Log::Captures, b"c")])).await.unwrap();
    }
    let third_day = Timestamp::from_secs(3 * 86_400);
    assert_eq!(store.prune(Log::Windows, third_day).await.unwrap(), 2);
    assert_eq!(store.prune(Log::Windows, third_day.plus_secs(86_399)).await.unwrap(), 0, "a day that is not over stays");
    assert_eq!(store.records(Log::Windows, 0, 10).unwrap().iter().map(|r| r.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.records(Log::Captures, 0, 10).unwrap().len(), 4);
    store.prune(Log::Windows, Timestamp::from_secs(100 * 86_400)).await.unwrap();
    assert_eq!(store.commit(batch(101, vec![append(Log::Windows, b"w")])).await.unwrap().windows, 4..5);
}

#[test]
fn a_damaged_a_foreign_and_a_newer_file_are_named_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    std::fs::write(&path, b"this is no database, but long enough to look at".repeat(400)).unwrap();
    let error = Store::open(&path, StoreConfig::default()).unwrap_err().to_string();
    assert!(error.contains("store.redb") && error.contains("backup"), "{error}");

    std::fs::remove_file(&path).unwrap();
    drop(Store::open(&path, StoreConfig::default()).unwrap());
    let sound = read_when_free(&path);
    for damage in [Damage::Cut, Damage::Zero, Damage::Flip] {
        std::fs::write(&path, damage.done_to(&sound)).unwrap();
        match Store::open(&path, StoreConfig::default()) {
            Err(error) => assert!(error.to_string().contains("store.redb"), "{damage:?}: {error}"),
            // A second sound copy of the header may save the day.
            Ok(store) => assert_eq!(store.docs(Kind::Device).unwrap(), [], "{damage:?}"),
        }
    }

    std::fs::remove_file(&path).unwrap();
    {
        let db = redb::Database::create(&path).unwrap();
        let transaction = db.begin_write().unwrap();
        transaction.open_table(layout::META).unwrap().insert(layout::META_FORM, 99).unwrap();
        transaction.commit().unwrap();
    }
    let error = Store::open(&path, StoreConfig::default()).unwrap_err();
    assert!(matches!(error, StoreError::Form { found: 99, .. }), "{error}");
}

#[derive(Debug)]
enum Damage {
    Cut,
    Zero,
    Flip,
}

impl Damage {
    fn done_to(&self, sound: &[u8]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        match self {
            Self::Cut => bytes.truncate(bytes.len() / 2),
            Self::Zero => bytes[..4096].fill(0),
            Self::Flip => bytes.iter_mut().skip(64).step_by(97).for_each(|b| *b ^= 0x55),
        }
        bytes
    }
}

fn read_when_free(path: &std::path::Path) -> Vec<u8> {
    loop {
        match redb::Database::create(path) {
            Ok(db) => break drop(db),
            Err(_) => std::thread::yield_now(),
        }
    }
    std::fs::read(path).unwrap()
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let _first = Store::open(&path, StoreConfig::default()).unwrap();
    let error = Store::open(&path, StoreConfig::default()).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
}

#[test]
fn an_unreadable_document_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), StoreConfig::default()).unwrap();
    store.commit_blocking(batch(1, vec![put(Kind::Rollout, "rain-2", b"{")])).unwrap();
    let error = store.parsed::<serde_json::Value>(Kind::Rollout).unwrap_err().to_string();
    assert!(error.contains("rain-2") && error.contains("damaged"), "{error}");
}

/// A file on a disk with so many bytes, and how often it was opened.
pub(crate) fn small_disk(path: &Path, room: &Arc<AtomicU64>, opened: &Arc<AtomicU64>) -> Medium {
    let (at, room, opened) = (path.to_owned(), Arc::clone(room), Arc::clone(opened));
    let backend = move || -> std::io::Result<Box<dyn StorageBackend>> {
        opened.fetch_add(1, Ordering::SeqCst);
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&at)?;
        let file = FileBackend::new(file).map_err(std::io::Error::other)?;
        Ok(Box::new(SmallDisk { file, room: Arc::clone(&room) }))
    };
    Medium::other(path, Arc::new(backend))
}

#[derive(Debug)]
struct SmallDisk {
    file: FileBackend,
    room: Arc<AtomicU64>,
}

impl StorageBackend for SmallDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if offset + data.len() as u64 > self.room.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.file.write(offset, data)
    }
    fn close(&self) -> std::io::Result<()> {
        self.file.close()
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_confirmed_and_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let room = Arc::new(AtomicU64::new(2 << 20));
    let opened = Arc::new(AtomicU64::new(0));
    let store = Store::open_on(small_disk(&path, &room, &opened), StoreConfig::default()).unwrap();
    let mut confirmed = 0;
    let error = loop {
        let one = Batch { events: vec![happening(confirmed)], ..batch(1, vec![append(Log::Windows, &vec![7; 100_000])]) };
        match store.commit(one).await {
            Ok(_) => confirmed += 1,
            Err(error) => break error,
        }
        assert!(confirmed < 1000, "the disk never ran full");
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(confirmed > 2);
    assert_eq!(store.records(Log::Windows, 0, 1000).unwrap().len(), confirmed as usize, "reading goes on");
    room.store(u64::MAX, Ordering::SeqCst);
    let one = Batch { events: vec![happening(confirmed)], ..batch(1, vec![append(Log::Windows, b"more")]) };
    assert_eq!(store.commit(one).await.unwrap().windows.start, confirmed as u64);
    let events = store.events(0, 1000).unwrap();
    assert_eq!(audit::verify(audit::Head::default(), &events).unwrap().seq, confirmed as u64 + 1);
    assert!(opened.load(Ordering::SeqCst) > 1, "the file was opened anew");
}

fn row(n: u64) -> Write {
    Write::Remember { device: "d1".to_owned(), row: format!("row {n}").into_bytes(), event: None }
}

#[tokio::test]
async fn a_history_is_appended_under_its_device_and_bounded_in_number_and_age() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    let store = Store::open(&path, StoreConfig::default()).unwrap();
    let told = Write::Remember { device: "d1".to_owned(), row: b"told".to_vec(), event: Some(1) };
    let other = Write::Remember { device: "d10".to_owned(), row: b"other".to_vec(), event: None };
    store.commit(Batch { events: vec![happening(1), happening(2)], ..batch(1, vec![told, other]) }).await.unwrap();
    for n in 0..MAX_HISTORY + 4 {
        store.commit(batch(2, vec![row(n)])).await.unwrap();
    }
    let rows = store.history("d1").unwrap();
    assert_eq!((rows.len() as u64, rows[0].n, rows[0].row.as_slice()), (MAX_HISTORY, 6, b"row 4".as_slice()));
    let others = store.history("d10").unwrap();
    assert_eq!((others.len(), others[0].n, others[0].at), (1, 1, Timestamp::from_secs(86_400)));
    assert_eq!(store.history("d").unwrap(), []);

    // By age: what was in force at the edge stays, although it began before it.
    let days = KEEP_HISTORY_MS / 86_400_000;
    for day in [3, 10, days + 5] {
        store.commit(batch(day, vec![row(9)])).await.unwrap();
    }
    let left: Vec<i64> = store.history("d1").unwrap().iter().map(|row| row.at.as_millis() / 86_400_000).collect();
    assert_eq!(left, [3, 10, days + 5], "day 3's ended on day 10, which is within three years of day {}", days + 5);
    drop(store);
    let store = loop {
        match Store::open(&path, StoreConfig::default()) {
            Ok(store) => break store,
            Err(_) => std::thread::yield_now(),
        }
    };
    assert_eq!(store.history("d1").unwrap().len(), 3, "and it survives a restart");
}

#[tokio::test]
async fn a_row_knows_its_event_and_events_are_found_by_subject() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), StoreConfig::default()).unwrap();
    let about = |subject: &str, n| Draft { subject: subject.to_owned(), ..happening(n) };
    store.commit(Batch { events: vec![about("rollouts/r", 1), about("rollouts/r2", 2)], ..batch(1, Vec::new()) }).await.unwrap();
    let told = Write::Remember { device: "d1".to_owned(), row: b"told".to_vec(), event: Some(1) };
    let events = vec![about("devices/d0", 3), about("devices/d1", 4), about("rollouts/r", 5)];
    let committed = store.commit(Batch { events, ..batch(1, vec![told]) }).await.unwrap();
    assert_eq!(store.history("d1").unwrap()[0].event, Some(committed.events[1].seq));
    let seqs = |subject: &str, until, limit| -> Vec<u64> {
        store.events_about(subject, until, limit).unwrap().iter().map(|event| event.seq).collect()
    };
    assert_eq!(seqs("rollouts/r", u64::MAX, 10), [1, 5]);
    assert_eq!(seqs("rollouts/r", 4, 10), [1]);
    assert_eq!(seqs("rollouts/r", u64::MAX, 1), [5], "the newest");
    assert_eq!(seqs("devices/d1", u64::MAX, 10), [] as [u64; 0], "those are in the device's history");
}
