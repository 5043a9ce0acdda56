//! Names and numbers that must not be mixed up, each its own type.
//!
//! Every name that comes from outside is parsed once, here, into a type that can be put into a topic, a path or a URL without
//! escaping. What stays true: a value of these types has passed its rule.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that breaks the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?} is not valid: use 1 to {max} characters out of a-z, 0-9 and {extra:?}, starting with a letter or digit")]
pub struct NameError {
    kind: &'static str,
    name: String,
    max: usize,
    extra: &'static str,
}

fn check(kind: &'static str, name: &str, max: usize, extra: &'static str) -> Result<(), NameError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = !name.is_empty()
        && name.len() <= max
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || extra.contains(c))
        && !name.contains("..");
    if fits {
        return Ok(());
    }
    let name = name.chars().take(80).collect();
    Err(NameError { kind, name, max, extra })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $max:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                check($kind, name, $max, $extra).map(|()| Self(name.to_owned()))
            }
        }
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                check($kind, &name, $max, $extra).map(|()| Self(name))
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(/** One device. Fits an MQTT topic level and a certificate's common name. */ DeviceId, "device id", 40, "-");
name!(/** A model line: the sequence of versions that serve one purpose with one input and output shape. */ Line, "model line", 40, "-");
name!(/** The name of one version within a line, such as `1.4.2` or `auto-7`. */ Version, "model version", 40, ".-");
name!(/** A named part of the fleet. */ Cohort, "cohort", 40, "-");
name!(/** One rollout. */ RolloutId, "rollout id", 60, ".-");
name!(/** The owner of a topic tree. */ Tenant, "tenant", 40, "-");

/// The order of desired states at one device. It only rises; rolling back is a *higher* generation that names an older version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// How often this device has started. Persisted before it is used, so (boot, counter) never repeats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootId(pub u64);

/// The number of a window at one device for one model; rises by one with each closed window, over restarts too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WindowId(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_pass_and_names_that_do_not() {
        for good in ["a", "bellevue-07", "0x1", &"d".repeat(40)] {
            assert!(good.parse::<DeviceId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "A", "a/b", "a+b", "#", "a b", "ä", "a..b", &"d".repeat(41)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
        assert!("1.4.2".parse::<Version>().is_ok());
        assert!("../x".parse::<Version>().is_err());
        assert!(serde_json::from_str::<DeviceId>("\"UP\"").unwrap_err().to_string().contains("a-z, 0-9"));
    }
}
