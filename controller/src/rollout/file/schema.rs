//! The JSON Schema of a rollout's file, made from the types: what utoipa derives for the policy, and for the parts of other crates
//! the shape of their default value.
use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{API_VERSION, KIND};
use crate::fleet::DeviceSettings;
use crate::rollout::RolloutPolicy;

/// What a duration with its unit looks like.
pub(super) const DURATION: &str = "^[0-9]+(ms|s|m|h|d)$";
/// Fields of a device's settings that may be left out though the rest of their group is given.
const OPTIONAL: [&str; 6] = ["salt", "max_bytes_per_day", "priority", "uncertain", "rare", "disagreement"];

static SCHEMA: LazyLock<Value> = LazyLock::new(make);
static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut names = BTreeSet::new();
    collect(&SCHEMA, &mut names);
    names
});

/// The schema that every file is checked against.
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// Keys that may be written with a unit.
pub(super) fn duration_names() -> &'static BTreeSet<String> {
    &NAMES
}

fn make() -> Value {
    let mut parts = Vec::new();
    RolloutPolicy::schemas(&mut parts);
    parts.push(("RolloutPolicy".to_owned(), RolloutPolicy::schema()));
    let plain = |schema| serde_json::to_value(schema).unwrap_or_default();
    let mut definitions: Map<String, Value> = parts.into_iter().map(|(name, schema)| (name, plain(schema))).collect();
    definitions.insert("DeviceSettings".to_owned(), settings());
    if let Some(policy) = definitions.get_mut("RolloutPolicy").and_then(|policy| policy.pointer_mut("/properties/settings")) {
        *policy = json!({ "$ref": "#/components/schemas/DeviceSettings", "description": "How a device goes about it." });
    }
    let mut definitions = Value::Object(definitions);
    adapt(&mut definitions);
    let name = |what: &str| json!({ "type": "string", "description": what });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A rollout",
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "const": API_VERSION },
            "kind": { "const": KIND },
            "metadata": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name"],
                "properties": { "name": name("Name of the rollout; the same name is the same rollout.") },
            },
            "spec": {
                "type": "object",
                "additionalProperties": false,
                "required": ["line", "version"],
                "properties": {
                    "line": name("The model line."),
                    "version": name("The version to bring out."),
                    "reason": name("Why, for the audit trail."),
                    "policy": { "$ref": "#/$defs/RolloutPolicy", "description": "How; the line's own policy if absent." },
                },
            },
        },
        "$defs": definitions,
    })
}

/// References as they are in a document of its own, and a sibling with a unit for each duration.
fn adapt(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(adapt),
        Value::Object(fields) => {
            if let Some(Value::String(path)) = fields.get_mut("$ref") {
                *path = path.replace("#/components/schemas/", "#/$defs/");
            }
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                let short = |key: &String| key.strip_suffix("_ms").map(str::to_owned);
                let new: Vec<String> = properties.keys().filter_map(short).filter(|key| !properties.contains_key(key)).collect();
                for key in new {
                    let what = format!("{key}_ms, with a unit: 500ms, 90s, 30m, 8h or 2d.");
                    properties.insert(key, json!({ "type": "string", "pattern": DURATION, "description": what }));
                }
            }
            fields.values_mut().for_each(adapt);
        }
        _ => {}
    }
}

/// The shape of the settings, from their default; the window, which has none, by hand.
fn settings() -> Value {
    let mut settings = shape(&serde_json::to_value(DeviceSettings::default()).unwrap_or_default(), false);
    let time = json!({ "type": "string", "description": "A time of day, such as 22:00." });
    let days = json!({ "type": "array", "items": { "enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"] } });
    let window = json!({
        "type": "object",
        "description": "When an install may begin, by the device's own clock; any time if absent.",
        "additionalProperties": false,
        "required": ["from", "to"],
        "properties": { "days": days, "from": time, "to": time, "utc_offset_minutes": { "type": ["integer", "null"] } },
    });
    if let Some(properties) = settings.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("window".to_owned(), window);
    }
    settings
}

fn shape(value: &Value, whole: bool) -> Value {
    match value {
        Value::Object(fields) => {
            let properties: Map<String, Value> = fields.iter().map(|(key, value)| (key.clone(), shape(value, true))).collect();
            let required: Vec<&String> = fields.keys().filter(|key| whole && !OPTIONAL.contains(&key.as_str())).collect();
            json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
        }
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer", "minimum": 0 }),
        _ => json!({}),
    }
}

fn collect(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        Value::Object(fields) => {
            for (key, own) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if own.get("pattern").is_some_and(|pattern| pattern == DURATION) {
                    names.insert(key.clone());
                }
            }
            fields.values().for_each(|value| collect(value, names));
        }
        _ => {}
    }
}
