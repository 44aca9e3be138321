//! Starting containers and exec'd processes, and what comes of it.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::pty::OpenptFlags;
use serde_json::value::RawValue;

use super::connection::Role;
use super::container::{Container, Output};
use super::helper::{Done, Order};
use super::log::{Log, Stream};
use super::protocol::{Exited, IO_FILE, Io, Reply};
use super::serve::{STATE, Shim, kill_group};
use super::{init, role};
use crate::files::replace;

/// Exit code of a container that could not be started, as containerd reports it.
const START_ERROR: i32 = 128;

/// A helper at work, by its process id.
#[derive(Debug)]
pub(super) enum Job {
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

impl Shim {
    pub(super) fn start(&mut self, number: u64, id: String) -> Result<()> {
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

    pub(super) fn exec(
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

    pub(super) fn helper_ended(&mut self, job: Job, code: i32) {
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
}

/// Where libcontainer sends a terminal's master. Its socket goes with it.
#[derive(Debug)]
pub(super) struct Console {
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

pub(super) fn pid_of(child: &std::process::Child) -> i32 {
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
