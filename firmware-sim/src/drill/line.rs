//! Keys that release for a line.
use super::lab::{DEVICES, Lab, MINUTE_MS};
use super::thief::{Evil, Wanted, mirror};
use super::{DrillError, Row};
use crate::model::Behaviour;
use crate::scenario::Act;

/// One of two, together with everything that lies on the controller: not enough for a model.
pub(super) fn one_of_two(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "targets v+1 without it; the line's releases signed again by the new keys";
    let mut lab = Lab::new(true)?;
    lab.people(|press, now| press.replace_line_keys(2, now, |_| {}))?;
    let targets = lab.world.press().targets_version();
    lab.until("every device knows that two must sign", |lab| lab.count(|d| lab.trusted(d).targets == targets) == DEVICES)?;

    let stolen = lab.world.press().signer().clone();
    let one = lab.world.press().line_keys().first().cloned().into_iter().collect::<Vec<_>>();
    let now = lab.world.now();
    let evil = Evil::signed_by(lab.world.press(), &one.iter().collect::<Vec<_>>(), now)?;
    let refused = lab.world.press().repository().clone().accept_role("rain", evil.role(), &stolen, now);
    row.expect(refused.is_err(), "an honest controller took the upload");
    row.saw(match refused {
        Err(error) => format!("an honest controller refused the upload ({error})"),
        Ok(_) => "an honest controller took the upload".to_owned(),
    });
    // The worst case: the controller is the thief's too, so it lists and assigns the model.
    lab.world.serve_instead(Some(mirror(lab.world.press(), &stolen, 1_000, Some(&evil), now)?));
    lab.show_all(&Wanted::Evil(&evil), 1, &stolen.director)?;
    let mut refusals = [false; DEVICES];
    let mut ran = 0;
    for _ in 0..240 {
        lab.pass(500)?;
        for (device, refused) in refusals.iter_mut().enumerate() {
            *refused |= !lab.code(device).is_empty();
        }
        ran = ran.max(lab.count(|d| lab.serving(d) != "2.0.0"));
    }
    let refused = refusals.iter().filter(|refused| **refused).count();
    row.saw(format!("with the whole controller besides: {ran} of {DEVICES} ran the model, {refused} refused it"));
    row.expect(ran == 0 && refused == DEVICES, "one line key and the online keys were enough, or nobody noticed");

    lab.world.serve_instead(None);
    let from = lab.world.elapsed_ms();
    lab.people(|press, now| press.rotate_freshness(now))?;
    lab.people(|press, now| press.rotate_director(now))?;
    lab.people(|press, now| press.replace_line_keys(2, now, |_| {}))?;
    lab.world.at_the_authority(|director, now, press| director.sign_again(now, press));
    let release = lab.release()?;
    lab.assign(release)?;
    lab.until_all_run(release)?;
    row.recovered_ms = lab.world.elapsed_ms() - from;
    let late = Evil::signed_by(lab.world.press(), &one.iter().collect::<Vec<_>>(), lab.world.now())?;
    let signer = lab.world.press().signer().clone();
    let refused = lab.world.press().repository().clone().accept_role("rain", late.role(), &signer, lab.world.now());
    row.expect(refused.is_err_and(|e| e.to_string().contains("0 of the 2")), "the stolen line key still counts");
    Ok(())
}

/// All of them: a malicious model of that line, until it is revoked and walled off.
pub(super) fn threshold(row: &mut Row) -> Result<(), DrillError> {
    row.recovery = "targets v+1: new line key, the digest revoked, the floor raised above it";
    let mut lab = Lab::new(false)?;
    let stolen = lab.world.press().line_keys().to_vec();
    // With the line's key this is a release like any other: the controller takes it, and somebody rolls it out.
    lab.world.do_now(Act::Release(Behaviour::Serves { accuracy: 0 }))?;
    lab.assign(2)?;
    lab.until_all_run(2)?;
    row.saw(format!("released a model of the line that {} of {DEVICES} ran (sandbox, self-test and stages remain)", lab.running("3.0.0")));
    let evil = lab.world.press().releases().get(2).map(|r| r.model.digest);

    let from = lab.world.elapsed_ms();
    lab.people(|press, now| {
        press.replace_line_keys(1, now, |policy| {
            policy.min_seq = 4;
            policy.revoked.extend(evil);
        })
    })?;
    let stopped = lab.until("nobody runs the revoked model", |lab| lab.running("3.0.0") == 0)?;
    row.saw(format!("it stopped on all of them {} s after the targets were published", stopped / 1000));
    row.expect(lab.running("2.0.0") == DEVICES, "not every device fell back to the release before it");
    lab.until("every device has said why", |lab| lab.count(|d| lab.code(d) == "revoked") == DEVICES)?;
    let release = lab.release()?;
    lab.assign(release)?;
    lab.until_all_run(release)?;
    row.recovered_ms = lab.world.elapsed_ms() - from;

    // Below the floor, and with the old key: neither comes back.
    lab.world.do_now(Act::Assign { release: 1, percent: 100, rollback: true })?;
    lab.until("the release below the floor is refused", |lab| lab.count(|d| lab.code(d) == "below-floor") == DEVICES)?;
    row.expect(lab.running("4.0.0") == DEVICES, "a release below the floor came back");
    let signer = lab.world.press().signer().clone();
    let now = lab.world.now();
    let late = Evil::signed_by(lab.world.press(), &stolen.iter().collect::<Vec<_>>(), now)?;
    let refused = lab.world.press().repository().clone().accept_role("rain", late.role(), &signer, now);
    row.expect(refused.is_err(), "the stolen line key still counts");
    lab.pass(MINUTE_MS)?;
    lab.goes_on(row)
}
