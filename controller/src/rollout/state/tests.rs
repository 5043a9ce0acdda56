//! Every pair of state and move, and what a person is offered.
use super::*;

fn states() -> Vec<RolloutState> {
    let (at, reason, by) = (Timestamp::from_secs(1), "why".to_owned(), Actor::Controller);
    let paused = |stage, passed| RolloutState::Paused { stage, at, reason: reason.clone(), by: by.clone(), soaking_since: None, passed };
    vec![
        RolloutState::Planned,
        RolloutState::Running { stage: 0, since: at, soaking_since: None },
        RolloutState::Running { stage: 2, since: at, soaking_since: Some(at) },
        paused(0, false),
        paused(1, true),
        RolloutState::RollingBack { stage: 1, at, reason: reason.clone(), aborted: false },
        RolloutState::RollingBack { stage: 1, at, reason: reason.clone(), aborted: true },
        RolloutState::RolledBack { at, reason: reason.clone() },
        RolloutState::Completed { at, settled: false },
        RolloutState::Completed { at, settled: true },
        RolloutState::Aborted { at, reason: reason.clone() },
    ]
}

fn moves() -> Vec<Move> {
    let reason = || "because".to_owned();
    vec![
        Move::Start { reason: reason(), baseline: None },
        Move::Soak { reason: reason() },
        Move::Unsoak { reason: reason() },
        Move::Advance { reason: reason() },
        Move::Complete { reason: reason() },
        Move::Pause { reason: reason(), passed: false },
        Move::Resume { reason: reason() },
        Move::Promote { reason: reason() },
        Move::PromoteAll { reason: reason() },
        Move::Approve { remark: reason() },
        Move::Abort { reason: reason() },
        Move::Regress { reason: reason() },
        Move::Restored { reason: reason() },
        Move::Settle { reason: reason() },
    ]
}

/// Every pair of state and move, of a rollout with three stages: rows are states, columns moves, `.` is a refusal.
#[test]
fn every_pair_has_its_outcome() {
    let expected = [
        //                      start soak unsoak adv compl pause resume prom all appr abort regr restd settle
        "planned                running0 . . . . . . . . planned aborted . . .",
        "running0               . running0s . running1 . paused0 . running1 running2 running0 rolling_back0 rolling_back0 . .",
        "running2s              . . running2 . completed paused2 . completed . running2s rolling_back2 rolling_back2 . .",
        "paused0                . . . . . . running0 running1 running2 paused0 rolling_back0 rolling_back0 . .",
        "paused1                . . . . . . running2 running2 running2 paused1 rolling_back1 rolling_back1 . .",
        "rolling_back1          . . . . . . . . . . . . rolled_back .",
        "rolling_back1          . . . . . . . . . . . . aborted .",
        "rolled_back            . . . . . . . . . . . . . .",
        "completed              . . . . . . . . . . . . . completed",
        "completed              . . . . . . . . . . . . . .",
        "aborted                . . . . . . . . . . . . . .",
    ];
    let show = |state: &RolloutState| {
        let soaks = matches!(state, RolloutState::Running { soaking_since: Some(_), .. });
        let stage = state.stage().map_or(String::new(), |s| s.to_string());
        format!("{}{stage}{}", state.phase(), if soaks { "s" } else { "" })
    };
    for (state, row) in states().iter().zip(expected) {
        let outcome = |m: &Move| state.after(m, &Actor::Controller, Timestamp::from_secs(9), 3).map_or(".".to_owned(), |s| show(&s));
        let got: Vec<String> = std::iter::once(show(state)).chain(moves().iter().map(outcome)).collect();
        assert_eq!(got, row.split_whitespace().collect::<Vec<_>>());
    }
}

#[test]
fn a_person_can_do_exactly_what_is_offered() {
    let as_action = |m: &Move| {
        [Action::Approve, Action::Pause, Action::Resume, Action::Promote, Action::PromoteAll, Action::Abort]
            .into_iter()
            .find(|a| a.as_str() == m.as_str())
    };
    for state in states() {
        for step in moves() {
            let Some(action) = as_action(&step) else { continue };
            let offered = state.allowed_actions().contains(&action);
            let legal = state.after(&step, &Actor::Person("ada".into()), Timestamp::default(), 3).is_ok();
            // In the last stage there is no "all" beyond it.
            let last = state.stage() == Some(2) && action == Action::PromoteAll;
            assert_eq!(offered && !last, legal, "{} of {state:?}", action.as_str());
        }
    }
    let refusal = RolloutState::Planned.after(&moves()[6], &Actor::Controller, Timestamp::default(), 3).unwrap_err();
    assert_eq!(refusal.to_string(), "a rollout that is planned cannot resume: allowed now: approve, abort");
}

#[test]
fn stored_states_read_back() {
    for state in states() {
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<RolloutState>(&json).unwrap(), state, "{json}");
    }
    for step in moves() {
        assert_eq!(serde_json::from_str::<Move>(&serde_json::to_string(&step).unwrap()).unwrap(), step);
    }
}
