//! `/metrics` in OpenMetrics text. Fleet aggregates only: a device's id is never a label.
//!
//! Gauges are taken from the live state at each scrape, so nothing has to be kept in step and a series ends with the thing it
//! is about. Only what belongs to HTTP itself is counted here.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::Web;
use super::error::Problem;
use crate::rollout::RolloutState;
use crate::rollout::evidence;

/// Features of a line with a series of their own; the rest is summed up as `__other__`.
const MAX_FEATURES: usize = 50;

type Float = Gauge<f64, AtomicU64>;

/// Counted since the start.
#[derive(Debug)]
pub(super) struct Http {
    requests: Family<Route, Counter>,
    seconds: Family<Timed, Histogram, fn() -> Histogram>,
}

impl Http {
    pub(super) fn new() -> Self {
        Self { requests: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 4.0, 8))) }
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),* })*) => {
        $($(#[$doc])* #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)] struct $name { $($field: String),* })*
    };
}

labels! {
    Route { method, route, code }
    Timed { method, route }
    CohortState { cohort, state }
    Serving { model, version, cohort, state }
    Result_ { result }
    Model { model }
    Phase { model, phase }
    Difference { model, metric, bound }
    Limit { model, metric }
    Feature { model, version, cohort, feature, method }
    Drifted { model, version, cohort }
    Quality { model, cohort, metric, kind }
}

/// Count a request.
pub(super) async fn count(State(web): State<Web>, request: Request, next: Next) -> Response {
    // The pattern, not the path: ids must not become labels.
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "unmatched".to_owned(), |m| m.as_str().to_owned());
    let method = request.method().as_str().to_owned();
    let begun = std::time::Instant::now();
    let response = next.run(request).await;
    let http = web.http();
    http.seconds.get_or_create(&Timed { method: method.clone(), route: route.clone() }).observe(begun.elapsed().as_secs_f64());
    http.requests.get_or_create(&Route { method, route, code: response.status().as_u16().to_string() }).inc();
    response
}

/// Figures for Prometheus.
pub(super) async fn metrics(State(web): State<Web>) -> Result<Response, Problem> {
    let mut registry = Registry::with_prefix("leeway");
    registry.register("build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    own(&web, &mut registry)?;
    fleet(&web, &mut registry);
    rollouts(&web, &mut registry);
    drift(&web, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Problem::Internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

fn own(web: &Web, registry: &mut Registry) -> Result<(), Problem> {
    let view = web.controller().metrics();
    let http = web.http();
    registry.register("http_requests", "Requests answered", http.requests.clone());
    registry.register("http_request_duration_seconds", "Time to answer", http.seconds.clone());
    let clients = web.clients();
    registry.register("stream_clients", "Listeners of the live stream", gauge(clients.now.load(Ordering::Relaxed)));
    let mut total = |name: &str, help: &str, n: u64| registry.register(name, help, ConstCounter::new(n));
    total("stream_lagged", "Listeners disconnected for reading too slowly", clients.lagged.load(Ordering::Relaxed));
    total("telemetry_batches", "Batches of uplinks committed", view.batches);
    total("telemetry_receipts", "Messages receipted", view.receipts);
    total("plans", "Plans made", view.plans);
    total("plan_steps", "Steps carried out", view.steps);
    total("desired_published", "Desired states published", view.published);
    total("store_errors", "Commits that failed", view.store_errors);
    let messages = Family::<Result_, Counter>::default();
    for (result, n) in
        [("accepted", view.uplinks.accepted), ("duplicate", view.uplinks.duplicates), ("refused", view.uplinks.refused.values().sum())]
    {
        messages.get_or_create(&Result_ { result: result.to_owned() }).inc_by(n);
    }
    registry.register("telemetry_messages", "Uplink messages by what became of them", messages);
    registry.register("plan_seconds", "Time spent planning", ConstCounter::new(view.plan_micros as f64 / 1e6));
    registry.register("events_seq", "Number of the newest entry of the log", gauge(web.newest()?));
    registry.register("mqtt_connected", "Whether the broker can be reached", gauge(u64::from(web.controller().mqtt_problem().is_none())));
    registry.register("mqtt_connections", "Connections to the embedded broker", gauge(view.connections));
    Ok(())
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

fn fleet(web: &Web, registry: &mut Registry) {
    let devices = Family::<CohortState, Gauge>::default();
    let serving = Family::<Serving, Gauge>::default();
    web.facts(|facts| {
        for row in facts.cohort_rows() {
            for (state, n) in [("online", row.online), ("offline", row.devices.saturating_sub(row.online))] {
                let labels = CohortState { cohort: row.cohort.clone(), state: state.to_owned() };
                devices.get_or_create(&labels).set(i64::try_from(n).unwrap_or(i64::MAX));
            }
        }
        let mut counts: BTreeMap<(String, String, String, &str), i64> = BTreeMap::new();
        for device in facts.snapshot.fleet.iter() {
            let cohort = facts.snapshot.cohort_of(&device).map_or_else(|| "none".to_owned(), |c| c.name.to_string());
            if let Some(running) = device.active() {
                *counts.entry((running.line.to_string(), running.version.to_string(), cohort.clone(), "current")).or_default() += 1;
            }
            if let Some((line, version)) = device.desired.as_ref().and_then(|d| Some((d.line.as_ref()?, d.version.as_ref()?))) {
                *counts.entry((line.to_string(), version.to_string(), cohort, "target")).or_default() += 1;
            }
        }
        for ((model, version, cohort, state), n) in counts {
            serving.get_or_create(&Serving { model, version, cohort, state: state.to_owned() }).set(n);
        }
    });
    registry.register("devices", "Devices by cohort and connection", devices);
    registry.register("device_model_version", "Devices by what they run, and by what they should run", serving);
}

fn rollouts(web: &Web, registry: &mut Registry) {
    const PHASES: [&str; 7] = ["planned", "running", "paused", "rolling_back", "rolled_back", "completed", "aborted"];
    let phase = Family::<Phase, Gauge>::default();
    let stage = Family::<Model, Gauge>::default();
    let (target, actual) = (Family::<Model, Float>::default(), Family::<Model, Float>::default());
    let (difference, threshold) = (Family::<Difference, Float>::default(), Family::<Limit, Float>::default());
    let mut back = 0;
    web.facts(|facts| {
        let mut newest: BTreeMap<String, _> = BTreeMap::new();
        let mut all: Vec<_> = facts.snapshot.rollouts.values().collect();
        all.sort_by_key(|r| r.created_at);
        for rollout in all {
            back += u64::from(matches!(rollout.state, RolloutState::RolledBack { .. }));
            newest.insert(rollout.spec.line.to_string(), rollout);
        }
        for (model, rollout) in newest {
            let summary = facts.summary(rollout);
            for name in PHASES {
                phase.get_or_create(&Phase { model: model.clone(), phase: name.to_owned() }).set(i64::from(summary.phase == name));
            }
            let of = |n: u64| if summary.fleet_devices == 0 { 0.0 } else { n as f64 / summary.fleet_devices as f64 };
            stage.get_or_create(&Model { model: model.clone() }).set(i64::from(summary.stage));
            target.get_or_create(&Model { model: model.clone() }).set(of(summary.target_devices));
            actual.get_or_create(&Model { model: model.clone() }).set(of(summary.actual_devices));
            let Some(found) = facts.snapshot.evidence.get(&rollout.id) else { continue };
            for rail in &rollout.spec.policy.gate.guardrails {
                let Some(arms) = found.arms.get(&rail.metric) else { continue };
                let verdict = evidence::compare(rail.metric, &arms.canary, &arms.control, &rail.limits);
                let metric = rail.metric.to_string();
                for (bound, value) in [("estimate", verdict.estimate), ("lower", verdict.lower), ("upper", verdict.upper)] {
                    let Some(value) = value.filter(|v| v.is_finite()) else { continue };
                    difference
                        .get_or_create(&Difference { model: model.clone(), metric: metric.clone(), bound: bound.to_owned() })
                        .set(value);
                }
                threshold.get_or_create(&Limit { model: model.clone(), metric }).set(rail.limits.margin);
            }
        }
    });
    registry.register("rollout_phase", "The newest rollout of each line: 1 for the phase it is in", phase);
    registry.register("rollout_stage", "Stage of the newest rollout, from 1", stage);
    registry.register("rollout_target_ratio", "Share of the line's devices that should have the new version", target);
    registry.register("rollout_actual_ratio", "Share of the line's devices that run it", actual);
    registry.register("rollout_metric_difference", "Canary minus control, with the ends of its interval", difference);
    registry.register("rollout_metric_threshold", "How much worse the canary may be", threshold);
    registry.register("rollbacks", "Rollouts that were rolled back", ConstCounter::new(back));
}

fn drift(web: &Web, registry: &mut Registry) {
    let score = Family::<Feature, Float>::default();
    let limit = Family::<Feature, Float>::default();
    let share = Family::<Drifted, Float>::default();
    let quality = Family::<Quality, Float>::default();
    let late = Family::<Model, Gauge>::default();
    for line in web.lines() {
        let Ok(parsed) = line.parse() else { continue };
        let Ok(drift) = web.drift(&parsed, None) else { continue };
        late.get_or_create(&Model { model: line.clone() }).set(drift.late_windows.try_into().unwrap_or(i64::MAX));
        let mut per_cohort: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        let mut names: Vec<&str> = Vec::new();
        for f in &drift.features {
            let cohort = f.cohort.clone().unwrap_or_default();
            let sums = per_cohort.entry(cohort.clone()).or_default();
            sums.0 += f64::from(u8::from(f.moved));
            sums.1 += 1.0;
            if !names.contains(&f.name.as_str()) && names.len() < MAX_FEATURES {
                names.push(&f.name);
            }
            let feature = if names.contains(&f.name.as_str()) { f.name.clone() } else { "__other__".to_owned() };
            let label = |method: &str| Feature {
                model: line.clone(),
                version: drift.version.clone(),
                cohort: cohort.clone(),
                feature: feature.clone(),
                method: method.to_owned(),
            };
            for (method, value) in [("log_evidence", f.log_evidence), ("psi", f.psi)] {
                if value.is_finite() {
                    score.get_or_create(&label(method)).set(value);
                }
            }
            limit.get_or_create(&label("log_evidence")).set(f.threshold);
        }
        for (cohort, (moved, all)) in per_cohort {
            share.get_or_create(&Drifted { model: line.clone(), version: drift.version.clone(), cohort }).set(moved / all.max(1.0));
        }
    }
    let snapshot = web.controller().snapshot();
    for (cohort, health) in snapshot.health.iter() {
        let Some(model) = snapshot.cohorts.get(cohort).map(|c| c.line.to_string()) else { continue };
        for (kind, value) in [("measured", health.measured_accuracy.map(|m| m.0)), ("proxy", health.estimated_accuracy)] {
            let Some(value) = value.filter(|v| v.is_finite()) else { continue };
            quality
                .get_or_create(&Quality {
                    model: model.clone(),
                    cohort: cohort.to_string(),
                    metric: "accuracy".to_owned(),
                    kind: kind.to_owned(),
                })
                .set(value);
        }
    }
    registry.register("drift_score", "How far and how surely a feature moved since training", score);
    registry.register("drift_threshold", "What the evidence must pass", limit);
    registry.register(
        "drift_late_windows",
        "Windows of the watched version that came after their block was judged, and were left out",
        late,
    );
    registry.register("features_drifted_ratio", "Share of features that moved", share);
    registry.register(
        "model_quality",
        "Accuracy lately: measured with labels, or estimated from confidence without any (kind proxy), which assumes no concept drift",
        quality,
    );
}
