//! The conformance suite for rollout engines: fleet events in, decisions and sentences out. The cases are data (`*.yaml`, described in
//! `README.md`, in words any engine has); this is Leeway's own runner of them, over the planner, the devices' records and the
//! state machine, in virtual time.
//!
//! One test runs every case and names each that fails, with the step and what was expected, so that one broken rule is read as
//! one list and not as the first of many.
mod engine;
mod expect;
mod format;
mod policy;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use engine::Engine;
use format::{Case, Step};

/// The suite promises this many.
const AT_LEAST: usize = 60;

fn cases() -> Vec<(String, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("rollout-cases");
    let mut files: Vec<_> = std::fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let mut all = Vec::new();
    for file in files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "yaml")) {
        let text = std::fs::read_to_string(&file).expect("a text");
        let read: Vec<Case> = serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        all.extend(read.into_iter().map(|case| (name.clone(), case)));
    }
    all
}

/// What was wrong, step by step; empty if the engine did as the case says.
fn run(case: &Case) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut engine = match Engine::begin(case) {
        Ok(engine) => engine,
        Err(problem) => return check_refusal(case, &problem),
    };
    if case.refused.is_some() {
        return vec!["the rollout was taken although it should have been refused".to_owned()];
    }
    for (number, step) in case.steps.iter().enumerate() {
        let found = take(&mut engine, step);
        if !found.is_empty() {
            let mut text = format!("step {}: {}", number + 1, found.join("; "));
            let _ = write!(text, "\n      the engine says: {}", engine.says().join(" | "));
            wrong.push(text);
            // What follows a wrong state proves nothing.
            break;
        }
    }
    wrong
}

fn check_refusal(case: &Case, problem: &str) -> Vec<String> {
    match &case.refused {
        Some(words) if problem.contains(words.as_str()) => Vec::new(),
        Some(words) => vec![format!("refused with {problem:?}, which does not say {words:?}")],
        None => vec![format!("refused: {problem}")],
    }
}

fn take(engine: &mut Engine, step: &Step) -> Vec<String> {
    let mut wrong = engine.carry_out(step);
    if let Some(expected) = &step.expect {
        wrong.extend(expect::compare(engine, expected));
    } else if let Some(refusal) = &engine.refused {
        wrong.push(format!("refused: {refusal}"));
    }
    wrong
}

#[test]
fn every_case_is_decided_as_it_says() {
    let all = cases();
    let mut failed = String::new();
    for (file, case) in &all {
        for wrong in run(case) {
            let _ = writeln!(failed, "  {file}, case {}: {wrong}", case.case);
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}

#[test]
fn the_suite_is_as_large_as_it_promises_and_every_trap_has_a_case() {
    let all = cases();
    assert!(all.len() >= AT_LEAST, "{} cases", all.len());
    let mut names = BTreeMap::new();
    for (file, case) in &all {
        assert!(names.insert(case.case.clone(), file.clone()).is_none(), "two cases are named {}", case.case);
        let expects = case.refused.is_some() || case.steps.iter().any(|step| step.expect.is_some());
        assert!(expects, "case {} of {file} expects nothing, so it cannot fail", case.case);
    }
    let traps: Vec<&str> = all.iter().filter_map(|(_, case)| case.trap.as_deref()).collect();
    for trap in format::TRAPS {
        assert!(traps.contains(&trap), "no case is about the trap {trap}");
    }
    for trap in traps {
        assert!(format::TRAPS.contains(&trap), "{trap} is not in the list of traps");
    }
}
