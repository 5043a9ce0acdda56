//! How far a runner has confined itself: a value that it tells its supervisor, and the sentence that people read about it.
//!
//! A kernel may lack what a runner asks of it, and a device with such a kernel still has to run its model; so confinement is
//! best effort, and what was reached is told instead of assumed. What stays true: a runner that could not do something says so
//! with the reason; nobody has to compare kernel versions to know.
use serde::{Deserialize, Serialize};

/// How much of one measure was reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reached {
    /// All that was asked for.
    Full,
    /// What this kernel knows of it, and what that is.
    Part(String),
    /// Nothing, and why.
    None(String),
}

/// How far a runner is confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Files, and connections by address: landlock.
    pub landlock: Reached,
    /// What may be asked of the kernel at all: seccomp.
    pub seccomp: Reached,
    /// Memory, processor time, core dumps, sizes of files: resource limits.
    pub limits: Reached,
}

impl Confinement {
    /// Of a model that runs inside the program which holds it, because that program chose so.
    pub fn in_process() -> Self {
        let none = || Reached::None("in process".to_owned());
        Self { landlock: none(), seccomp: none(), limits: none() }
    }

    /// What a model could do here although it should not; `None` if nothing. A landlock that lacks its newest rights is made up
    /// for by the filter of system calls.
    pub fn problem(&self) -> Option<String> {
        if *self == Self::in_process() {
            return Some("the model runs inside the program that holds it, with all its rights: nothing confines it".to_owned());
        }
        let filtered = self.seccomp == Reached::Full;
        let mut could = Vec::new();
        match &self.landlock {
            Reached::Full => {}
            Reached::Part(_) if filtered => {}
            Reached::Part(why) => could.push(format!("reach some of what landlock guards ({why})")),
            Reached::None(why) if filtered => could.push(format!("read, but not write, what the runner's user can read ({why})")),
            Reached::None(why) => could.push(format!("read and write what the runner's user can ({why})")),
        }
        match &self.seccomp {
            Reached::Full => {}
            Reached::Part(why) | Reached::None(why) => could.push(format!("open connections and start programs ({why})")),
        }
        match &self.limits {
            Reached::Full => {}
            Reached::Part(why) => could.push(format!("use more than its share of the machine ({why})")),
            Reached::None(why) => could.push(format!("use all memory ({why})")),
        }
        (!could.is_empty()).then(|| format!("the model does not run fully confined; it could {}", could.join("; and ")))
    }

    /// What it comes to, in a sentence.
    pub fn sentence(&self) -> String {
        self.problem().unwrap_or_else(|| CONFINED.to_owned())
    }
}

/// Of a model that is confined.
pub const CONFINED: &str = "the model runs confined: no files but its own, no network, no programs, and no more memory than was signed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_reached_is_said() {
        let (full, part) = (|| Reached::Full, || Reached::Part("an older kernel".to_owned()));
        let none = || Reached::None("not in this kernel".to_owned());
        let table = [
            (full(), full(), full(), None),
            (part(), full(), full(), None),
            (none(), full(), full(), Some("it could read, but not write, what the runner's user can read (not in this kernel)")),
            (full(), none(), full(), Some("it could open connections and start programs (not in this kernel)")),
            (part(), none(), full(), Some("some of what landlock guards (an older kernel); and open connections")),
            (full(), full(), part(), Some("more than its share")),
            (none(), none(), none(), Some("and use all memory")),
        ];
        for (landlock, seccomp, limits, want) in table {
            let confinement = Confinement { landlock, seccomp, limits };
            match want {
                None => assert_eq!((confinement.problem(), confinement.sentence().as_str()), (None, CONFINED), "{confinement:?}"),
                Some(want) => assert!(confinement.sentence().contains(want), "{confinement:?}: {}", confinement.sentence()),
            }
        }
        assert!(Confinement::in_process().sentence().contains("inside the program that holds it"));
    }
}
