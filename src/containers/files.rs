//! Small state files that are whole or absent, whatever happens to the machine.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, at};

/// Replaces a file at once: written beside it, synced, renamed over it.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}

/// As [`write_atomic`], but not synced: for state that means nothing after a
/// reboot, and for the shim, which must not wait for a disk.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

/// Writes a value as JSON, atomically.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> cri::Result<()> {
    let bytes = serde_json::to_vec(value).context(|| format!("encoding {}", path.display()))?;
    at(write_atomic(path, &bytes), "writing", path)
}

/// Reads a JSON file; `None` if there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> cri::Result<Option<T>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => {
            let bytes = at(other, "reading", path)?;
            serde_json::from_slice(&bytes)
                .map(Some)
                .context(|| format!("{} is damaged; remove it to go on without", path.display()))
        }
    }
}

/// Removes a folder and what is in it. Absent is fine.
pub(crate) fn remove_dir(path: &Path) -> cri::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => at(other, "removing", path),
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
