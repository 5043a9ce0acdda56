//! Which role speaks for a path: delegations in order, depth first, cut short by terminating ones.
use std::collections::BTreeSet;

use super::{Client, MAX_ROLES, TufError, Wanted};
use crate::digest::Digest;
use crate::trust::metadata::{DelegatedRole, TargetMeta, file_name};

/// Roles one path may lead through; Leeway's own repositories need two.
pub(super) const MAX_VISITED: usize = 32;

/// Where the search for a path ended.
pub(super) enum Walk<'a> {
    /// A role lists it.
    Found { role: &'a str, version: u64, target: &'a TargetMeta },
    /// No role that may speak for it lists it.
    Absent,
    /// This role must be loaded first.
    Missing { delegator: String, role: String },
    /// A role that speaks for it cannot be trusted.
    Failed(TufError),
}

impl Client {
    pub(super) fn walk(&self, path: &str) -> Walk<'_> {
        let Some(top) = self.loaded("targets") else { return Walk::Failed(TufError::NotFresh) };
        if let Some(target) = top.claims().targets.get(path) {
            return Walk::Found { role: "targets", version: top.version(), target };
        }
        let mut visited = BTreeSet::new();
        let mut todo = Vec::new();
        push_children(self, "targets", path, &mut todo);
        while let Some((delegator, role)) = todo.pop() {
            if visited.len() >= MAX_VISITED || !visited.insert(role) {
                continue;
            }
            if let Some(error) = self.refusal(delegator, role) {
                return Walk::Failed(error.clone());
            }
            let Some(document) = self.delegated.get(role) else {
                return Walk::Missing { delegator: delegator.to_owned(), role: role.to_owned() };
            };
            // The same file may have come in under another delegator; this one's keys decide here.
            let Some((_, keys)) = self.loaded(delegator).and_then(|d| d.claims().delegation(role)) else { continue };
            let targets = match document.verify(&keys) {
                Ok(targets) => targets,
                Err(cause) => return Walk::Failed(TufError::Unsigned { file: file_name(role), cause }),
            };
            if let Some(target) = targets.targets.get(path) {
                return Walk::Found { role, version: document.version(), target };
            }
            push_children(self, role, path, &mut todo);
        }
        Walk::Absent
    }

    fn refusal(&self, delegator: &str, role: &str) -> Option<&TufError> {
        self.refused.get(role)?.get(delegator)
    }

    /// How many paths were named.
    pub(super) fn named(&self) -> usize {
        match &self.wanted {
            Wanted::EveryRole => 0,
            Wanted::Paths(paths) => paths.len(),
        }
    }

    /// The next role to load, and who delegates to it: for the paths that were named, or any.
    pub(super) fn missing(&self) -> Option<(String, String)> {
        let paths = match &self.wanted {
            Wanted::EveryRole => return self.any_missing(),
            Wanted::Paths(paths) => paths,
        };
        paths.iter().find_map(|path| match self.walk(path) {
            Walk::Missing { delegator, role } => Some((delegator, role)),
            _ => None,
        })
    }

    /// Level by level, so that what was settled earlier comes first again and the bound always falls on the same roles.
    fn any_missing(&self) -> Option<(String, String)> {
        let (mut delegations, mut level, mut expanded) = (0, vec!["targets"], BTreeSet::new());
        while !level.is_empty() {
            let mut below = Vec::new();
            for delegator in level {
                for role in roles_of(self, delegator) {
                    delegations += 1;
                    if delegations > MAX_ROLES {
                        return None;
                    }
                    if self.refusal(delegator, &role.name).is_some() {
                        continue;
                    }
                    if !self.delegated.contains_key(&role.name) {
                        return Some((delegator.to_owned(), role.name.clone()));
                    }
                    if expanded.insert(role.name.as_str()) {
                        below.push(role.name.as_str());
                    }
                }
            }
            level = below;
        }
        None
    }
}

fn roles_of<'a>(client: &'a Client, delegator: &str) -> &'a [DelegatedRole] {
    client.loaded(delegator).and_then(|d| d.claims().delegations.as_ref()).map_or(&[], |d| &d.roles)
}

/// Put the roles that `delegator` lets speak for `path` on the stack, first one on top. A terminating one ends the search
/// with itself: what was waiting is forgotten.
fn push_children<'a>(client: &'a Client, delegator: &'a str, path: &str, todo: &mut Vec<(&'a str, &'a str)>) {
    let mut children = Vec::new();
    for role in roles_of(client, delegator).iter().filter(|role| speaks_for(role, path)) {
        children.push((delegator, role.name.as_str()));
        if role.terminating {
            todo.clear();
            break;
        }
    }
    todo.extend(children.into_iter().rev());
}

/// May this delegated role list `path`?
pub(in crate::trust) fn speaks_for(role: &DelegatedRole, path: &str) -> bool {
    if let Some(patterns) = &role.paths {
        return patterns.iter().any(|pattern| matches_pattern(pattern, path));
    }
    let hash = Digest::of(path.as_bytes()).hex();
    role.path_hash_prefixes.iter().flatten().any(|prefix| hash.starts_with(prefix.as_str()))
}

/// Shell-like: `*` stands for any characters and `?` for one, neither for `/`. A pattern with a `[` matches nothing: other
/// tools read a class of characters there, and two readings of one pattern would be a hole.
pub fn matches_pattern(pattern: &str, path: &str) -> bool {
    if pattern.contains('[') || pattern.split('/').count() != path.split('/').count() {
        return false;
    }
    pattern.split('/').zip(path.split('/')).all(|(pattern, part)| matches_part(pattern, part))
}

/// The usual two-cursor match: on a mismatch go back to the last star and let it eat one character more.
fn matches_part(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || text.get(t) == Some(&c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, eaten)) => {
                    star = Some((at, eaten + 1));
                    p = at + 1;
                    t = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_do_not_cross_a_slash() {
        let pattern = "models/rain/release/*";
        for (path, expected) in [
            ("models/rain/release/1.0.0.onnx", true),
            ("models/rain/release/", true),
            ("models/rain/release/a/b", false),
            ("models/rain/release", false),
            ("models/rain/auto/1.onnx", false),
            ("models/wind/release/1.onnx", false),
            ("models/rain/release/../../wind/release/1.onnx", false),
            ("/models/rain/release/1.onnx", false),
        ] {
            assert_eq!(matches_pattern(pattern, path), expected, "{path}");
        }
        for (pattern, path, expected) in [
            ("*", "a", true),
            ("*", "a/b", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", false),
            ("", "", true),
            ("**", "", true),
        ] {
            assert_eq!(matches_pattern(pattern, path), expected, "{pattern} {path}");
        }
        let worst = "a*".repeat(200);
        assert!(!matches_pattern(&worst, &"a".repeat(199)));
    }
}
