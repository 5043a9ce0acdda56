//! Keys of the people who sign roots.
use leeway_protocol::trust::metadata::{Document, Root};

use super::lab::{DEVICES, Lab, MINUTE_MS, UNKNOWN};
use super::{DrillError, Row};
use crate::model::Behaviour;
use crate::press::Press;
use crate::rng::Rng;
use crate::scenario::Act;

/// One of three, of which two must sign: nothing.
pub(super) fn one_of_three(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "roots v+1 of both repositories, signed by the other two";
    let mut lab = Lab::new(false)?;
    let forged = lab.world.at_the_press(|press, now| press.forged_root(&["root-1"], now))?;
    let mut files = lab.world.press().everything();
    files.insert("2.root.json".to_owned(), forged.clone());
    lab.world.serve_instead(Some(files));
    lab.pass(5 * MINUTE_MS)?;
    let fooled = lab.count(|d| lab.trusted(d).root != 1);
    row.saw(format!("signed a root of the thief's own: {fooled} of {DEVICES} took it"));
    row.saw(format!(
        "could keep news away for as long as the network was the thief's; {} of {DEVICES} kept running 2.0.0",
        lab.running("2.0.0")
    ));
    row.expect(fooled == 0 && lab.running("2.0.0") == DEVICES, "one root key was enough, or its noise stopped a model");

    lab.world.serve_instead(None);
    lab.people(|press, now| press.replace_root_key("root-1", now))?;
    row.recovered_ms =
        lab.until("every device follows the root without that key", |lab| lab.count(|d| lab.trusted(d).root == 2) == DEVICES)?;
    let stolen = Document::<Root>::parse(&forged, 1 << 20).map_err(|e| DrillError::Thief(e.to_string()))?;
    let now_trusted = lab.world.press().repository().contents().root();
    row.expect(stolen.signers(&now_trusted.keys_of("root")).is_empty(), "the stolen key is still among the root keys");
    lab.goes_on(row)
}

/// Two of three: everything is lost, and no signature brings it back.
pub(super) fn threshold(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "out of band: new keys, and each device set up again with the new roots";
    let mut lab = Lab::new(false)?;
    let mut thieves = lab.world.press().clone();
    let now = lab.world.now();
    thieves.seize(now)?;
    let honest = lab.world.replace_press(thieves);
    lab.world.at_the_authority(|director, now, press| director.sign_again(now, press));
    lab.world.do_now(Act::Release(Behaviour::Serves { accuracy: 0 }))?;
    lab.assign(2)?;
    lab.until("the thieves' model runs everywhere", |lab| lab.running("3.0.0") == DEVICES)?;
    row.saw(format!("everything: {} of {DEVICES} ran a model that only the thieves had signed", lab.running("3.0.0")));

    // The honest people try what helps against less: a root of theirs, by the one key left and by all three old ones.
    let mut people = honest;
    people.rotate_freshness(lab.world.now())?;
    let thieves = lab.world.replace_press(people);
    lab.pass(5 * MINUTE_MS)?;
    let helped = lab.count(|d| lab.serving(d) != UNKNOWN);
    row.saw(format!(
        "a root by the honest people changed nothing: {} of {DEVICES} stayed with the thieves' root",
        lab.count(|d| lab.trusted(d).root == 2)
    ));
    drop(thieves);
    row.expect(helped == 0, "a device left the thieves' root without being set up again, so this row is too pessimistic");

    let line = lab.world.press().line().clone();
    let from = lab.world.elapsed_ms();
    let new = Press::new(&line, lab.world.now(), &Rng::new(2).fork("another ceremony", 0))?;
    lab.world.replace_press(new);
    for device in 0..DEVICES {
        lab.world.set_up_again(device)?;
        if let Some(id) = lab.device_id(device) {
            lab.world.at_the_authority(|director, _, _| director.forget(&id));
        }
    }
    let release = lab.release()?;
    lab.assign(release)?;
    lab.until_all_run(release)?;
    row.recovered_ms = lab.world.elapsed_ms() - from;
    row.expect(lab.count(|d| lab.trusted(d).root == 1) == DEVICES, "a device still has the thieves' root");
    lab.goes_on(row)
}
