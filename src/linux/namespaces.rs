//! Namespaces that outlive their processes: made in a thread, pinned by bind mounts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// What to make and where to pin it. Absent paths share the caller's namespace.
#[derive(Clone, Debug, Default)]
pub struct Pins {
    /// Where to pin a new network namespace.
    pub net: Option<PathBuf>,
    /// Where to pin a new IPC namespace.
    pub ipc: Option<PathBuf>,
    /// Where to pin a new UTS namespace.
    pub uts: Option<PathBuf>,
    /// Host name in the new UTS namespace.
    pub hostname: String,
    /// Kernel parameters to set inside, `net.ipv4.ip_forward` or with slashes.
    pub sysctls: BTreeMap<String, String>,
}

/// Makes the namespaces, sets them up and pins them; `lo` is up in a new
/// network namespace. On failure nothing stays pinned.
///
/// A thread of its own enters the namespaces and ends, so the caller's stay as
/// they are. Blocks for a few milliseconds.
pub fn pin(pins: &Pins) -> Result<()> {
    let job = pins.clone();
    let made = std::thread::Builder::new()
        .name("namespaces".into())
        .spawn(move || make(&job))?
        .join()
        .map_err(|_| Error::other("the thread that makes namespaces panicked"))?;
    if made.is_err() {
        for path in [&pins.net, &pins.ipc, &pins.uts].into_iter().flatten() {
            // The first error is the one to report.
            let _ = unpin(path);
        }
    }
    made
}

fn make(pins: &Pins) -> Result<()> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET, pins.net.is_some());
    flags.set(CloneFlags::CLONE_NEWIPC, pins.ipc.is_some());
    flags.set(CloneFlags::CLONE_NEWUTS, pins.uts.is_some());
    unshare(flags).map_err(|error| context(error.into(), "creating namespaces"))?;
    if pins.uts.is_some() && !pins.hostname.is_empty() {
        nix::unistd::sethostname(&pins.hostname)
            .map_err(|error| context(error.into(), &format!("host name {}", pins.hostname)))?;
    }
    if pins.net.is_some() {
        loopback_up().map_err(|error| context(error, "bringing up lo"))?;
    }
    for (name, value) in &pins.sysctls {
        set_sysctl(name, value)
            .map_err(|error| context(error, &format!("setting sysctl {name}={value}")))?;
    }
    for (kind, path) in [("net", &pins.net), ("ipc", &pins.ipc), ("uts", &pins.uts)] {
        if let Some(path) = path {
            pin_one(Path::new(&format!("/proc/thread-self/ns/{kind}")), path)
                .map_err(|error| context(error, &format!("pinning {}", path.display())))?;
        }
    }
    Ok(())
}

/// Pins a namespace file such as `/proc/PID/ns/pid` at `target`.
pub fn pin_one(namespace: &Path, target: &Path) -> Result<()> {
    File::create(target)?;
    Ok(mount(
        Some(namespace),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?)
}

/// Lets go of a pinned namespace and removes the file it was pinned at.
/// Absent or not pinned is fine.
pub fn unpin(path: &Path) -> Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn set_sysctl(name: &str, value: &str) -> Result<()> {
    // `net.ipv4.conf.eth0/1.x` and `net/ipv4/conf/eth0.1/x` mean the same.
    let dotted = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes()[at] == b'.');
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = if dotted {
        name.chars().map(swap).collect()
    } else {
        name.to_owned()
    };
    let allowed = [
        "net/",
        "kernel/shm",
        "kernel/msg",
        "kernel/sem",
        "fs/mqueue/",
    ];
    if path.contains("..") || !allowed.iter().any(|prefix| path.starts_with(prefix)) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "not a parameter of the pod's own namespaces",
        ));
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/sys").join(&path))?;
    file.write_all(value.as_bytes())
}

fn loopback_up() -> Result<()> {
    use nix::libc;
    use std::os::fd::AsRawFd;

    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is initialised and outlives the call; the kernel
    // reads name and flags and writes nothing beyond the structure.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    if code == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}

fn context(error: Error, what: &str) -> Error {
    Error::new(error.kind(), format!("{what}: {error}"))
}
