//! The long-lived role: one thread around `poll`.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use linux::cgroup::Cgroups;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, wait};
use rustix::pty::OpenptFlags;
use serde_json::value::RawValue;

use super::connection::{Connection, Role};
use super::container::{Container, Output};
use super::helper::{Done, Order};
use super::init;
use super::log::{Log, Stream};
use super::protocol::{Exited, IO_FILE, Io, Reply, Request};
use super::role;
use crate::files::replace;

/// Folder of libcontainer's state, in the pod's run state folder.
const STATE: &str = "state";
/// Exit code of a container that could not be started, as containerd reports it.
const START_ERROR: i32 = 128;

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

/// A helper at work, by its process id.
#[derive(Debug)]
enum Job {
    Create {
        id: String,
        connection: u64,
        order: PathBuf,
        console: Option<Console>,
    },
    Exec {
        id: String,
        connection: u64,
        order: PathBuf,
        console: Option<Console>,
    },
    PidNamespace {
        connection: u64,
    },
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Listener,
    Connection(u64),
    Output(usize, usize),
    Sink(usize, usize),
}

struct Shim {
    run: PathBuf,
    data: PathBuf,
    cgroups: Cgroups,
    containers: BTreeMap<String, Container>,
    connections: BTreeMap<u64, Connection>,
    jobs: BTreeMap<i32, Job>,
    /// Processes that ended before their helper said whose they are.
    strays: BTreeMap<i32, (i32, i32)>,
    next: u64,
    buffer: Vec<u8>,
    done: bool,
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

    fn start(&mut self, number: u64, id: String) -> Result<()> {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{id:?} is no container id"),
            ));
        }
        if self.containers.contains_key(&id) {
            return Err(Error::other(format!("container {id} was started before")));
        }
        let dir = self.data.join(&id);
        let io: Io = serde_json::from_slice(&std::fs::read(dir.join(IO_FILE))?)?;
        let log = Log::open(&io.log, io.log_max_size, io.log_max_files)?;
        let (mut outputs, mut input, mut stdin) = (Vec::new(), None, Stdio::null());
        let (mut stdout, mut stderr, mut console) = (Stdio::null(), Stdio::null(), None);
        if io.tty {
            console = Some(self.console(io.uid)?);
        } else {
            let (out_read, out_write) = pipe_for(io.uid)?;
            let (err_read, err_write) = pipe_for(io.uid)?;
            outputs.push(Output::new(Stream::Stdout, out_read)?);
            outputs.push(Output::new(Stream::Stderr, err_read)?);
            (stdout, stderr) = (Stdio::from(out_write), Stdio::from(err_write));
            if io.stdin {
                let (read, write) = pipe_for(io.uid)?;
                (stdin, input) = (Stdio::from(read), Some(write));
            }
        }
        let order = dir.join("create.order");
        self.write_order(
            &order,
            &id,
            &dir,
            console.as_ref().map(|console| &console.path),
            None,
        )?;
        let child = role("create")
            .arg(&order)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        let job = Job::Create {
            id: id.clone(),
            connection: number,
            order,
            console,
        };
        self.jobs.insert(pid_of(&child), job);
        let container = Container {
            dir,
            io,
            log,
            pid: None,
            outputs,
            input,
            sinks: Vec::new(),
            exit: None,
        };
        self.containers.insert(id, container);
        Ok(())
    }

    fn exec(
        &mut self,
        number: u64,
        id: String,
        process: &RawValue,
        tty: bool,
        uid: u32,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let dir = match self.containers.get(&id) {
            Some(container) if container.pid.is_some() => container.dir.clone(),
            _ => return Err(Error::other(format!("container {id} is not running"))),
        };
        let (mut stdin, mut stdout, mut stderr) = (Stdio::null(), Stdio::null(), Stdio::null());
        let mut console = None;
        if tty {
            console = Some(self.console(uid)?);
        } else {
            let fds: [OwnedFd; 3] = fds
                .try_into()
                .map_err(|_| Error::other("an exec needs three descriptors"))?;
            for fd in &fds {
                own(fd, uid)?;
            }
            let [a, b, c] = fds;
            (stdin, stdout, stderr) = (Stdio::from(a), Stdio::from(b), Stdio::from(c));
        }
        self.next += 1;
        let file = dir.join(format!("exec-{}.process", self.next));
        let order = dir.join(format!("exec-{}.order", self.next));
        replace(&file, process.get().as_bytes())?;
        let path = console.as_ref().map(|console| &console.path);
        self.write_order(&order, &id, &dir, path, Some(&file))?;
        let child = role("exec")
            .arg(&order)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .spawn()?;
        self.jobs.insert(
            pid_of(&child),
            Job::Exec {
                id,
                connection: number,
                order,
                console,
            },
        );
        Ok(())
    }

    fn write_order(
        &self,
        order: &Path,
        id: &str,
        bundle: &Path,
        console: Option<&PathBuf>,
        process: Option<&Path>,
    ) -> Result<()> {
        let content = Order {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            state: self.run.join(STATE),
            console: console.cloned(),
            process: process.map(Path::to_owned),
        };
        replace(order, &serde_json::to_vec(&content)?)
    }

    /// A socket for a terminal's master to arrive at. Its name is used once.
    fn console(&mut self, uid: u32) -> Result<Console> {
        self.next += 1;
        let name = format!("tty{}", self.next);
        let listener = UnixListener::bind(&name)?;
        let path = self.run.join(name);
        let console = Console {
            listener,
            path,
            uid,
        };
        console.listener.set_nonblocking(true)?;
        Ok(console)
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

    fn process_ended(&mut self, pid: i32, code: i32, signal: i32) {
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

    fn container_ended(&mut self, id: &str, code: i32, signal: i32) {
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

    fn helper_ended(&mut self, job: Job, code: i32) {
        match job {
            Job::PidNamespace { connection } => {
                let pid = std::fs::read_to_string(init::PID_FILE)
                    .ok()
                    .and_then(|text| text.parse::<i32>().ok())
                    .filter(|_| code == 0);
                if let Some(connection) = self.connections.get_mut(&connection) {
                    match pid {
                        Some(pid) => connection.finish(&Reply::Started { pid }),
                        None => {
                            connection.fail(false, "the PID namespace could not be made".to_owned())
                        }
                    }
                }
            }
            Job::Create {
                id,
                connection,
                order,
                console,
            } => {
                let done = outcome(&order, code)
                    .and_then(|pid| Ok((pid, console.map(Console::take).transpose()?)));
                self.created(&id, connection, done);
            }
            Job::Exec {
                id,
                connection,
                order,
                console,
            } => {
                let done = outcome(&order, code)
                    .and_then(|pid| Ok((pid, console.map(Console::take).transpose()?)));
                // Written for this exec alone.
                let _ = std::fs::remove_file(order.with_extension("process"));
                self.forget_tenant_sockets(&id);
                self.execed(connection, done);
            }
        }
    }

    fn created(
        &mut self,
        id: &str,
        connection: u64,
        done: std::result::Result<(i32, Option<OwnedFd>), String>,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        let connection = self.connections.get_mut(&connection);
        let noted = done.and_then(|(pid, master)| {
            let with_master = |master: OwnedFd| -> Result<()> {
                container.input = Some(master.try_clone()?);
                container.outputs = vec![Output::new(Stream::Stdout, master)?];
                Ok(())
            };
            master
                .map_or(Ok(()), with_master)
                .map_err(|error| error.to_string())?;
            container.started(pid).map_err(|error| error.to_string())?;
            Ok(pid)
        });
        match noted {
            Ok(pid) => {
                if let Some(connection) = connection {
                    connection.finish(&Reply::Started { pid });
                }
                if let Some((code, signal)) = self.strays.remove(&pid) {
                    self.container_ended(id, code, signal);
                }
            }
            Err(message) => {
                let _ = self.cgroups.kill(&container.io.cgroup);
                container.drain(&mut self.buffer);
                let exit = Exited {
                    code: START_ERROR,
                    at: crate::files::now(),
                    message: message.clone(),
                    ..Exited::default()
                };
                let _ = container.ended(exit);
                if let Some(connection) = connection {
                    connection.fail(message.starts_with("exec: \""), message);
                }
            }
        }
    }

    fn execed(&mut self, number: u64, done: std::result::Result<(i32, Option<OwnedFd>), String>) {
        let connection = self.connections.get_mut(&number).filter(|c| !c.dead);
        match (connection, done) {
            (Some(connection), Ok((pid, master))) => {
                let master: Vec<BorrowedFd<'_>> = master.iter().map(|fd| fd.as_fd()).collect();
                connection.send(&Reply::Started { pid }, &master);
                connection.role = Role::Exec { pid };
                if let Some((code, signal)) = self.strays.remove(&pid) {
                    self.process_ended(pid, code, signal);
                }
            }
            (Some(connection), Err(message)) => {
                connection.fail(message.starts_with("exec: \""), message);
            }
            (None, Ok((pid, _))) => kill_group(pid),
            (None, Err(_)) => {}
        }
    }

    /// libcontainer leaves sockets behind with every exec; no other exec of
    /// this container must be under way.
    fn forget_tenant_sockets(&self, id: &str) {
        let busy = |job: &Job| matches!(job, Job::Exec { id: other, .. } if other == id);
        if self.jobs.values().any(busy) {
            return;
        }
        let Ok(entries) = std::fs::read_dir(Path::new(STATE).join(id)) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b"tenant-") {
                // The next exec tries again.
                let _ = std::fs::remove_file(entry.path());
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

/// Where libcontainer sends a terminal's master. Its socket goes with it.
#[derive(Debug)]
struct Console {
    listener: UnixListener,
    path: PathBuf,
    /// Who the terminal is given to, so that `/dev/stdout` can be reopened.
    uid: u32,
}

impl Console {
    /// The master, which has been sent by the time the helper ends.
    fn take(self) -> std::result::Result<OwnedFd, String> {
        let take = || -> Result<OwnedFd> {
            let (socket, _) = self.listener.accept()?;
            let (mut bytes, mut fds) = ([0; 4096], Vec::new());
            linux::fds::receive(&socket, &mut bytes, &mut fds)?;
            let master = fds.pop().ok_or_else(|| Error::other("no descriptor"))?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            own(&rustix::pty::ioctl_tiocgptpeer(&master, flags)?, self.uid)?;
            Ok(master)
        };
        take().map_err(|error| format!("the terminal did not arrive: {error}"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It goes with the pod's folder otherwise.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What a helper left: the process id, or why there is none.
fn outcome(order: &Path, code: i32) -> Done {
    let path = order.with_extension("done");
    let done = std::fs::read(&path)
        .ok()
        .and_then(|b| serde_json::from_slice::<Done>(&b).ok());
    for file in [order, &path] {
        // Orders have names of their own; a leftover harms nothing.
        let _ = std::fs::remove_file(file);
    }
    done.unwrap_or_else(|| {
        Err(format!(
            "the process that runs libcontainer ended with {code}"
        ))
    })
}

/// An exec'd process leads its own group.
fn kill_group(pid: i32) {
    // Gone is as good.
    let _ = linux::signals::send(-pid, Signal::SIGKILL as i32);
    let _ = linux::signals::send(pid, Signal::SIGKILL as i32);
}

fn pid_of(child: &std::process::Child) -> i32 {
    i32::try_from(child.id()).expect("process ids fit 31 bits")
}

/// A pipe whose ends the container's user may reopen by `/dev/stdout`.
fn pipe_for(uid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    own(&read, uid)?;
    own(&write, uid)?;
    Ok((read, write))
}

fn own(fd: &OwnedFd, uid: u32) -> Result<()> {
    match rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None) {
        // Not everything that comes as a stream has an owner to change.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM | rustix::io::Errno::ROFS) => Ok(()),
        other => Ok(other?),
    }
}
