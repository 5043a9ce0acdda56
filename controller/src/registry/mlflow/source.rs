//! What a client says a model version is made of: something that was published here, or something elsewhere.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};

use crate::registry::names::AliasName;

/// Addresses of ours begin so.
pub const SCHEME: &str = "leeway://";

/// A source, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A version of a line by its name: `leeway://rain/1.0.0` or `models:/rain/1.0.0`.
    Version(Line, Version),
    /// A version of a line by its number: `models:/rain/3`.
    Number(Line, u64),
    /// What an alias of a line points to: `models:/rain@staging`.
    Alias(Line, AliasName),
    /// The manifest or the model file with this digest: `sha256:…`.
    Digest(Digest),
    /// Anything else: an artifact store, a folder, a run.
    Elsewhere,
}

impl Source {
    /// Read one; whatever is not ours is elsewhere.
    pub fn parse(text: &str) -> Self {
        if let Ok(digest) = text.parse() {
            return Self::Digest(digest);
        }
        let named = text.strip_prefix(SCHEME).or_else(|| text.strip_prefix("models:/").map(|rest| rest.trim_start_matches('/')));
        let Some(named) = named else { return Self::Elsewhere };
        let number = || {
            let (line, number) = text.strip_prefix("models:/")?.trim_start_matches('/').split_once('/')?;
            Some(Self::Number(line.parse().ok()?, number.parse().ok()?))
        };
        let version = || named.split_once('/').and_then(|(line, version)| Some(Self::Version(line.parse().ok()?, version.parse().ok()?)));
        let alias = || named.split_once('@').and_then(|(line, alias)| Some(Self::Alias(line.parse().ok()?, alias.parse().ok()?)));
        number().or_else(version).or_else(alias).unwrap_or(Self::Elsewhere)
    }
}

/// The address of a version of ours.
pub fn address(line: &Line, version: &Version) -> String {
    format!("{SCHEME}{line}/{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_here_is_told_from_what_was_not() {
        let (line, version): (Line, Version) = ("rain".parse().unwrap(), "1.0.0".parse().unwrap());
        for ours in [&address(&line, &version), "models:/rain/1.0.0", "models://rain/1.0.0"] {
            assert_eq!(Source::parse(ours), Source::Version(line.clone(), version.clone()), "{ours}");
        }
        assert_eq!(Source::parse("models:/rain/3"), Source::Number(line.clone(), 3));
        assert_eq!(Source::parse("leeway://rain/3"), Source::Version(line.clone(), "3".parse().unwrap()), "ours are by name");
        assert_eq!(Source::parse("models:/rain@staging"), Source::Alias(line, "staging".parse().unwrap()));
        let digest = Digest::of(b"m");
        assert_eq!(Source::parse(&digest.to_string()), Source::Digest(digest));
        for elsewhere in
            ["s3://bucket/model", "runs:/1/m", "models:/m-0123456789abcdef", "/srv/model", "file:///srv/m", "", "leeway://", "models:/A/1"]
        {
            assert_eq!(Source::parse(elsewhere), Source::Elsewhere, "{elsewhere}");
        }
    }
}
