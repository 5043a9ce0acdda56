//! Promises that every device keeps, whatever controller it has.
use std::sync::LazyLock;

use leeway_firmware_sim::trial;
use leeway_firmware_sim::watch::Invariant;

use crate::stories::{Ended, holds, live_all, seeds};

/// Stories in every run; with the rollouts' ones a little over a minute on two cores.
const SEEDS: u64 = 1_700;
/// Devices in each.
const DEVICES: usize = 2;

static ENDED: LazyLock<Vec<Ended>> =
    LazyLock::new(|| live_all(seeds(SEEDS), |seed| (trial::run(seed, DEVICES).expect("the world begins").violation, String::new())));

fn kept(invariant: Invariant) {
    holds(&ENDED, invariant, |seed| trial::shorten(seed, DEVICES).expect("the world begins"));
}

#[test]
fn a_device_never_runs_a_manifest_whose_signatures_it_has_not_verified() {
    kept(Invariant::OnlyVerifiedModelsRun);
}

#[test]
fn what_the_offline_keys_took_back_does_not_run_where_they_were_heard() {
    kept(Invariant::RevokedModelsStop);
}

#[test]
fn a_device_follows_only_assignments_that_were_made_for_it() {
    kept(Invariant::OnlyOwnAssignments);
}

#[test]
fn generations_never_go_down_at_a_device() {
    kept(Invariant::GenerationsNeverGoDown);
}

#[test]
fn accepted_metadata_never_goes_back() {
    kept(Invariant::MetadataNeverGoesBack);
}

#[test]
fn every_device_always_has_a_last_known_good_it_can_run_without_a_network() {
    kept(Invariant::AlwaysALastKnownGood);
}

#[test]
fn a_report_counts_once_and_only_for_the_model_that_was_running() {
    kept(Invariant::ReportsCountOnce);
}

#[test]
fn state_is_on_disk_before_any_message_that_depends_on_it_leaves() {
    kept(Invariant::DiskBeforeSpeech);
}

#[test]
fn what_failed_under_an_assignment_is_not_tried_again_under_it() {
    kept(Invariant::FailedStaysFailed);
}

#[test]
fn what_a_device_said_arrives_in_the_end() {
    kept(Invariant::NothingSaidIsLost);
}

#[test]
fn once_faults_stop_the_fleet_converges_to_the_desired_state() {
    kept(Invariant::FleetConverges);
}
