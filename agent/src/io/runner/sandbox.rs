//! The runner confines itself, before it reads the first byte of any model.
//!
//! A model is a program that somebody else wrote, run by an engine that trusts it. So the process gives away what it does not need
//! and can never take it back: files (landlock), the kernel's other doors (seccomp, [`filter`]), and more of the machine than
//! was signed (resource limits, [`memory`]). Models that a supervisor's runner loads lie in two folders, and landlock lets it
//! read beneath those alone: a path is simpler than passing open files over a second channel, a runner loads models all its
//! life, and each is checked against the digest its supervisor verified. The tools know their files when they start; they open
//! them first and open nothing afterwards. Sockets are bound before, so nothing of them is left to allow.
//!
//! What stays true: confining never fails, it tells what it reached; what was given away stays given away in every thread.
//! Programs that hold a [`Host`](crate::runtime::Host) themselves, in process, are not confined by this.
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rlimit::Resource;

use crate::confinement::{Confinement, Reached};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod filter;
mod memory;
pub(super) mod probe;

pub(super) use memory::Memory;

/// Other processors: nobody has written down yet what their calls are named.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
mod filter {
    use crate::confinement::Reached;

    pub(super) fn install(_opens: bool) -> Reached {
        Reached::None("there is no filter of system calls for this processor".to_owned())
    }
}

/// Bytes by which a file that stdout or stderr leads to may grow, rows of predictions or a log: the runner opens no file for writing.
const MAX_GROWTH: u64 = 4 << 30;
/// Processor seconds of a runner that is thrown away: ten times what the slowest board took for the largest model.
pub(super) const CPU_SECONDS: u64 = 600;

/// What a runner keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct Keep {
    /// Folders beneath which files may be read; those that do not exist are left out.
    pub(super) folders: Vec<PathBuf>,
    /// Processor seconds, if it is thrown away afterwards.
    pub(super) cpu_seconds: Option<u64>,
}

/// Give away all but `keep`. Call it when the files are open and the sockets are bound, before the first thread is started.
pub(super) fn confine(keep: &Keep) -> Confinement {
    crate::runtime::warm::warm();
    let limits = limit(keep.cpu_seconds);
    let landlock = guard_files(keep);
    let seccomp = filter::install(!keep.folders.is_empty());
    Confinement { landlock, seccomp, limits }
}

/// The limits that do not depend on a model; its memory is bounded when it is known.
fn limit(cpu_seconds: Option<u64>) -> Reached {
    let mut missed = Vec::new();
    let mut set = |resource: Resource, most: u64| {
        let hard = resource.get_hard().unwrap_or(rlimit::INFINITY);
        if let Err(error) = resource.set(most.min(hard), most.min(hard)) {
            missed.push(format!("{}: {error}", resource.as_name()));
        }
    };
    // A core would carry the application's data to the disk.
    set(Resource::CORE, 0);
    set(Resource::FSIZE, longest_output());
    if let Some(seconds) = cpu_seconds {
        set(Resource::CPU, seconds);
    }
    if missed.is_empty() { Reached::Full } else { Reached::Part(missed.join(", ")) }
}

/// A limit of zero would end a runner whose log goes to a file: only what stdout and stderr lead to may grow, and not for ever.
fn longest_output() -> u64 {
    let length = |fd: std::os::fd::BorrowedFd<'_>| {
        let file = fd.try_clone_to_owned().map(std::fs::File::from).ok()?;
        file.metadata().ok().filter(std::fs::Metadata::is_file).map(|about| about.len())
    };
    let lengths = [length(std::io::stdout().as_fd()), length(std::io::stderr().as_fd())];
    lengths.into_iter().flatten().max().map_or(0, |length| length.saturating_add(MAX_GROWTH))
}

fn guard_files(keep: &Keep) -> Reached {
    match threads() {
        1 => {}
        // Landlock binds the thread that asks and those it starts.
        more => return Reached::None(format!("the process had {more} threads before it could confine itself")),
    }
    match restrict(keep) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced, .. }) => Reached::Full,
        Ok(RestrictionStatus { ruleset: RulesetStatus::PartiallyEnforced, landlock, .. }) => Reached::Part(about(landlock)),
        Ok(status) => Reached::None(about(status.landlock)),
        Err(error) => Reached::None(format!("landlock refused: {error}")),
    }
}

fn about(landlock: LandlockStatus) -> String {
    match landlock {
        LandlockStatus::NotEnabled => "landlock is not switched on in this kernel".to_owned(),
        LandlockStatus::NotImplemented => "this kernel has no landlock".to_owned(),
        LandlockStatus::Available { effective_abi, .. } => {
            let version = effective_abi as i32;
            format!("this kernel's landlock is of version {version}: connections are guarded from 4 on, signals from 6 on")
        }
    }
}

/// Threads of this process; if the system does not say, one, as in every program that calls this where it should.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Everything that landlock knows is asked for, and nothing but reading in the folders is given back.
fn restrict(keep: &Keep) -> Result<RestrictionStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V5))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    for folder in &keep.folders {
        if let Ok(opened) = PathFd::new(folder) {
            rules = rules.add_rule(PathBeneath::new(opened, AccessFs::ReadFile))?;
        }
    }
    rules.restrict_self()
}
