//! The long-lived role: one thread around `poll`.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use linux::cgroup::Cgroups;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, wait};

use super::connection::{Connection, Role};
use super::container::Container;
use super::init;
use super::jobs::{Job, pid_of};
use super::log::Stream;
use super::protocol::{Exited, Reply, Request};
use super::role;

/// Folder of libcontainer's state, in the pod's run state folder.
pub(super) const STATE: &str = "state";

pub(super) fn serve(run: &Path, data: &Path) -> Result<()> {
    let listener = take_listener()?;
    // Fails only for a process that leads its group, which this is not.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir(run)?;
    // What `ps` shows; the name of the executable is of no use.
    let _ = rustix::thread::set_name(c"karve-shim");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Among the last the kernel should pick: it would orphan a whole pod.
    // Without the right to say so, the kernel's own choice stands.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
    std::fs::create_dir_all(STATE)?;

    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags)?;
    let mut shim = Shim {
        run: run.to_owned(),
        data: data.to_owned(),
        cgroups: Cgroups::detect()?,
        containers: BTreeMap::new(),
        connections: BTreeMap::new(),
        jobs: BTreeMap::new(),
        strays: BTreeMap::new(),
        next: 0,
        buffer: vec![0; 32 << 10],
        done: false,
    };
    while !shim.is_done() {
        shim.turn(&listener, &signals)?;
    }
    Ok(())
}

/// The listening socket came as standard input.
fn take_listener() -> Result<UnixListener> {
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(listener)
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Listener,
    Connection(u64),
    Output(usize, usize),
    Sink(usize, usize),
}

pub(super) struct Shim {
    pub(super) run: PathBuf,
    pub(super) data: PathBuf,
    pub(super) cgroups: Cgroups,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) jobs: BTreeMap<i32, Job>,
    /// Processes that ended before their helper said whose they are.
    pub(super) strays: BTreeMap<i32, (i32, i32)>,
    pub(super) next: u64,
    pub(super) buffer: Vec<u8>,
    pub(super) done: bool,
}

impl Shim {
    fn is_done(&self) -> bool {
        self.done && self.connections.is_empty()
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self, listener: &UnixListener, signals: &SignalFd) -> Result<()> {
        let ready = self.wait(listener, signals)?;
        for (token, flags) in ready {
            match token {
                Token::Signals => {
                    while signals.read_signal()?.is_some() {}
                    self.reap();
                }
                Token::Listener => self.accept(listener),
                Token::Connection(number) => self.serve_connection(number, flags),
                Token::Output(container, output) => {
                    if let Some(container) = self.containers.values_mut().nth(container) {
                        container.pump(output, &mut self.buffer);
                    }
                }
                Token::Sink(container, sink) => {
                    if let Some(container) = self.containers.values_mut().nth(container)
                        && let Some(sink) = container.sinks.get_mut(sink)
                    {
                        // Nobody reads any more, or there is room again.
                        sink.broken |= flags.contains(PollFlags::ERR);
                        sink.flush();
                    }
                }
            }
        }
        self.tidy();
        Ok(())
    }

    fn wait(&self, listener: &UnixListener, signals: &SignalFd) -> Result<Vec<(Token, PollFlags)>> {
        let mut tokens = vec![Token::Signals, Token::Listener];
        let mut fds = vec![
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        for (number, connection) in &self.connections {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, connection.wants_to_write());
            tokens.push(Token::Connection(*number));
            fds.push(PollFd::from_borrowed_fd(connection.as_fd(), flags));
        }
        for (position, container) in self.containers.values().enumerate() {
            let throttled = container.is_throttled();
            for (index, output) in container.outputs.iter().enumerate() {
                if !output.over && !throttled {
                    tokens.push(Token::Output(position, index));
                    fds.push(PollFd::from_borrowed_fd(output.file.as_fd(), PollFlags::IN));
                }
            }
            for (index, sink) in container.sinks.iter().enumerate() {
                if !sink.pending.is_empty() {
                    tokens.push(Token::Sink(position, index));
                    fds.push(PollFd::from_borrowed_fd(sink.file.as_fd(), PollFlags::OUT));
                }
            }
        }
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        Ok(tokens
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn accept(&mut self, listener: &UnixListener) {
        // Until none is waiting, or none can be taken now.
        while let Ok((socket, _)) = listener.accept() {
            if let Ok(connection) = Connection::new(socket) {
                self.next += 1;
                self.connections.insert(self.next, connection);
            }
        }
    }

    fn serve_connection(&mut self, number: u64, flags: PollFlags) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if flags.contains(PollFlags::OUT) {
            connection.flush();
        }
        if let Some((request, fds)) = connection.receive() {
            connection.role = Role::Waiting;
            if let Err(error) = self.answer(number, request, fds)
                && let Some(connection) = self.connections.get_mut(&number)
            {
                connection.fail(false, error.to_string());
            }
        }
    }

    fn answer(&mut self, number: u64, request: Request, fds: Vec<OwnedFd>) -> Result<()> {
        match request {
            Request::Watch => {
                let connection = self.connection(number)?;
                connection.role = Role::Watcher;
                connection.send(&Reply::Ok, &[]);
                Ok(())
            }
            Request::PidNamespace => {
                let child = role("pidns").arg(&self.run).stdin(Stdio::null()).spawn()?;
                self.jobs
                    .insert(pid_of(&child), Job::PidNamespace { connection: number });
                Ok(())
            }
            Request::Start { id } => self.start(number, id),
            Request::Exec {
                id,
                process,
                tty,
                uid,
            } => self.exec(number, id, &process, tty, uid, fds),
            Request::Attach {
                id,
                stdin,
                stdout,
                stderr,
            } => {
                let wanted = [(stdout, Stream::Stdout), (stderr, Stream::Stderr)];
                self.attach(number, id, stdin, &wanted, fds)
            }
            Request::CloseInput { id } => {
                if let Some(container) = self.containers.get_mut(&id)
                    && !container.io.tty
                {
                    container.input = None;
                }
                self.connection(number)?.finish(&Reply::Ok);
                Ok(())
            }
            Request::Kill { id, signal, all } => {
                self.kill(&id, signal, all)?;
                self.connection(number)?.finish(&Reply::Ok);
                Ok(())
            }
            Request::Forget { id } => {
                if self.containers.get(&id).is_some_and(|c| c.exit.is_none()) {
                    return Err(Error::other(format!("container {id} is not over")));
                }
                self.containers.remove(&id);
                // It may be gone with the container's start.
                let _ = std::fs::remove_dir_all(Path::new(STATE).join(&id));
                self.connection(number)?.finish(&Reply::Ok);
                Ok(())
            }
            Request::Shutdown => {
                if let Some((id, _)) = self.containers.iter().find(|(_, c)| c.exit.is_none()) {
                    return Err(Error::other(format!("container {id} still runs")));
                }
                if let Ok(text) = std::fs::read_to_string(init::PID_FILE)
                    && let Ok(pid) = text.parse::<i32>()
                {
                    // It has ended if that fails.
                    let _ = linux::signals::send(pid, Signal::SIGKILL as i32);
                }
                self.done = true;
                self.connection(number)?.finish(&Reply::Ok);
                // Watchers see the end of the shim as the end of their connection.
                for connection in self.connections.values_mut() {
                    connection.closing = true;
                }
                Ok(())
            }
        }
    }

    fn connection(&mut self, number: u64) -> Result<&mut Connection> {
        self.connections
            .get_mut(&number)
            .ok_or_else(|| Error::other("the connection is gone"))
    }

    fn attach(
        &mut self,
        number: u64,
        id: String,
        stdin: bool,
        outputs: &[(bool, Stream)],
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let Some(container) = self.containers.get_mut(&id) else {
            return Err(Error::other(format!("container {id} is not running")));
        };
        if container.exit.is_some() {
            return Err(Error::other(format!("container {id} is not running")));
        }
        let streams = outputs
            .iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, stream)| *stream);
        for (stream, fd) in streams.zip(fds) {
            container.follow(number, stream, fd)?;
        }
        let connection = self
            .connections
            .get_mut(&number)
            .ok_or_else(|| Error::other("hung up"))?;
        connection.role = Role::Attached { id, stdin };
        let input = container.input.iter().filter(|_| stdin || container.io.tty);
        let input: Vec<BorrowedFd<'_>> = input.map(|fd| fd.as_fd()).collect();
        connection.send(&Reply::Attached, &input);
        Ok(())
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<()> {
        let Some(container) = self.containers.get(id) else {
            return Ok(());
        };
        if all {
            return self.cgroups.kill(&container.io.cgroup);
        }
        match container.pid {
            Some(pid) => match linux::signals::send(pid, signal) {
                Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Takes every ended child: helpers, containers, exec'd processes, orphans.
    fn reap(&mut self) {
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(ended)) => ended,
                Err(rustix::io::Errno::INTR) => continue,
                Ok(None) | Err(_) => break,
            };
            let pid = pid.as_raw_nonzero().get();
            let signal = status.terminating_signal().unwrap_or(0);
            let code = status.exit_status().unwrap_or(128 + signal);
            match self.jobs.remove(&pid) {
                Some(job) => self.helper_ended(job, code),
                None => self.process_ended(pid, code, signal),
            }
        }
        if self.jobs.is_empty() {
            self.strays.clear();
        }
    }

    pub(super) fn process_ended(&mut self, pid: i32, code: i32, signal: i32) {
        let container = self.containers.iter().find(|(_, c)| c.pid == Some(pid));
        if let Some((id, _)) = container {
            let id = id.clone();
            self.container_ended(&id, code, signal);
            return;
        }
        let exec = self
            .connections
            .values_mut()
            .find(|c| matches!(c.role, Role::Exec { pid: own } if own == pid));
        match exec {
            Some(connection) => {
                connection.role = Role::Waiting;
                connection.finish(&Reply::Ended { code, signal });
            }
            None => drop(self.strays.insert(pid, (code, signal))),
        }
    }

    pub(super) fn container_ended(&mut self, id: &str, code: i32, signal: i32) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        // What shares a PID namespace with others outlives its first process.
        let cgroup = container.io.cgroup.clone();
        let _ = self.cgroups.kill(&cgroup);
        container.drain(&mut self.buffer);
        let oom_killed = self.cgroups.oom_kills(&cgroup) > 0;
        let exit = Exited {
            code,
            signal,
            oom_killed,
            at: crate::files::now(),
            message: String::new(),
        };
        // A full disk must not keep the news from the daemon.
        let _ = container.ended(exit);
        self.announce(id);
    }

    fn announce(&mut self, id: &str) {
        let reply = Reply::Exited { id: id.to_owned() };
        for connection in self.connections.values_mut() {
            if matches!(connection.role, Role::Watcher) {
                connection.send(&reply, &[]);
            }
        }
    }

    /// Ends what is over: followers of ended containers, hung-up connections.
    fn tidy(&mut self) {
        for (id, container) in &mut self.containers {
            let Some(exit) = &container.exit else {
                continue;
            };
            container
                .sinks
                .retain(|sink| !sink.broken && !sink.pending.is_empty());
            for (number, connection) in &mut self.connections {
                let attached =
                    matches!(&connection.role, Role::Attached { id: own, .. } if own == id);
                if attached
                    && !container
                        .sinks
                        .iter()
                        .any(|sink| sink.connection == *number)
                {
                    connection.role = Role::Waiting;
                    connection.finish(&Reply::Ended {
                        code: exit.code,
                        signal: exit.signal,
                    });
                }
            }
        }
        let over: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, c)| c.is_over())
            .map(|(n, _)| *n)
            .collect();
        for number in over {
            let Some(connection) = self.connections.remove(&number) else {
                continue;
            };
            match connection.role {
                Role::Exec { pid } => kill_group(pid),
                Role::Attached { id, stdin } => {
                    if let Some(container) = self.containers.get_mut(&id) {
                        container.unfollow(number);
                        if stdin && container.io.stdin_once && !container.io.tty {
                            container.input = None;
                        }
                    }
                }
                Role::Fresh | Role::Waiting | Role::Watcher => {}
            }
        }
        for container in self.containers.values_mut() {
            container.sinks.retain(|sink| !sink.broken);
        }
    }
}

/// An exec'd process leads its own group.
pub(super) fn kill_group(pid: i32) {
    // Gone is as good.
    let _ = linux::signals::send(-pid, Signal::SIGKILL as i32);
    let _ = linux::signals::send(pid, Signal::SIGKILL as i32);
}
