//! Keys that lie on the controller: timestamp, snapshot, director.
use std::collections::BTreeSet;

use super::lab::{AWAY, DEVICES, Lab, MINUTE_MS};
use super::thief::{Evil, Wanted, mirror};
use super::{DrillError, Row};
use crate::scenario::Act;

/// Some eight thousand years.
const FAR_FUTURE_SECS: i64 = 250_000_000_000;
/// A version that honest people do not reach in any life.
const FAR_AHEAD: u64 = 1_000_000;

/// Fast-forward and freeze, until a root takes the keys away.
pub(super) fn freshness(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "image root v+1 with new timestamp and snapshot keys";
    let mut lab = Lab::new(false)?;
    let stolen = lab.world.press().signer().clone();
    let own = leeway_protocol::trust::keyring::SigningKey::from_seed(&[66; 32]);
    let now = lab.world.now();
    let evil = Evil::signed_by(lab.world.press(), &[&own], now)?;
    let files = mirror(lab.world.press(), &stolen, FAR_AHEAD, Some(&evil), now)?;
    lab.world.serve_instead(Some(files.clone()));
    lab.until("the thief's timestamp is believed", |lab| lab.count(|d| lab.trusted(d).timestamp == FAR_AHEAD) == DEVICES)?;
    row.saw(format!("pushed timestamp and snapshot to version {FAR_AHEAD} on {DEVICES} of {DEVICES} devices"));

    lab.world.do_now(Act::Revoke(1))?;
    lab.pass(5 * MINUTE_MS)?;
    let frozen = lab.running("2.0.0");
    row.saw(format!("kept a revocation from them: {frozen} of {DEVICES} still ran the revoked 2.0.0 five minutes later"));
    row.saw(format!("got no model of the thief's to run: {} of {DEVICES}", lab.count(|d| lab.serving(d) != "2.0.0")));
    row.expect(frozen == DEVICES, "a device left 2.0.0 although nothing it can believe told it to");

    // The thief is thrown out of the network, but the keys still stand.
    lab.world.serve_instead(None);
    lab.pass(5 * MINUTE_MS)?;
    let deaf = lab.count(|d| lab.trusted(d).timestamp == FAR_AHEAD);
    row.saw(format!("{deaf} of {DEVICES} stayed deaf to the honest repository until the keys were changed"));
    lab.people(|press, now| press.rotate_freshness(now))?;
    row.recovered_ms = lab.until("every device has dropped what the stolen keys signed, and the revoked model", |lab| {
        lab.count(|d| lab.trusted(d).root == 2 && lab.trusted(d).timestamp < FAR_AHEAD && lab.serving(d) != "2.0.0") == DEVICES
    })?;
    row.expect(lab.running("1.0.0") == DEVICES, "not every device fell back to 1.0.0 when 2.0.0 was revoked");

    // The same files once more, and newer ones by the same keys: worth nothing.
    let now = lab.world.now();
    let again = mirror(lab.world.press(), &stolen, 2 * FAR_AHEAD, Some(&evil), now)?;
    lab.world.serve_instead(Some(again));
    lab.pass(3 * MINUTE_MS)?;
    row.expect(lab.count(|d| lab.trusted(d).timestamp < FAR_AHEAD) == DEVICES, "a device believed the stolen keys after their rotation");
    lab.world.serve_instead(None);
    lab.goes_on(row)
}

/// The choice among approved models, and nothing else.
pub(super) fn director(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "director root v+1 with a new key; the controller signs every assignment again";
    let mut lab = Lab::new(true)?;
    let stolen = lab.world.press().signer().director.clone();
    // Something that was taken back before it ever ran.
    let taken_back = lab.release()?;
    lab.world.do_now(Act::Revoke(taken_back))?;
    lab.pass(2 * MINUTE_MS)?;

    let evil = Evil::signed_by(lab.world.press(), &[&stolen], lab.world.now())?;
    for (what, wanted) in [("a model nobody approved", Wanted::Evil(&evil)), ("a revoked one", Wanted::Release(taken_back))] {
        lab.show_all(&wanted, 1, &stolen)?;
        let mut codes = BTreeSet::new();
        let mut elsewhere = 0;
        for _ in 0..40 {
            lab.pass(500)?;
            codes.extend((0..DEVICES).map(|d| lab.code(d)).filter(|code| !code.is_empty()));
            elsewhere = elsewhere.max(lab.count(|d| lab.serving(d) != "2.0.0"));
        }
        let codes = codes.into_iter().collect::<Vec<_>>().join(", ");
        row.saw(format!("assigned {what}: refused ({codes}), {elsewhere} of {DEVICES} ran it"));
        row.expect(elsewhere == 0 && !codes.is_empty(), format!("{what} was not refused everywhere"));
        lab.until_all_run(1)?;
    }

    let before: Vec<u64> = (0..DEVICES).map(|d| lab.generation(d)).collect();
    lab.show_all(&Wanted::Release(0), u64::MAX / 2, &stolen)?;
    lab.pass(MINUTE_MS)?;
    let jumped = lab.count(|d| before.get(d).is_some_and(|before| lab.generation(d) != *before));
    row.saw(format!("ran the assignments' numbers to their end on {jumped} of {DEVICES}"));
    row.expect(jumped == 0, "a device followed an assignment that used its numbers up");

    lab.show_all(&Wanted::Release(0), 1, &stolen)?;
    let mut other = BTreeSet::new();
    for _ in 0..60 {
        lab.pass(500)?;
        other.extend((0..DEVICES).filter(|d| lab.serving(*d) == "1.0.0"));
    }
    row.saw(format!(
        "assigned another approved model: {} of {DEVICES} ran 1.0.0 until the controller saw it and told them again",
        other.len()
    ));
    row.expect(other.len() == DEVICES, "the thief's choice among approved models was not followed, so this row shows nothing");

    // The key is changed while the thief's choice is under way, and while one device is away, which has to find out by itself.
    lab.world.plug(AWAY, false);
    let far = lab.world.now().plus_secs(FAR_FUTURE_SECS);
    lab.show_all_of(&Wanted::Release(0), 1, far, &stolen)?;
    lab.pass(2_000)?;
    row.saw("signed an assignment of the year 9999, so that nothing would look fresh any more".to_owned());
    let from = lab.world.elapsed_ms();
    lab.people(|press, now| press.rotate_director(now))?;
    lab.world.at_the_authority(|director, now, press| director.sign_again(now, press));
    lab.pass(MINUTE_MS)?;
    lab.world.plug(AWAY, true);
    lab.until("every device follows what the new key signed, and runs it", |lab| {
        let told = |d: usize| lab.device_id(d).map_or(0, |id| lab.world.authority().generation_of(&id));
        lab.count(|d| lab.generation(d) == told(d) && lab.serving(d) == "2.0.0" && lab.code(d).is_empty()) == DEVICES
    })?;
    row.recovered_ms = lab.world.elapsed_ms() - from;
    lab.pass(2 * MINUTE_MS)?;
    let generations: Vec<u64> = (0..DEVICES).map(|d| lab.generation(d)).collect();
    row.expect(generations.iter().zip(&before).all(|(now, then)| now > then), "a generation did not rise");
    lab.show_all(&Wanted::Release(0), 1, &stolen)?;
    lab.pass(3 * MINUTE_MS)?;
    let obeyed = lab.count(|d| generations.get(d).is_some_and(|g| lab.generation(d) != *g) || lab.serving(d) != "2.0.0");
    row.expect(obeyed == 0, format!("{obeyed} devices followed the stolen key after its rotation"));
    lab.goes_on(row)
}

/// Five rotations of every online key and of a root key, while one device is away; the first thief meets it before the people do.
pub(super) fn five_times(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "the chain of five roots, which the device walks by itself";
    let mut lab = Lab::new(true)?;
    let first = lab.world.press().signer().clone();
    lab.world.plug(AWAY, false);
    let before = lab.world.press().everything();
    for round in 0..5 {
        let person = ["root-1", "root-2", "root-3"][round % 3];
        lab.people(|press, now| press.rotate_everything(person, now))?;
        lab.world.at_the_authority(|director, now, press| director.sign_again(now, press));
        let root = round as u64 + 2;
        lab.until("the devices at home follow the root", |lab| lab.count(|d| lab.trusted(d).root == root) == DEVICES - 1)?;
    }
    row.expect(lab.trusted(AWAY).root == 1, "the device that was away knew a new root");
    let release = lab.release()?;
    lab.assign(release)?;
    let version = lab.version(release);
    lab.until("the devices at home run the new release", |lab| lab.running(&version) == DEVICES - 1)?;

    // Whoever stole the first keys catches the device on its way home: old files, pushed far ahead.
    let mut old = mirror(lab.world.press(), &first, FAR_AHEAD, None, lab.world.now())?;
    old.retain(|name, _| before.contains_key(name) || name.contains("snapshot") || name == "timestamp.json" || name.contains("rain"));
    lab.world.serve_instead(Some(old));
    let at_home: Vec<u64> = (0..AWAY).map(|d| lab.trusted(d).timestamp).collect();
    lab.world.plug(AWAY, true);
    lab.until("the device that was away believes the first thief", |lab| lab.trusted(AWAY).timestamp == FAR_AHEAD)?;
    let fooled = (0..AWAY).filter(|d| at_home.get(*d) != Some(&lab.trusted(*d).timestamp)).count();
    row.saw(format!("with the first keys: pushed the device that had been away to version {FAR_AHEAD}, and {fooled} of the {AWAY} that had followed the roots"));
    row.expect(fooled == 0 && lab.trusted(AWAY).root == 1, "a device that had followed the roots believed the first keys");

    lab.world.serve_instead(None);
    row.recovered_ms = lab.until("the device that was away is where the others are", |lab| {
        lab.trusted(AWAY).root == 6 && lab.trusted(AWAY).timestamp < FAR_AHEAD && lab.serving(AWAY) == version
    })?;
    row.saw(format!("the device walked from root 1 to root {} and then ran {version}", lab.trusted(AWAY).root));
    lab.goes_on(row)
}
