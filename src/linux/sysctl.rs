//! Kernel parameters under `/proc/sys`.
//!
//! Parameters below `net` belong to the network namespace of the calling
//! thread; inside [`crate::netns::run_in`] that is the pod's.

use std::path::PathBuf;
use std::{fs, io};

/// A kernel parameter that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{operation} kernel parameter {name}")]
pub struct Error {
    operation: &'static str,
    name: String,
    #[source]
    source: io::Error,
}

impl Error {
    /// Whether this kernel has no such parameter.
    pub fn is_absent(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// The value of a parameter named as a path below `/proc/sys`, such as
/// `net/ipv4/ip_forward`. (Slashes, because interface names may hold dots.)
pub fn get(name: &str) -> Result<String, Error> {
    fs::read_to_string(path(name))
        .map(|value| value.trim_end().to_owned())
        .map_err(|source| Error {
            operation: "reading",
            name: name.to_owned(),
            source,
        })
}

/// Sets a parameter, unless it has this value already: a read-only `/proc/sys`
/// (as in many containers) is no error when nothing has to change.
pub fn set(name: &str, value: &str) -> Result<(), Error> {
    if get(name).is_ok_and(|current| current == value) {
        return Ok(());
    }
    fs::write(path(name), value).map_err(|source| Error {
        operation: "setting",
        name: name.to_owned(),
        source,
    })
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_absent_parameter() {
        let error = get("net/ipv4/no_such_parameter").expect_err("absent");
        assert!(error.is_absent());
        assert!(error.to_string().contains("net/ipv4/no_such_parameter"));
    }
}
