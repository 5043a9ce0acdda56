//! Which route asks for which scope: the one table. A route that is not in it is for everybody who may look, if it only reads,
//! and for the admin alone if it changes something; so a route that was forgotten is closed, and a test says which.
//!
//! | scope | what it may do besides looking |
//! |---|---|
//! | viewer | nothing |
//! | operator | cohorts, devices and their enrolment, rollouts (all but approving), retraining, deprecating and yanking versions, aliases and tags |
//! | publisher | uploading blobs, datasets and signed roles, candidates, working on training jobs, deprecating and yanking versions, aliases and tags |
//! | approver | approving rollouts that somebody else asked for |
//! | caller | calling for a better model, bound by the line's limits |
//! | admin | everything: also line policies, top-level metadata, tokens, webhooks |
//!
//! Line policies are the admin's because they say which rollouts need an approval at all.
use crate::access::Scope;

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: what is served is signed or says nothing about the fleet, or has a way of its own to tell who asks.
    Nothing,
    /// Nothing, as long as transport is plain: it is signed. With TLS, a device's certificate, or a look at the fleet.
    Device,
    /// The same for what was published, a look at the fleet for the rest.
    Released,
    /// One of these.
    OneOf(&'static [Scope]),
}

use Need::{Device, Nothing, OneOf, Released};

const LOOK: Need = OneOf(&[Scope::Viewer]);
const OPERATE: Need = OneOf(&[Scope::Operator]);
const PUBLISH: Need = OneOf(&[Scope::Publisher]);
const APPROVE: Need = OneOf(&[Scope::Approver]);
const RETIRE: Need = OneOf(&[Scope::Operator, Scope::Publisher]);
const CALL: Need = OneOf(&[Scope::Operator, Scope::Caller]);
const ADMIN: Need = OneOf(&[Scope::Admin]);

/// Method, route, need. `HEAD` is read as `GET`. A route that ends in `{action}` has a row for each action that differs.
const TABLE: &[(&str, &str, Need)] = &[
    ("GET", "/livez", Nothing),
    ("GET", "/readyz", Nothing),
    ("GET", "/version", Nothing),
    ("GET", "/login", Nothing),
    ("POST", "/login", Nothing),
    ("GET", "/assets/{name}", Nothing),
    ("GET", "/problems/{kind}", Nothing),
    ("GET", "/tuf/{file}", Device),
    ("GET", "/tuf/director/{file}", Device),
    ("GET", "/blobs/{digest}", Released),
    ("POST", "/api/v1/enrol", Nothing),
    ("POST", "/logout", LOOK),
    ("GET", "/metrics", LOOK),
    ("GET", "/api/openapi.json", LOOK),
    ("GET", "/", LOOK),
    ("GET", "/models", LOOK),
    ("GET", "/models/{line}", LOOK),
    ("GET", "/models/{line}/versions/{version}", LOOK),
    ("GET", "/rollouts", LOOK),
    ("GET", "/rollouts/{rollout}", LOOK),
    ("GET", "/drift", LOOK),
    ("GET", "/episodes", LOOK),
    ("GET", "/episodes/{episode}", LOOK),
    ("GET", "/devices", LOOK),
    ("GET", "/devices/{device}", LOOK),
    ("GET", "/events", LOOK),
    ("GET", "/api/v1/whoami", LOOK),
    ("GET", "/api/v1/fleet", LOOK),
    ("GET", "/api/v1/cohorts", LOOK),
    ("GET", "/api/v1/cohort-preview", LOOK),
    ("GET", "/api/v1/models", LOOK),
    ("GET", "/api/v1/models/{line}", LOOK),
    ("GET", "/api/v1/models/{line}/versions/{version}", LOOK),
    ("GET", "/api/v1/models/{line}/versions/{version}/lineage", LOOK),
    ("GET", "/api/v1/models/{line}/versions/{version}/provenance", LOOK),
    ("GET", "/api/v1/models/{line}/versions/{version}/bundle", LOOK),
    ("GET", "/api/v1/models/{line}/versions/{version}/bom", LOOK),
    ("GET", "/api/v1/models/{line}/aliases", LOOK),
    ("GET", "/api/v1/models/{line}/drift", LOOK),
    ("GET", "/api/v1/models/{line}/drift/{feature}", LOOK),
    ("GET", "/api/v1/models/{line}/quality", LOOK),
    ("GET", "/api/v1/models/{line}/labels/wanted", LOOK),
    ("GET", "/api/v1/devices", LOOK),
    ("GET", "/api/v1/devices/{device}", LOOK),
    ("GET", "/api/v1/devices/{device}/timeline", LOOK),
    ("GET", "/api/v1/devices/{device}/history", LOOK),
    ("GET", "/api/v1/rollouts", LOOK),
    ("GET", "/api/v1/rollouts/{rollout}", LOOK),
    ("GET", "/api/v1/rollouts/{rollout}/devices", LOOK),
    ("GET", "/api/v1/events", LOOK),
    ("GET", "/api/v1/stream", LOOK),
    ("GET", "/api/v1/episodes", LOOK),
    ("GET", "/api/v1/episodes/{episode}", LOOK),
    ("GET", "/api/v1/training/jobs", LOOK),
    ("GET", "/api/v1/training/jobs/{job}", LOOK),
    ("GET", "/api/v1/training/jobs/{job}/run", LOOK),
    ("GET", "/api/v1/datasets", LOOK),
    ("GET", "/api/v1/datasets/{dataset}", LOOK),
    ("GET", "/api/v1/datasets/{dataset}/files/{role}", LOOK),
    ("GET", "/api/v1/datasets/{dataset}/compare/{other}", LOOK),
    ("GET", "/api/v1/models/{line}/versions/{version}/origin", LOOK),
    ("PUT", "/api/v1/cohorts/{cohort}", OPERATE),
    ("POST", "/api/v1/models/{line}/retrain", OPERATE),
    ("POST", "/api/v1/models/{line}/retrain/call", CALL),
    ("PUT", "/api/v1/devices/{device}/labels", OPERATE),
    ("POST", "/api/v1/devices/{device}/accept", OPERATE),
    ("POST", "/api/v1/devices/{device}/refuse", OPERATE),
    ("POST", "/api/v1/devices/{device}/revoke", OPERATE),
    ("POST", "/api/v1/devices/{device}/remove", OPERATE),
    ("POST", "/api/v1/enrolment-tokens", OPERATE),
    ("POST", "/api/v1/rollouts", OPERATE),
    ("PUT", "/api/v1/rollouts/{rollout}", OPERATE),
    ("POST", "/api/v1/rollouts/{rollout}/{action}", OPERATE),
    ("POST", "/api/v1/rollouts/{rollout}/approve", APPROVE),
    ("POST", "/rollouts/{rollout}/{action}", OPERATE),
    ("POST", "/rollouts/{rollout}/approve", APPROVE),
    ("POST", "/api/v1/models/{line}/versions/{version}/mark", RETIRE),
    // Sketches hold raw values of what was captured.
    ("GET", "/api/v1/models/{line}/sketches", RETIRE),
    ("PUT", "/api/v1/models/{line}/aliases/{alias}", RETIRE),
    ("POST", "/api/v1/models/{line}/tags", RETIRE),
    ("POST", "/api/v1/models/{line}/versions/{version}/tags", RETIRE),
    ("GET", "/api/2.0/mlflow/registered-models/get", LOOK),
    ("GET", "/api/2.0/mlflow/registered-models/search", LOOK),
    ("GET", "/api/2.0/mlflow/registered-models/alias", LOOK),
    ("GET", "/api/2.0/mlflow/registered-models/get-latest-versions", LOOK),
    ("POST", "/api/2.0/mlflow/registered-models/get-latest-versions", LOOK),
    ("GET", "/api/2.0/mlflow/model-versions/get", LOOK),
    ("GET", "/api/2.0/mlflow/model-versions/search", LOOK),
    ("GET", "/api/2.0/mlflow/model-versions/get-download-uri", LOOK),
    ("POST", "/api/2.0/mlflow/registered-models/create", PUBLISH),
    ("POST", "/api/2.0/mlflow/model-versions/create", PUBLISH),
    ("PATCH", "/api/2.0/mlflow/registered-models/update", RETIRE),
    ("POST", "/api/2.0/mlflow/registered-models/set-tag", RETIRE),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete-tag", RETIRE),
    ("POST", "/api/2.0/mlflow/registered-models/alias", RETIRE),
    ("DELETE", "/api/2.0/mlflow/registered-models/alias", RETIRE),
    ("POST", "/api/2.0/mlflow/registered-models/rename", RETIRE),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete", RETIRE),
    ("PATCH", "/api/2.0/mlflow/model-versions/update", RETIRE),
    ("POST", "/api/2.0/mlflow/model-versions/set-tag", RETIRE),
    ("DELETE", "/api/2.0/mlflow/model-versions/delete-tag", RETIRE),
    ("POST", "/api/2.0/mlflow/model-versions/transition-stage", RETIRE),
    ("DELETE", "/api/2.0/mlflow/model-versions/delete", RETIRE),
    // What is not served is said to everybody who may look.
    ("POST", "/api/2.0/mlflow/{*rest}", LOOK),
    ("POST", "/api/v1/blobs", PUBLISH),
    ("POST", "/api/v1/datasets", PUBLISH),
    ("POST", "/api/v1/tuf/roles/{role}", PUBLISH),
    ("POST", "/api/v1/training/claim", PUBLISH),
    ("POST", "/api/v1/training/jobs/{job}/alive", PUBLISH),
    ("POST", "/api/v1/training/jobs/{job}/candidate", PUBLISH),
    ("POST", "/api/v1/training/jobs/{job}/fail", PUBLISH),
    ("GET", "/api/v1/training/jobs/{job}/spec", LOOK),
    ("POST", "/api/v1/training/jobs/{job}/delivery", PUBLISH),
    ("PUT", "/api/v1/models/{line}", ADMIN),
    ("POST", "/api/v1/tuf/targets", ADMIN),
    ("POST", "/api/v1/tuf/roots/{repository}", ADMIN),
    ("GET", "/api/v1/tokens", ADMIN),
    ("POST", "/api/v1/tokens", ADMIN),
    ("POST", "/api/v1/tokens/{name}/revoke", ADMIN),
    ("GET", "/api/v1/webhooks", ADMIN),
    ("POST", "/api/v1/webhooks", ADMIN),
    ("GET", "/api/v1/webhooks/{name}", ADMIN),
    ("POST", "/api/v1/webhooks/{name}/remove", ADMIN),
    ("POST", "/api/v1/webhooks/{name}/resume", ADMIN),
    ("POST", "/api/v1/webhooks/{name}/offer", ADMIN),
];

/// What a request asks for; `route` is the pattern that matched its path, if one did.
pub(super) fn needed(method: &str, route: Option<&str>, path: &str) -> Need {
    let method = if method == "HEAD" { "GET" } else { method };
    let row = |route: &str| TABLE.iter().find(|(m, r, _)| *m == method && *r == route).map(|(.., need)| *need);
    let Some(route) = route else {
        // There is nothing at this path, and saying so is for those who may look.
        return LOOK;
    };
    let closed = if matches!(method, "GET" | "OPTIONS") { LOOK } else { ADMIN };
    if let Some(stem) = route.strip_suffix("{action}") {
        let action = path.rsplit('/').next().unwrap_or_default();
        if !action.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            // Such as `%61pprove`, which the handler would read as an action that this table does not see.
            return ADMIN;
        }
        if let Some(need) = row(&format!("{stem}{action}")) {
            return need;
        }
    }
    row(route).unwrap_or(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_there_twice_and_a_forgotten_route_is_closed() {
        let rows: std::collections::BTreeSet<_> = TABLE.iter().map(|(method, route, _)| (method, route)).collect();
        assert_eq!(rows.len(), TABLE.len());
        assert_eq!(needed("POST", Some("/api/v1/forgotten"), "/api/v1/forgotten"), ADMIN);
        assert_eq!(needed("DELETE", Some("/api/v1/fleet"), "/api/v1/fleet"), ADMIN);
        assert_eq!(needed("GET", Some("/api/v1/forgotten"), "/api/v1/forgotten"), LOOK);
        assert_eq!(needed("POST", None, "/nowhere"), LOOK);
    }

    #[test]
    fn who_only_looks_changes_nothing_and_each_change_has_its_job() {
        let publish = ["/api/v1/blobs", "/api/v1/datasets", "/api/v1/tuf/roles/{role}"];
        let admin = ["/api/v1/models/{line}", "/api/v1/tuf/targets", "/api/v1/tuf/roots/{repository}"];
        let of_admin = |route: &str| admin.contains(&route) || ["/api/v1/tokens", "/api/v1/webhooks"].iter().any(|p| route.starts_with(p));
        for (_, route, need) in TABLE.iter().filter(|(method, ..)| *method != "GET") {
            let expected = match *route {
                "/login" | "/api/v1/enrol" => Nothing,
                "/logout" => LOOK,
                "/api/v1/models/{line}/retrain/call" => OneOf(&[Scope::Operator, Scope::Caller]),
                "/api/v1/models/{line}/versions/{version}/mark" => OneOf(&[Scope::Operator, Scope::Publisher]),
                "/api/2.0/mlflow/{*rest}" | "/api/2.0/mlflow/registered-models/get-latest-versions" => LOOK,
                route if route.starts_with("/api/2.0/mlflow/") && route.ends_with("/create") => OneOf(&[Scope::Publisher]),
                route if route.starts_with("/api/2.0/mlflow/") || route.ends_with("/tags") || route.ends_with("/aliases/{alias}") => {
                    OneOf(&[Scope::Operator, Scope::Publisher])
                }
                route if route.ends_with("/approve") => OneOf(&[Scope::Approver]),
                route if publish.contains(&route) || route.starts_with("/api/v1/training/") => OneOf(&[Scope::Publisher]),
                route if of_admin(route) => OneOf(&[Scope::Admin]),
                _ => OneOf(&[Scope::Operator]),
            };
            assert_eq!(*need, expected, "{route}");
        }
        let looks = TABLE.iter().filter(|(method, ..)| *method == "GET");
        let more: Vec<_> =
            looks.filter(|(.., need)| !matches!(need, Nothing | Device | Released) && *need != LOOK).map(|(_, route, _)| *route).collect();
        assert_eq!(more, ["/api/v1/models/{line}/sketches", "/api/v1/tokens", "/api/v1/webhooks", "/api/v1/webhooks/{name}"]);
    }

    #[test]
    fn approving_is_apart_from_every_other_action() {
        let of = |path: &str| needed("POST", Some("/api/v1/rollouts/{rollout}/{action}"), path);
        assert_eq!(of("/api/v1/rollouts/rain-1/approve"), APPROVE);
        for action in ["pause", "resume", "promote", "promote-all", "abort", "retry", ""] {
            assert_eq!(of(&format!("/api/v1/rollouts/rain-1/{action}")), OPERATE, "{action}");
        }
        for disguised in ["%61pprove", "approv%65", "approve%20", "Approve", "approve;x"] {
            assert_eq!(of(&format!("/api/v1/rollouts/rain-1/{disguised}")), ADMIN, "{disguised}");
        }
        assert_eq!(needed("POST", Some("/rollouts/{rollout}/{action}"), "/rollouts/rain-1/approve"), APPROVE);
        assert_eq!(needed("HEAD", Some("/blobs/{digest}"), "/blobs/00"), Released);
    }

    #[test]
    fn every_operation_of_the_description_and_no_other_has_a_row() {
        let api = serde_json::to_value(super::super::openapi()).unwrap();
        let mut described = std::collections::BTreeSet::new();
        for (path, methods) in api["paths"].as_object().unwrap() {
            described.extend(methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
        }
        let rows: std::collections::BTreeSet<_> =
            TABLE.iter().map(|(method, route, _)| ((*method).to_owned(), (*route).to_owned())).collect();
        let without: Vec<_> = described.difference(&rows).collect();
        assert!(without.is_empty(), "no scope was chosen for {without:?}");
        let is_api = |route: &str| route.starts_with("/api/v1/") && !route.ends_with("/approve");
        let gone: Vec<_> = rows.difference(&described).filter(|(_, route)| is_api(route)).collect();
        assert!(gone.is_empty(), "there is no operation {gone:?}");
    }
}
