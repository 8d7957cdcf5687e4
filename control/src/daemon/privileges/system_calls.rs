//! The system calls that the daemon can use. Everything else fails with EPERM and is told in the log ([`super::tell_refused`]):
//! nothing is started (`execve`), nobody else's memory is looked into (`ptrace`, `process_vm_readv`), nothing is mounted, no
//! memory becomes code.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn limit() -> Result<usize, String> {
    Err("not known for this architecture".to_owned())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use known::limit;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod known {
    use std::collections::BTreeMap;

    use libc::{
        AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, AF_XDP, CLONE_THREAD, ENOSYS, EPERM, PROT_EXEC,
        c_int, c_long,
    };
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch, apply_filter,
    };

    #[cfg(target_arch = "x86_64")]
    const ARCHITECTURE: TargetArch = TargetArch::x86_64;
    #[cfg(target_arch = "aarch64")]
    const ARCHITECTURE: TargetArch = TargetArch::aarch64;

    /// Families of sockets: the API's and VICI's; the metrics' and those that interfaces are asked by; the kernel's routes and
    /// SAs; ports.
    const FAMILIES: [c_int; 6] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_XDP];

    #[rustfmt::skip]
    const ALLOWED: &[c_long] = &[
        // Descriptors: rings, sockets, bells.
        libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
        libc::SYS_close, libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_ioctl, libc::SYS_lseek,
        libc::SYS_pipe2, libc::SYS_eventfd2, libc::SYS_memfd_create, libc::SYS_ppoll, libc::SYS_pselect6,
        libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
        libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_bpf,
        // Sockets, but for making them.
        libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
        libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_setsockopt, libc::SYS_getsockopt, libc::SYS_shutdown,
        libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
        // Files: configuration, state.
        libc::SYS_openat, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
        libc::SYS_readlinkat, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_getdents64, libc::SYS_getcwd,
        libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat,
        libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync,
        libc::SYS_flock, libc::SYS_umask,
        // Memory, but for making it.
        libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_mlock, libc::SYS_munlock,
        // Threads and their cores; a thread is made by clone(2), below.
        libc::SYS_clone3, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq,
        libc::SYS_membarrier, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
        libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getcpu, libc::SYS_prctl,
        // Signals.
        libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigtimedwait,
        libc::SYS_sigaltstack, libc::SYS_tgkill, libc::SYS_restart_syscall,
        // Time and chance.
        libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
        libc::SYS_gettimeofday, libc::SYS_getrandom,
        // What the system is, and who asks.
        libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage, libc::SYS_getrlimit, libc::SYS_setrlimit, libc::SYS_prlimit64,
        libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    ];

    /// What C libraries call on x86-64 in place of others above.
    #[cfg(target_arch = "x86_64")]
    #[rustfmt::skip]
    const OLD: &[c_long] = &[
        libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir,
        libc::SYS_unlink, libc::SYS_rename, libc::SYS_chmod, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_wait,
        libc::SYS_dup2, libc::SYS_pipe, libc::SYS_time,
    ];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD: &[c_long] = &[];

    type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

    /// Limits this thread, and those that it starts.
    ///
    /// # Errors
    /// The kernel cannot, or will not; in words.
    pub(in super::super) fn limit() -> Result<usize, String> {
        let (allowed, count) = allowed()?;
        netmap_sys::fail_refused_calls().map_err(|error| error.to_string())?;
        // All are asked, and the strictest answer counts.
        for program in [without_clone3()?, without_processes()?, allowed] {
            apply_filter(&program).map_err(|error| error.to_string())?;
        }
        Ok(count)
    }

    fn allowed() -> Result<(BpfProgram, usize), String> {
        let mut rules: Rules = ALLOWED.iter().chain(OLD).map(|number| (*number, Vec::new())).collect();
        let families = FAMILIES.map(|family| rule(0, SeccompCmpOp::Eq, family as u64));
        rules.insert(libc::SYS_socket, families.into_iter().collect::<Result<_, _>>()?);
        for number in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.insert(number, vec![rule(2, SeccompCmpOp::MaskedEq(PROT_EXEC as u64), 0)?]);
        }
        // As far as the filter before this lets it pass.
        rules.insert(libc::SYS_clone, Vec::new());
        let count = rules.len();
        Ok((compiled(rules, SeccompAction::Trap, SeccompAction::Allow)?, count))
    }

    /// A filter cannot see clone3(2)'s flags. Told that there is none, C libraries take clone(2).
    fn without_clone3() -> Result<BpfProgram, String> {
        let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
        compiled(rules, SeccompAction::Allow, SeccompAction::Errno(ENOSYS as u32))
    }

    /// A thread is made, a process is not. C libraries hold all signals back meanwhile, so that SIGSYS would be the end.
    fn without_processes() -> Result<BpfProgram, String> {
        let process = rule(0, SeccompCmpOp::MaskedEq(CLONE_THREAD as u64), 0)?;
        let rules = Rules::from([(libc::SYS_clone, vec![process])]);
        compiled(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM as u32))
    }

    fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, String> {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(|error| error.to_string())
    }

    fn compiled(rules: Rules, others: SeccompAction, these: SeccompAction) -> Result<BpfProgram, String> {
        SeccompFilter::new(rules, others, these, ARCHITECTURE)
            .and_then(BpfProgram::try_from)
            .map_err(|error| error.to_string())
    }
}
