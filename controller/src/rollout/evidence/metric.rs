//! How a metric is written and read: as one text in documents, by its place in the enum in binary records.
//!
//! A text, and not an object for the metrics that have a name inside, because metrics are keys of maps in JSON, and because a person
//! writes them in a rollout's file. What stays true: texts of earlier versions mean what they meant; in binary, variants
//! are only ever appended.
use std::fmt;
use std::str::FromStr;

use leeway_protocol::report::{MAX_USER_NAME, UserMetric};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema, openapi::RefOr};

use super::Metric;

/// What stands before the name of a user metric.
const USER: &str = "user:";

/// A text that is no metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be {text:?}; {hint}")]
pub struct MetricError {
    text: String,
    hint: String,
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "{USER}{name}"),
            known => f.write_str(known.word()),
        }
    }
}

impl FromStr for Metric {
    type Err = MetricError;

    fn from_str(text: &str) -> Result<Self, MetricError> {
        if let Some(known) = Self::ALL.into_iter().find(|known| known.word() == text) {
            return Ok(known);
        }
        let wrong = |hint| MetricError { text: text.chars().take(80).collect(), hint };
        if let Some(name) = text.strip_prefix(USER) {
            return name.parse().map(Self::User).map_err(|e: leeway_protocol::report::UserMetricError| wrong(e.to_string()));
        }
        let words = Self::ALL.map(Self::word);
        let far = |word: &&str| crate::config::distance(text, word);
        let near = words.into_iter().min_by_key(far).filter(|word| far(word) <= 1 + word.len() / 4);
        let hint = near.map_or_else(|| format!("use one of {}, or {USER}NAME", words.join(", ")), |word| format!("did you mean {word:?}?"));
        Err(wrong(hint))
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The other is the derived one of the enum itself.
        if serializer.is_human_readable() { serializer.collect_str(self) } else { Self::serialize(self, serializer) }
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Self::deserialize(deserializer);
        }
        let text = std::borrow::Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for Metric {
    fn schema() -> RefOr<Schema> {
        let text =
            "What a guardrail compares: a metric that every device measures, or `user:NAME`, what applications tell under that name.";
        ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern())).description(Some(text)).into()
    }
}

impl ToSchema for Metric {}

/// What the text of a metric looks like, for those who check documents by their schema.
pub fn pattern() -> String {
    format!("^({}|{USER}[a-z][a-z0-9_]{{0,{}}})$", Metric::ALL.map(Metric::word).join("|"), MAX_USER_NAME - 1)
}

impl From<UserMetric> for Metric {
    fn from(name: UserMetric) -> Self {
        Self::User(name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rollout::evidence::{Evidence, Totals};

    #[test]
    fn every_metric_is_read_as_it_is_written_also_as_a_key() {
        let words =
            ["error_ratio", "slow_ratio", "labelled_accuracy", "estimated_accuracy", "device_failures", "output_shift", "user:retry"];
        let all: Vec<Metric> = words.iter().map(|word| word.parse().unwrap()).collect();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), words);
        assert_eq!(serde_json::to_value(&all).unwrap(), serde_json::json!(words));
        assert_eq!(serde_json::from_value::<Vec<Metric>>(serde_json::json!(words)).unwrap(), all);
        let map: BTreeMap<Metric, Totals> = all.iter().map(|metric| (*metric, Totals { n: 2.0, x: 1.0 })).collect();
        let json = serde_json::to_string(&map).unwrap();
        assert!(json.contains("\"user:retry\":{"), "{json}");
        assert_eq!(serde_json::from_str::<BTreeMap<Metric, Totals>>(&json).unwrap(), map);
        let bytes = postcard::to_stdvec(&map).unwrap();
        assert_eq!(postcard::from_bytes::<BTreeMap<Metric, Totals>>(&bytes).unwrap(), map);
    }

    #[test]
    fn what_earlier_versions_stored_is_still_read() {
        // A checkpoint of evidence, and the same keys as a binary record, from before there were user metrics.
        let text = r#"{"arms":{"error_ratio":{"canary":{"devices":1,"n":40.0,"x":2.0,"n2":1600.0,"x2":4.0,"nx":80.0},
            "control":{"devices":0,"n":0.0,"x":0.0,"n2":0.0,"x2":0.0,"nx":0.0}}},
            "settled":{"labelled_accuracy":{"canary":{"devices":1,"sum":0.2,"bins":[[15,1,0.2]]},"control":{"devices":0,"sum":0.0,"bins":[]}}},
            "slices":{"hw=rev-b":{"slow_ratio":{"canary":{"devices":0,"n":0.0,"x":0.0,"n2":0.0,"x2":0.0,"nx":0.0},
            "control":{"devices":0,"n":0.0,"x":0.0,"n2":0.0,"x2":0.0,"nx":0.0}}}},
            "usual":[],"inferences":40,"errors":2,"devices":1,"last_at":null,"manifest":null}"#;
        let evidence: Evidence = serde_json::from_str(text).unwrap();
        assert_eq!(evidence.arms[&Metric::ErrorRatio].canary.n, 40.0);
        assert_eq!(evidence.settled[&Metric::LabelledAccuracy].canary.devices, 1);
        assert!(evidence.slices["hw=rev-b"].contains_key(&Metric::SlowRatio));
        let binary: Vec<Metric> = postcard::from_bytes(&[6, 0, 1, 2, 3, 4, 5]).unwrap();
        assert_eq!(binary, Metric::ALL[..6]);
    }

    #[test]
    fn what_is_no_metric_is_refused_with_a_sentence() {
        for (text, hint) in [
            ("eror_ratio", "cannot be \"eror_ratio\"; did you mean \"error_ratio\"?"),
            ("yield", "use one of error_ratio, "),
            ("user:", "use 1 to 24 characters"),
            ("user:Pick", "starting with a letter"),
            ("user:pick success", "out of a-z, 0-9 and _"),
            ("user", "or user:NAME"),
        ] {
            let problem = text.parse::<Metric>().unwrap_err().to_string();
            assert!(problem.contains(hint), "{text}: {problem}");
            assert!(serde_json::from_value::<Metric>(text.into()).is_err());
        }
        assert!(pattern().starts_with("^(error_ratio|") && pattern().ends_with("|user:[a-z][a-z0-9_]{0,23})$"), "{}", pattern());
    }
}
