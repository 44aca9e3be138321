//! What was handed out, on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cri::PortMapping;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Everything worth remembering across a restart of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The node's pod CIDRs, the primary family first.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// For each CIDR, where the search for a free address goes on.
    pub(crate) next: Vec<u32>,
    /// By sandbox id.
    pub(crate) sandboxes: BTreeMap<String, Attachment>,
}

/// What one sandbox was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// Pod, for people who read the file.
    pub(crate) pod: String,
    /// Name of the node's end of the veth pair.
    pub(crate) interface: String,
    /// Pod addresses, the primary family first.
    pub(crate) ips: Vec<IpAddr>,
    /// Ports opened on the node.
    pub(crate) ports: Vec<PortMapping>,
}

/// The file that holds a [`State`].
#[derive(Debug)]
pub(crate) struct StateFile {
    folder: PathBuf,
}

impl StateFile {
    /// Opens the folder, creating it if need be.
    pub(crate) fn open(folder: &Path) -> Result<Self, Error> {
        fs::create_dir_all(folder).map_err(|source| Error::State {
            operation: "creating",
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.join("allocations.json")
    }

    /// Reads the state; empty if there is none.
    pub(crate) fn load(&self) -> Result<State, Error> {
        let path = self.path();
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::default()),
            Err(error) => Err(error),
        };
        read.map_err(|source| Error::State {
            operation: "reading",
            path,
            source,
        })
    }

    /// Replaces the state atomically and durably.
    pub(crate) fn save(&self, state: &State) -> Result<(), Error> {
        let path = self.path();
        let fresh = self.folder.join("allocations.json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| Error::State {
            operation: "writing",
            path,
            source,
        })
    }

    /// Removes the file.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::State {
                operation: "removing",
                path,
                source: error,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_names_a_broken_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::open(&folder.path().join("network")).unwrap();
        assert_eq!(file.load().unwrap(), State::default());
        let state = State {
            pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
            next: vec![9],
            sandboxes: BTreeMap::from([(
                "a".to_owned(),
                Attachment {
                    pod: "default/web".into(),
                    interface: "vethk2".into(),
                    ips: vec!["10.42.0.2".parse().unwrap()],
                    ports: vec![],
                },
            )]),
        };
        file.save(&state).unwrap();
        assert_eq!(file.load().unwrap(), state);
        fs::write(file.path(), b"{").unwrap();
        assert!(
            file.load()
                .unwrap_err()
                .to_string()
                .contains("allocations.json")
        );
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), State::default());
    }
}
