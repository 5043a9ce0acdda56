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
    let left_out: String = plan.left_out.iter().map(|line| format!("{}\n", style.plain(line))).collect();
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
