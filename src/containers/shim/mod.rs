//! The process beside every pod.
//!
//! `karve shim` is the same binary in another role, chosen before any thread
//! or runtime exists:
//!
//! | role | lives | does |
//! |---|---|---|
//! | `launch` | a moment | binds the socket, starts `serve` detached from the daemon |
//! | `serve` | as long as the pod | holds stdio, writes logs, reaps, answers on the socket |
//! | `create`, `exec` | a moment | runs libcontainer, then leaves its child to `serve` |
//! | `pidns`, `init` | as long as the pod | process 1 of a shared PID namespace |
//!
//! libcontainer runs in processes of its own because it changes what it runs
//! in (OOM score, dumpability, working folder), blocks, and leaves a grown
//! heap behind; `serve` stays small and always answers. It is one thread
//! around `poll`, woken by signals, sockets and pipes only. What must be known
//! after it is gone is in small files that are replaced at once.
//!
//! Rejected: one shim per container (more memory for the same work), libcontainer
//! inside `serve` (see above), passing exec streams through `serve` (the daemon's
//! pipes go straight to the process).

mod connection;
mod container;
mod helper;
mod init;
mod jobs;
mod log;
pub(crate) mod protocol;
mod serve;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Name of the socket in a pod's run state folder.
pub(crate) const SOCKET: &str = "shim.sock";
/// Name of the file that holds the process id of `serve`.
pub(crate) const PID_FILE: &str = "shim.pid";
/// What `serve` says when it dies.
pub(crate) const LOG_FILE: &str = "shim.log";

/// Runs a shim role; `args` are those after `shim`. Call it before any thread
/// exists in the process.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let role = args.next().unwrap_or_default();
    let paths: Vec<PathBuf> = args.map(PathBuf::from).collect();
    let outcome = match (role.to_str(), paths.as_slice()) {
        (Some("launch"), [run, data, cgroup]) => launch(run, data, cgroup),
        (Some("serve"), [run, data]) => serve::serve(run, data),
        (Some("create"), [order]) => helper::create(order),
        (Some("exec"), [order]) => helper::exec(order),
        (Some("pidns"), [run]) => init::enter(run),
        (Some("init"), []) => init::init(),
        _ => Err(std::io::Error::other(
            "karve shim is started by the karve daemon and is of no use by hand",
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("karve shim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A command that runs this binary in another shim role.
fn role(name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("shim").arg(name).env_clear();
    command
}

/// Starts `serve` as nobody's child. The socket listens when this returns.
///
/// On the unified hierarchy it goes to a cgroup of its own, so that a service
/// manager that ends everything in the daemon's cgroup does not end the pods.
fn launch(run: &Path, data: &Path, cgroup: &Path) -> std::io::Result<()> {
    // The name of a socket has 107 bytes at most; a relative one always fits.
    std::env::set_current_dir(run)?;
    let listener = std::os::unix::net::UnixListener::bind(SOCKET)?;
    let log = std::fs::File::create(LOG_FILE)?;
    let child = role("serve")
        .args([run, data])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let pid = child.id();
    if let Ok(cgroups) = linux::cgroup::Cgroups::detect()
        && cgroups.is_v2()
    {
        // In the daemon's cgroup it works as well.
        let _ = cgroups
            .create(cgroup)
            .and_then(|()| cgroups.add(cgroup, pid.cast_signed()));
    }
    std::fs::write(PID_FILE, pid.to_string())
}
