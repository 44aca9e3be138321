//! Process 1 of a PID namespace that a pod's containers share.

use std::path::Path;
use std::process::Stdio;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{WaitOptions, wait};

/// Where the process id of process 1 is written, in the pod's run state folder.
pub(crate) const PID_FILE: &str = "init.pid";

/// Makes a PID namespace, starts `init` in it and leaves it to the shim.
pub(crate) fn enter(run: &Path) -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let child = super::role("init")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::fs::write(run.join(PID_FILE), child.id().to_string())
}

/// Reaps whatever is left to it, until it is told to end.
pub(crate) fn init() -> std::io::Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?;
    loop {
        if let Some(signal) = signals.read_signal()?
            && signal.ssi_signo != Signal::SIGCHLD as u32
        {
            return Ok(());
        }
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}
