//! The processes that run libcontainer.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use serde::{Deserialize, Serialize};

use crate::files::replace;

/// What a helper is to do, in a file of the container's folder. Its answer
/// goes to the file of the same name that ends in `.done`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    /// Folder with `config.json`.
    pub(super) bundle: PathBuf,
    /// libcontainer's own state.
    pub(super) state: PathBuf,
    /// Where a terminal's master goes.
    pub(super) console: Option<PathBuf>,
    /// OCI process of an exec.
    pub(super) process: Option<PathBuf>,
}

/// What came of it: the process id, or why not.
pub(super) type Done = Result<i32, String>;

pub(super) fn create(order: &Path) -> std::io::Result<()> {
    run(order, |order| {
        let mut container = ContainerBuilder::new(order.id.clone(), SyscallType::default())
            .with_executor(Exec)
            .with_root_path(&order.state)?
            .with_console_socket(order.console.clone())
            .validate_id()?
            .as_init(&order.bundle)
            .with_systemd(false)
            .with_detach(true)
            .build()?;
        let pid = container.pid().map(|pid| pid.as_raw());
        container.start()?;
        pid.ok_or_else(|| LibcontainerError::Other("libcontainer gave no process id".into()))
    })
}

pub(super) fn exec(order: &Path) -> std::io::Result<()> {
    run(order, |order| {
        let pid = ContainerBuilder::new(order.id.clone(), SyscallType::default())
            .with_executor(Exec)
            .with_root_path(&order.state)?
            .with_console_socket(order.console.clone())
            .validate_id()?
            .as_tenant()
            .with_process(order.process.clone())
            .with_detach(true)
            .build()?;
        Ok(pid.as_raw())
    })
}

fn run(
    path: &Path,
    work: impl FnOnce(&Order) -> Result<i32, LibcontainerError>,
) -> std::io::Result<()> {
    let order: Order = serde_json::from_slice(&std::fs::read(path)?)?;
    let done: Done = work(&order).map_err(|error| plain(&base::Chain(&error).to_string()));
    replace(&path.with_extension("done"), &serde_json::to_vec(&done)?)
}

/// The cause, freed of the stations it was handed through.
fn plain(chain: &str) -> String {
    match chain.find("exec: \"") {
        Some(at) => {
            let text = &chain[at..];
            text.split(MARK).next().unwrap_or(text).to_owned()
        }
        None => chain.to_owned(),
    }
}

/// Ends the message of [`Exec`], since libcontainer appends words of its own.
const MARK: &str = "\u{2}";

/// Runs the command as `execvp` does, and says what is wrong as runc does.
#[derive(Clone)]
struct Exec;

impl Executor for Exec {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let args = process
            .and_then(|p| p.args().as_deref())
            .unwrap_or_default();
        let env = process.and_then(|p| p.env().as_deref()).unwrap_or_default();
        let path = env
            .iter()
            .rev()
            .find_map(|e| e.strip_prefix("PATH="))
            .unwrap_or("");
        let command = args.first().map(String::as_str).unwrap_or("");
        match find(command, path) {
            Ok(_) => Ok(()),
            Err(reason) => Err(ExecutorValidationError::ArgValidationError(format!(
                "exec: {command:?}: {reason}{MARK}"
            ))),
        }
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec
            .process()
            .as_ref()
            .and_then(|p| p.args().as_deref())
            .ok_or(ExecutorError::InvalidArg)?;
        let path = std::env::var("PATH").unwrap_or_default();
        let command = args.first().ok_or(ExecutorError::InvalidArg)?;
        let file = find(command, &path).map_err(ExecutorError::Other)?;
        let c_string = |text: &str| CString::new(text).map_err(|_| ExecutorError::InvalidArg);
        let file = c_string(&file)?;
        let argv = args
            .iter()
            .map(|a| c_string(a))
            .collect::<Result<Vec<_>, _>>()?;
        linux::signals::reset();
        let Err(error) = nix::unistd::execv(&file, &argv);
        // The daemon was told that it runs; the log is where this can still be seen.
        eprintln!(
            "exec {}: {}",
            file.to_string_lossy(),
            error.desc().to_lowercase()
        );
        Err(ExecutorError::Other(format!(
            "exec: {command:?}: {error}{MARK}"
        )))
    }
}

/// The file a command means, looked up in `path` if it has no slash.
fn find(command: &str, path: &str) -> Result<String, String> {
    if command.contains('/') {
        return match check(command) {
            Ok(()) => Ok(command.to_owned()),
            Err(nix::Error::ENOENT) => Err(format!("stat {command}: no such file or directory")),
            Err(error) => Err(error.desc().to_lowercase()),
        };
    }
    let mut reason = "executable file not found in $PATH".to_owned();
    for folder in path.split(':') {
        let folder = if folder.is_empty() { "." } else { folder };
        let candidate = format!("{folder}/{command}");
        match check(&candidate) {
            Ok(()) if !command.is_empty() => return Ok(candidate),
            Err(nix::Error::EACCES) => reason = "permission denied".to_owned(),
            _ => {}
        }
    }
    Err(reason)
}

/// Whether this process may execute a file, effective ids counting.
fn check(file: &str) -> Result<(), nix::Error> {
    let stat = nix::sys::stat::stat(file)?;
    if stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR {
        return Err(nix::Error::EISDIR);
    }
    nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        file,
        nix::unistd::AccessFlags::X_OK,
        nix::fcntl::AtFlags::AT_EACCESS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_as_a_shell_would() {
        assert_eq!(find("sh", "/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(find("/bin/sh", ""), Ok("/bin/sh".into()));
        for (command, reason) in [
            ("no-such-thing", "executable file not found in $PATH"),
            ("", "executable file not found in $PATH"),
            ("/no/such", "stat /no/such: no such file or directory"),
            ("/tmp", "is a directory"),
        ] {
            assert_eq!(find(command, "/bin"), Err(reason.into()), "{command}");
        }
    }

    #[test]
    fn messages_lose_their_wrapping() {
        let chain = format!("failed to create container: exec: \"x\": not found{MARK}: more");
        assert_eq!(plain(&chain), "exec: \"x\": not found");
        assert_eq!(plain("mount: no"), "mount: no");
    }
}
