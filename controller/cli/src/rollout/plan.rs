//! `leeway rollout plan`: a rollout before it begins. The sentences first, the figures they come from below.
use clap::Args;
use leeway_controller::foresight::Forecast;
use leeway_controller::io::web::resource::rollout::RolloutPlan;
use leeway_controller::io::web::words;

use super::{Create, request};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Style, put, table, wrap};

/// `leeway rollout plan`: the arguments of `create`, and how to look ahead.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    create: Create,
    /// The seed of all chance: the same gives the same answer as long as the fleet is the same.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Runs of each case, at most 2000; as many as a few seconds allow otherwise.
    #[arg(long)]
    runs: Option<u32>,
}

/// Ask and print.
pub fn plan(args: &Plan, context: &Context) -> Outcome {
    let runs = args.runs.map_or_else(String::new, |runs| format!("&runs={runs}"));
    let path = format!("/api/v1/rollouts?dry_run=true&foresee=true&seed={}{runs}", args.seed);
    let plan: RolloutPlan = context.client.send(&path, &request(&args.create)?)?;
    let Some(forecast) = &plan.forecast else {
        return Err(Failure::new("the controller made no forecast").help("it is older than this program: update it"));
    };
    if context.json {
        output::json(&plan)?;
    } else {
        put!("{}", render(&context.style, &plan, forecast));
    }
    if forecast.broken.is_empty() {
        return Ok(());
    }
    let create = "change the plan or the budget, or begin it with `leeway rollout create --force --reason \"…\"`";
    Err(Failure::new("the rollout is foreseen to cost more than its own risk budget allows").code(3).help(create))
}

/// The stages and whom they leave out.
pub fn stages(style: &Style, plan: &RolloutPlan) -> String {
    let rows: Vec<Vec<String>> =
        plan.stages.iter().map(|s| vec![s.name.clone(), s.target.clone(), words::count(s.devices), words::duration(s.soak_ms)]).collect();
    let left_out: String = plan.warnings.iter().chain(&plan.left_out).map(|line| format!("{}\n", style.plain(line))).collect();
    format!("{}\n{}{left_out}", style.plain(&plan.sentence), table(style, &["STAGE", "TARGET", "DEVICES", "SOAK"], &rows))
}

fn render(style: &Style, plan: &RolloutPlan, forecast: &Forecast) -> String {
    let bullet = if style.unicode { "•" } else { "-" };
    let say = |lines: &[String]| -> String {
        lines.iter().map(|line| format!("{bullet} {}\n", wrap(&style.plain(line), style.columns, 2))).collect()
    };
    let time = |ms: Option<u64>| words::or_unknown(ms, words::duration);
    let times = [
        ("95 % of the devices run it", forecast.reach.most_median_ms, forecast.reach.most_p90_ms),
        ("every device that is reached", forecast.reach.all_median_ms, forecast.reach.all_p90_ms),
        ("the rollout is complete", forecast.reach.complete_median_ms, forecast.reach.complete_p90_ms),
    ];
    let times: Vec<Vec<String>> = times.iter().map(|(what, median, p90)| vec![(*what).to_owned(), time(*median), time(*p90)]).collect();
    let harms: Vec<Vec<String>> = forecast
        .harms
        .iter()
        .map(|harm| {
            vec![
                words::plain(harm.harm.as_str()),
                harm.stopped.words(),
                words::count(harm.exposed_median),
                words::count(harm.exposed_p90),
                time(harm.stopped_median_ms),
                harm.stopped.runs.to_string(),
            ]
        })
        .collect();
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        stages(style, plan),
        say(&forecast.sentences),
        table(style, &["UNTIL", "MEDIAN", "9 OF 10"], &times),
        table(style, &["IF BAD", "STOPPED", "EXPOSED", "9 OF 10", "AFTER", "RUNS"], &harms),
        style
            .dim(&format!("Taken for granted ({} of {} devices simulated, seed {}):", forecast.simulated, forecast.devices, forecast.seed)),
        say(&forecast.assumed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer() -> RolloutPlan {
        let likely = |share: f64| json!({ "share": share, "low": share / 2.0, "high": share * 2.0, "runs": 300 });
        let harm = json!({
            "harm": "device_failures", "clause": "If it fails on 10 % of devices", "stopped": likely(0.5), "taken_back": likely(0.5),
            "is_seen": true, "exposed_median": 12, "exposed_p90": 21, "stopped_median_ms": 540_000, "stopped_p90_ms": null, "sentence": "s",
        });
        serde_json::from_value(json!({
            "sentence": "rain 2 would reach 500 devices.", "left_out": ["2 devices are offline."], "bytes": 1,
            "stages": [{ "name": "all", "target": "all of every cohort", "devices": 500, "soak_ms": 600_000 }],
            "forecast": {
                "sentences": ["Reaches 95 % of 500 devices in 2 d 4 h (median)."], "devices": 500, "simulated": 500, "seed": 7,
                "reach": { "most_median_ms": 187_200_000, "most_p90_ms": null, "all_median_ms": null, "all_p90_ms": null,
                    "complete_median_ms": 3_600_000, "complete_p90_ms": 7_200_000, "reached": 480, "long_away": 41, "unreached": 0,
                    "unreached_names": [] },
                "false_abort": likely(0.013), "held_up": likely(0.0), "held_up_why": null, "harms": [harm],
                "peak": { "devices_per_minute": 10, "bytes_per_second": 400 }, "unfit": [], "assumed": ["A good version fails on 2.0 %."],
                "broken": [],
            },
        }))
        .unwrap()
    }

    #[test]
    fn sentences_come_first_and_figures_below() {
        let style = Style { color: false, unicode: false, columns: 100, terminal: false };
        let plan = answer();
        let text = render(&style, &plan, plan.forecast.as_ref().unwrap());
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing:\n{text}"));
        let order = [
            at("rain 2 would reach"),
            at("STAGE"),
            at("- Reaches 95 % of 500 devices"),
            at("the rollout is complete"),
            at("device failures"),
            at("Taken for granted (500 of 500 devices simulated, seed 7):"),
            at("- A good version fails"),
        ];
        assert!(order.is_sorted() && text.is_ascii(), "{text}");
        assert!(text.contains("50.0 % (25.0-100.0)"), "{text}");
    }
}
