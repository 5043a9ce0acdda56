//! What a runner may still ask of the kernel: a list of what is allowed, and nothing else.
//!
//! A list of what is forbidden would be out of date with the next kernel. What a model's runner does is little: it computes, reads
//! files that are open or lie where landlock lets it, speaks on connections that somebody made to it, and starts threads.
//! Everything else fails with EPERM, which the libraries bear; what only an intruder asks for (another program, another process's
//! memory, a mount, a kernel module) ends the process at once: nothing that it does afterwards can be worth anything.
//!
//! What stays true: memory is never both new and executable, files are opened for reading only, a new process is never made, and
//! no signal leaves the process.
use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use crate::confinement::Reached;

/// Asked for by intruders only.
const DEADLY: [i64; 32] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_open_tree,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Needed, whatever the arguments.
const ALLOWED: [i64; 48] = [
    // Open files, pipes and connections.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    // Memory; what makes it executable is judged apart.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads, and waiting.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Clocks and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// The older names that only this processor has.
#[cfg(target_arch = "x86_64")]
const OLDER: [i64; 3] = [libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: [i64; 0] = [];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Put the filter in place, for every thread; `opens` says whether files may still be opened.
pub(super) fn install(opens: bool) -> Reached {
    let programs = match programs(opens) {
        Ok(programs) => programs,
        Err(error) => return Reached::None(format!("there is no filter of system calls for this processor: {error}")),
    };
    for program in &programs {
        if let Err(error) = seccompiler::apply_filter_all_threads(program) {
            return Reached::None(format!("this kernel does not filter system calls: {}", causes(&error)));
        }
    }
    Reached::Full
}

fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The kernel asks every filter and does what the strictest says. The list of what is allowed comes last: after it, no other
/// could be put in place.
fn programs(opens: bool) -> Result<[BpfProgram; 3], seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program = |rules: Rules, matched: SeccompAction, other: SeccompAction| {
        SeccompFilter::new(rules, other, matched, arch).and_then(BpfProgram::try_from)
    };
    let always = |numbers: &[i64]| numbers.iter().map(|number| (*number, Vec::new())).collect::<Rules>();
    // Its arguments lie in memory, where a filter cannot look; the libraries then take the older call, which it can judge.
    let unknown = program(always(&[libc::SYS_clone3]), SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?;
    let deadly = program(always(&DEADLY), SeccompAction::KillProcess, SeccompAction::Allow)?;
    let mut rules = always(&ALLOWED);
    rules.extend(always(&OLDER));
    rules.extend(judged(opens)?);
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.extend(always(&DEADLY));
    let allowed = program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    Ok([unknown, deadly, allowed])
}

/// Needed, with some arguments only.
fn judged(opens: bool) -> Result<Rules, seccompiler::BackendError> {
    let bits = |argument: u8, mask: i32, value: i32| {
        let mask = u64::from(mask.cast_unsigned());
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), u64::from(value.cast_unsigned()))
    };
    let is = |argument: u8, value: u64| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    let one = |condition| SeccompRule::new(vec![condition]);
    let never_executable = || Ok::<_, seccompiler::BackendError>(vec![one(bits(2, libc::PROT_EXEC, 0)?)?]);
    let own = u64::from(std::process::id());
    let mut rules = Rules::from([
        (libc::SYS_mmap, never_executable()?),
        (libc::SYS_mprotect, never_executable()?),
        // A thread, never a process.
        (libc::SYS_clone, vec![one(bits(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?)?]),
        // A process that gives up sends itself a signal; no other process gets one.
        (libc::SYS_tgkill, vec![one(is(0, own)?)?]),
        // The names of threads.
        (libc::SYS_prctl, vec![one(is(0, libc::PR_SET_NAME as u64)?)?]),
        // Its own limits; what may not be raised is held by the hard ones.
        (libc::SYS_prlimit64, vec![one(is(0, 0)?)?]),
        (
            libc::SYS_fcntl,
            [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL]
                .map(|c| one(is(1, c as u64)?))
                .into_iter()
                .collect::<Result<_, _>>()?,
        ),
    ]);
    if opens {
        let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        rules.insert(libc::SYS_openat, vec![one(bits(2, writing, libc::O_RDONLY)?)?]);
    }
    Ok(rules)
}
