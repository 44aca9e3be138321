//! Where images live on disk.
//!
//! ```text
//! images/records/HEX.json   one image: its run config, its layers
//! images/names.json         every name (tag or digest form) and the image it means
//! images/layers/HEX/        an unpacked layer by diff id, shared and read-only
//! images/scratch/           unfinished work; emptied at start
//! ```
//!
//! A record is written only after its layers are in place and synced, and a
//! name only after its record, so whatever is interrupted leaves at most
//! layers nobody refers to, which the next start collects.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::config::{ImageConfig, RunConfig};
use super::reference::Reference;
use super::{digits, layer};
use crate::error::{at, invalid, not_found};
use crate::files::{read_json, remove_dir, write_json};

/// One image on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) run: RunConfig,
    /// The lowest first.
    pub(crate) layers: Vec<Layer>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layer {
    pub(crate) diff_id: String,
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// The image store. All methods block.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    records: BTreeMap<String, Record>,
    names: BTreeMap<String, String>,
    /// Layers kept by containers and by unfinished imports, by diff id.
    held: BTreeMap<String, usize>,
    /// Layers being unpacked, so that two imports do not unpack the same one.
    sizes: BTreeMap<String, layer::Size>,
}

impl Store {
    /// Opens the store beneath `root`, leaving unfinished work behind.
    pub(crate) fn open(root: &Path) -> cri::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in ["records", "layers", "scratch"] {
            let path = root.join(folder);
            let made = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path);
            at(made, "creating", &path)?;
        }
        let scratch = root.join("scratch");
        remove_dir(&scratch)?;
        at(std::fs::create_dir(&scratch), "creating", &scratch)?;
        let mut state = State::default();
        let records = root.join("records");
        for entry in at(std::fs::read_dir(&records), "reading", &records)? {
            let path = at(entry, "reading", &records)?.path();
            if path.extension().is_some_and(|e| e == "json")
                && let Some(record) = read_json::<Record>(&path)?
                && record
                    .layers
                    .iter()
                    .all(|l| layer_dir(root, &l.diff_id).is_ok_and(|d| d.is_dir()))
            {
                for l in &record.layers {
                    let size = layer::Size {
                        bytes: l.bytes,
                        inodes: l.inodes,
                    };
                    state.sizes.insert(l.diff_id.clone(), size);
                }
                state.records.insert(record.id.clone(), record);
            } else {
                at(std::fs::remove_file(&path), "removing", &path)?;
            }
        }
        let names: Option<BTreeMap<String, String>> = read_json(&root.join("names.json"))?;
        state.names = names.unwrap_or_default();
        let State { names, records, .. } = &mut state;
        names.retain(|_, id| records.contains_key(id));
        Ok(Self {
            root: root.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Folder for unfinished work.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// The image a reference, an id or a digest of a config means.
    pub(crate) fn find(&self, reference: &str) -> Option<Record> {
        let state = self.state.lock();
        state
            .resolve(reference)
            .and_then(|id| state.records.get(&id).cloned())
    }

    /// Every image.
    pub(crate) fn list(&self) -> Vec<cri::Image> {
        let state = self.state.lock();
        state
            .records
            .values()
            .map(|record| state.describe(record))
            .collect()
    }

    /// One image as the contract describes it.
    pub(crate) fn describe(&self, reference: &str) -> Option<cri::Image> {
        let state = self.state.lock();
        let record = state.records.get(&state.resolve(reference)?)?;
        Some(state.describe(record))
    }

    /// Folders of an image's layers, the topmost first, as overlayfs wants them.
    pub(crate) fn lower_dirs(&self, record: &Record) -> cri::Result<Vec<PathBuf>> {
        record
            .layers
            .iter()
            .rev()
            .map(|l| layer_dir(&self.root, &l.diff_id))
            .collect()
    }

    /// Keeps layers though their image is removed.
    pub(crate) fn hold<'a>(&self, diff_ids: impl IntoIterator<Item = &'a str>) {
        let mut state = self.state.lock();
        for diff_id in diff_ids {
            *state.held.entry(diff_id.to_owned()).or_default() += 1;
        }
    }

    /// Lets go of held layers, removing those nobody needs any more.
    pub(crate) fn release<'a>(
        &self,
        diff_ids: impl IntoIterator<Item = &'a str>,
    ) -> cri::Result<()> {
        {
            let mut state = self.state.lock();
            for diff_id in diff_ids {
                if let Some(count) = state.held.get_mut(diff_id) {
                    *count -= 1;
                    if *count == 0 {
                        state.held.remove(diff_id);
                    }
                }
            }
        }
        self.collect()
    }

    /// Removes an image by id, or a name and, with its last tag, the image.
    pub(crate) fn remove(&self, reference: &str) -> cri::Result<()> {
        {
            let mut state = self.state.lock();
            let Some(id) = state.resolve(reference) else {
                return Ok(());
            };
            match Reference::parse(reference).map(|r| r.key()) {
                Ok(key) if state.names.contains_key(&key) => {
                    state.names.remove(&key);
                    let tags = state
                        .names
                        .iter()
                        .filter(|(n, i)| **i == id && !n.contains('@'));
                    if key.contains('@') || tags.count() == 0 {
                        // Digest names alone keep an image only if it was pulled by digest,
                        // and then the digest is the name that was removed.
                        let left = state.names.values().any(|i| *i == id);
                        if !left || !key.contains('@') {
                            state.names.retain(|_, i| *i != id);
                            state.records.remove(&id);
                        }
                    }
                }
                _ => {
                    state.names.retain(|_, i| *i != id);
                    state.records.remove(&id);
                }
            }
            // Names first: a name without a record is dropped at start, a
            // record without a name would come back nameless.
            self.write_names(&state)?;
            if !state.records.contains_key(&id) {
                let path = self.record_path(&id)?;
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    other => at(other, "removing", &path)?,
                }
            }
        }
        self.collect()
    }

    /// Removes layers that no image and no container needs.
    pub(crate) fn collect(&self) -> cri::Result<()> {
        let folder = self.root.join("layers");
        let mut doomed = Vec::new();
        {
            // Renamed away under the lock, so that nobody takes them up again
            // half removed.
            let mut state = self.state.lock();
            let mut used: BTreeSet<String> = state.held.keys().cloned().collect();
            for record in state.records.values() {
                used.extend(record.layers.iter().map(|l| l.diff_id.clone()));
            }
            for entry in at(std::fs::read_dir(&folder), "reading", &folder)? {
                let entry = at(entry, "reading", &folder)?;
                let diff_id = format!("sha256:{}", entry.file_name().to_string_lossy());
                if !used.contains(&diff_id) {
                    let to = self.scratch().join(layer::fresh_name());
                    at(
                        std::fs::rename(entry.path(), &to),
                        "removing",
                        &entry.path(),
                    )?;
                    state.sizes.remove(&diff_id);
                    doomed.push(to);
                }
            }
        }
        doomed.iter().try_for_each(|path| remove_dir(path))
    }

    /// Bytes and inodes of all layers.
    pub(crate) fn usage(&self) -> layer::Size {
        let state = self.state.lock();
        state
            .sizes
            .values()
            .fold(layer::Size::default(), |sum, size| layer::Size {
                bytes: sum.bytes + size.bytes,
                inodes: sum.inodes + size.inodes,
            })
    }

    fn record_path(&self, id: &str) -> cri::Result<PathBuf> {
        Ok(self
            .root
            .join("records")
            .join(format!("{}.json", digits(id)?)))
    }

    fn write_names(&self, state: &State) -> cri::Result<()> {
        write_json(&self.root.join("names.json"), &state.names)
    }
}

impl State {
    fn resolve(&self, reference: &str) -> Option<String> {
        let id = if reference.starts_with("sha256:") {
            reference.to_owned()
        } else {
            format!("sha256:{reference}")
        };
        if self.records.contains_key(&id) {
            return Some(id);
        }
        let parsed = Reference::parse(reference).ok()?;
        self.names.get(&parsed.key()).cloned()
    }

    fn describe(&self, record: &Record) -> cri::Image {
        let (repo_digests, repo_tags) = self
            .names
            .iter()
            .filter(|(_, id)| **id == record.id)
            .map(|(name, _)| name.clone())
            .partition(|name: &String| name.contains('@'));
        // `user:group`, either by number or by name.
        let user = record.run.user.split(':').next().unwrap_or_default();
        let uid = user.parse::<i64>().ok();
        cri::Image {
            id: record.id.clone(),
            repo_tags,
            repo_digests,
            size: record.layers.iter().map(|l| l.bytes).sum(),
            uid,
            username: if uid.is_some() {
                String::new()
            } else {
                user.to_owned()
            },
            pinned: false,
        }
    }
}

fn layer_dir(root: &Path, diff_id: &str) -> cri::Result<PathBuf> {
    Ok(root.join("layers").join(digits(diff_id)?))
}

/// An image on its way into the store. Its layers are held until it is dropped.
pub(crate) struct Announce {
    store: Arc<Store>,
    config: ImageConfig,
    layers: Vec<Layer>,
}

impl Announce {
    pub(crate) fn new(store: Arc<Store>, config: ImageConfig) -> Self {
        store.hold(config.diff_ids.iter().map(String::as_str));
        Self {
            store,
            config,
            layers: Vec::new(),
        }
    }

    /// Whether layer number `index` is unpacked already.
    pub(crate) fn has_layer(&self, index: usize) -> bool {
        let diff_id = self.config.diff_ids.get(index);
        diff_id.is_some_and(|id| self.store.state.lock().sizes.contains_key(id))
    }

    /// Brings in layer number `index`, opening its stream only if it is new.
    pub(crate) fn layer<R: Read>(
        &mut self,
        index: usize,
        open: impl FnOnce() -> cri::Result<R>,
    ) -> cri::Result<()> {
        let diff_id = self
            .config
            .diff_ids
            .get(index)
            .ok_or_else(|| invalid("more layers than the image config names"))?;
        let dir = layer_dir(&self.store.root, diff_id)?;
        let known = self.store.state.lock().sizes.get(diff_id).copied();
        let size = match known {
            Some(size) => size,
            None => {
                let fresh = self.store.scratch().join(layer::fresh_name());
                at(std::fs::create_dir(&fresh), "creating", &fresh)?;
                let unpacked =
                    set_mode(&fresh, 0o755).and_then(|()| layer::unpack(open()?, diff_id, &fresh));
                let unpacked = match unpacked {
                    Err(error) => {
                        remove_dir(&fresh)?;
                        return Err(error);
                    }
                    Ok(size) => size,
                };
                let mut state = self.store.state.lock();
                if state.sizes.contains_key(diff_id) {
                    drop(state);
                    remove_dir(&fresh)?;
                } else {
                    // Left by a run that ended before its image was recorded.
                    remove_dir(&dir)?;
                    at(std::fs::rename(&fresh, &dir), "moving in", &dir)?;
                    state.sizes.insert(diff_id.clone(), unpacked);
                }
                unpacked
            }
        };
        self.layers.push(Layer {
            diff_id: diff_id.clone(),
            bytes: size.bytes,
            inodes: size.inodes,
        });
        Ok(())
    }

    /// Records the image and points the names at it; returns its id.
    pub(crate) fn commit(self, names: impl IntoIterator<Item = String>) -> cri::Result<String> {
        if self.layers.len() != self.config.diff_ids.len() {
            return Err(not_found("a layer of the image is missing"));
        }
        layer::sync(&self.store.root.join("layers"))?;
        let record = Record {
            id: self.config.id.clone(),
            run: self.config.run.clone(),
            layers: self.layers.clone(),
        };
        let mut state = self.store.state.lock();
        write_json(&self.store.record_path(&record.id)?, &record)?;
        let id = record.id.clone();
        state.records.insert(id.clone(), record);
        state
            .names
            .extend(names.into_iter().map(|name| (name, id.clone())));
        self.store.write_names(&state)?;
        Ok(id)
    }
}

impl Drop for Announce {
    fn drop(&mut self) {
        // What cannot be collected now is at the next start.
        let _ = self
            .store
            .release(self.config.diff_ids.iter().map(String::as_str));
    }
}

fn set_mode(path: &Path, mode: u32) -> cri::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    at(
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)),
        "preparing",
        path,
    )
}
