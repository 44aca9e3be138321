//! Seccomp profiles.
//!
//! The default one allows what ordinary programs call and answers the rest with
//! `EPERM`: what changes the machine (clock, modules, swap, mounts), reaches
//! into other processes' kernels or has a record of holes. Some calls come
//! with the capability that governs them anyway.

use cri::{SeccompProfile, SecurityContext};
use serde_json::{Value, json};

use super::capabilities;
use crate::error::{Context, at, invalid};

/// Calls any container may make.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2
    dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64
    futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
    getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
    membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64
    ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
    semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid setuid32
    setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times tkill truncate
    truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64
    utimes vfork vmsplice wait4 waitid waitpid write writev
    process_vm_readv process_vm_writev";

/// Calls of one architecture.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
const OF_ARCHITECTURE: &str = "arch_prctl modify_ldt";
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const OF_ARCHITECTURE: &str =
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm"
)))]
const OF_ARCHITECTURE: &str = "sync_file_range2 riscv_flush_icache";

#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [&str; 3] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [&str; 2] = ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: [&str; 0] = [];

/// Calls that come with a capability.
const WITH_CAPABILITY: [(&str, &str); 12] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
];

/// `CLONE_NEW*` flags: namespaces need `CAP_SYS_ADMIN`.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;

/// The profile as the runtime specification has it; `None` for none.
pub(super) fn profile(security: &SecurityContext) -> cri::Result<Option<Value>> {
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        SeccompProfile::Unconfined => Ok(None),
        SeccompProfile::RuntimeDefault => Ok(Some(default(&capabilities::of(security)?))),
        SeccompProfile::Localhost(path) => {
            let bytes = at(std::fs::read(path), "reading seccomp profile", path)?;
            let profile: Value = serde_json::from_slice(&bytes)
                .context(|| format!("seccomp profile {} is not JSON", path.display()))
                .map_err(|error| cri::Error {
                    kind: cri::ErrorKind::Invalid,
                    ..error
                })?;
            if profile["defaultAction"].as_str().is_none() {
                return Err(invalid(format!(
                    "seccomp profile {} has no defaultAction",
                    path.display()
                )));
            }
            Ok(Some(swap_masks(profile)))
        }
    }
}

const MASKED: &str = "SCMP_CMP_MASKED_EQ";

/// The specification has the mask in `value` and what must be left in
/// `valueTwo`; libcontainer 0.7 reads them the other way round.
fn swap_masks(mut profile: Value) -> Value {
    let calls = profile["syscalls"].as_array_mut();
    for args in calls
        .into_iter()
        .flatten()
        .filter_map(|call| call["args"].as_array_mut())
    {
        for arg in args.iter_mut().filter(|arg| arg["op"] == MASKED) {
            let mask = arg["value"].take();
            let rest = std::mem::replace(&mut arg["valueTwo"], mask);
            arg["value"] = if rest.is_null() { 0.into() } else { rest };
        }
    }
    profile
}

fn default(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|own| own == name);
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut names = words(ALLOWED);
    names.extend(words(OF_ARCHITECTURE));
    for (capability, calls) in WITH_CAPABILITY {
        if has(capability) {
            names.extend(words(calls));
        }
    }
    let allow = |names: &[&str], args: Value| json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": args });
    let equal = |index: u32, value: u64| json!([{ "index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ" }]);
    let mut syscalls = vec![json!({ "names": names, "action": "SCMP_ACT_ALLOW" })];
    // AF_VSOCK (40) reaches the hypervisor.
    for (value, op) in [(40_u64, "SCMP_CMP_LT"), (40, "SCMP_CMP_GT")] {
        let args = json!([{ "index": 0, "value": value, "valueTwo": 0, "op": op }]);
        syscalls.push(allow(&["socket"], args));
    }
    // Known personalities: Linux, Linux32, and either without randomisation, and "tell me".
    for value in [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        syscalls.push(allow(&["personality"], equal(0, value)));
    }
    if !has("CAP_SYS_ADMIN") {
        let args = json!([{
            "index": if cfg!(target_arch = "s390x") { 1 } else { 0 },
            "value": CLONE_NAMESPACES,
            "valueTwo": 0,
            "op": MASKED,
        }]);
        syscalls.push(allow(&["clone"], args));
        // Its flags are behind a pointer; C libraries fall back to clone.
        syscalls.push(json!({
            "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
        }));
    }
    swap_masks(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ARCHITECTURES,
        "syscalls": syscalls,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn capabilities_bring_their_calls() {
        let names = |caps: &[&str]| {
            let caps: Vec<String> = caps.iter().map(|c| (*c).to_owned()).collect();
            default(&caps)["syscalls"][0]["names"].to_string()
        };
        assert!(!names(&[]).contains("\"mount\""));
        assert!(names(&["CAP_SYS_ADMIN"]).contains("\"mount\""));
        assert!(names(&[]).contains("\"openat2\""));
        assert!(!names(&[]).contains("\"io_uring_setup\""));
    }

    #[test]
    fn local_profiles_are_checked() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"{}").unwrap();
        let security = SecurityContext {
            seccomp: SeccompProfile::Localhost(file.path().to_owned()),
            ..SecurityContext::default()
        };
        assert!(
            profile(&security)
                .unwrap_err()
                .message
                .contains("defaultAction")
        );
    }
}
