//! Network namespaces pinned by bind mounts.
//!
//! A namespace lives as long as something refers to it. Karve has no pause
//! process, so the reference is a bind mount of the namespace file, at a path
//! under the run state folder: it outlives the daemon and goes away with the
//! sandbox.
//!
//! The network namespace is a property of a thread. Whatever has to happen
//! inside one happens on a thread of its own that ends afterwards, so that no
//! thread of the runtime is ever left in the wrong namespace. A socket keeps
//! the namespace it was made in: [`run_in`] is needed to make it, not to use it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::net::{TcpSocket, TcpStream};

use crate::netlink;

/// A failed operation on a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or mount that pins the namespace could not be made, opened or removed.
    #[error("{operation} network namespace {}", path.display())]
    Path {
        /// What was tried.
        operation: &'static str,
        /// The path that pins the namespace.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The loopback interface of a new namespace could not be brought up.
    #[error("bringing up loopback in network namespace {}", path.display())]
    Loopback {
        /// The path that pins the namespace.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: netlink::Error,
    },
}

impl Error {
    fn path(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Path {
            operation,
            path,
            source,
        }
    }
}

/// Creates a namespace with its loopback interface up, pinned at `path`.
///
/// The file is created; its folder must exist. Fails if `path` pins a
/// namespace already.
pub fn create(path: &Path) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(Error::path("creating", path))?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .map_err(Error::path("creating", path))?;
        loopback_up().map_err(|source| Error::Loopback {
            path: path.to_owned(),
            source,
        })?;
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(io::Error::from)
        .map_err(Error::path("pinning", path))
    });
    if made.is_err() {
        // The namespace died with its thread; only the empty file is left.
        let _ = fs::remove_file(path);
    }
    made
}

/// Unpins the namespace at `path` and removes the file. Succeeds if there is none.
pub fn delete(path: &Path) -> Result<(), Error> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // Mounts stack: whatever else was mounted here goes as well.
            Ok(()) => {}
            // Nothing is mounted here, or nothing is here.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(Error::path("unpinning", path)(error.into())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::path("removing", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a network namespace is pinned at `path`.
pub fn exists(path: &Path) -> bool {
    // A namespace file lives on nsfs; a leftover empty file does not.
    nix::sys::statfs::statfs(path)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Runs `job` inside the namespace pinned at `path`, on a thread of its own,
/// and waits for it. From async code call it through `spawn_blocking`.
pub fn run_in<T: Send>(path: &Path, job: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let namespace = File::open(path).map_err(Error::path("opening", path))?;
    on_own_thread(|| {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(io::Error::from)
            .map_err(Error::path("entering", path))?;
        Ok(job())
    })
}

/// Connects to `address` from inside the namespace pinned at `path`.
///
/// This is what port-forward and probes need: the connection is an ordinary
/// socket of this runtime, no thread stays in the namespace.
pub async fn connect(path: &Path, address: SocketAddr) -> io::Result<TcpStream> {
    let path = path.to_owned();
    let socket = tokio::task::spawn_blocking(move || {
        run_in(&path, || match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        })
        .map_err(io::Error::other)?
    })
    .await
    .map_err(io::Error::other)??;
    socket.connect(address).await
}

fn loopback_up() -> Result<(), netlink::Error> {
    let mut route = netlink::Route::open()?;
    // The first interface of every namespace is its loopback.
    route.set_link(
        1,
        &netlink::LinkChange {
            up: Some(true),
            ..Default::default()
        },
    )
}

fn on_own_thread<T: Send>(job: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, job)
            .expect("the system has room for one more short-lived thread");
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::testing::skip_unless_root;

    #[test]
    fn lives_at_its_path_until_deleted() {
        skip_unless_root!();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod");
        assert!(!exists(&path));
        create(&path).unwrap();
        assert!(exists(&path));
        assert!(create(&path).is_err(), "a second one at the same path");
        let inside = || fs::read_link("/proc/thread-self/ns/net").unwrap();
        let here = inside();
        assert_ne!(run_in(&path, inside).unwrap(), here);
        assert_eq!(inside(), here);
        // Loopback answers, nothing else does.
        run_in(&path, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
            assert!(socket.send_to(b"x", "192.0.2.1:9").is_err());
        })
        .unwrap();
        delete(&path).unwrap();
        assert!(!path.exists());
        delete(&path).unwrap();
        assert!(run_in(&path, || ()).is_err());
    }

    #[tokio::test]
    async fn connects_from_inside() {
        skip_unless_root!();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod");
        create(&path).unwrap();
        let listener = run_in(&path, || TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stream = connect(&path, address).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        delete(&path).unwrap();
    }
}
