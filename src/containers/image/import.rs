//! Importing docker and OCI archives.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::archive::Archive;
use super::config::{ImageConfig, architecture};
use super::reference::Reference;
use super::store::{Announce, Store};
use super::{digest, digits};
use crate::error::{Context, invalid};

/// Most bytes of an index, manifest or config.
pub(crate) const MAX_DOCUMENT: u64 = 8 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// A descriptor in an index or a manifest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
    pub(crate) platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: Option<String>,
}

/// An image index, an image manifest, or either in docker's older dress.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Document {
    pub(crate) schema_version: u32,
    pub(crate) manifests: Option<Vec<Descriptor>>,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Vec<Descriptor>,
}

impl Document {
    pub(crate) fn parse(bytes: &[u8], what: &str) -> cri::Result<Self> {
        let document: Self = serde_json::from_slice(bytes)
            .context(|| format!("{what} is not a manifest"))
            .map_err(|error| cri::Error {
                kind: cri::ErrorKind::Invalid,
                ..error
            })?;
        if document.schema_version != 2 {
            return Err(invalid(format!(
                "{what} has schema version {}; only version 2 is supported",
                document.schema_version
            )));
        }
        Ok(document)
    }
}

/// The manifest of an index that is for this machine.
pub(crate) fn choose(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let fits = |d: &&Descriptor| {
        d.platform
            .as_ref()
            .is_some_and(|p| p.os == "linux" && p.architecture == architecture())
    };
    // The best known variant first: none or v8 for arm64, none for the rest.
    manifests
        .iter()
        .filter(fits)
        .min_by_key(
            |d| match d.platform.as_ref().and_then(|p| p.variant.as_deref()) {
                None | Some("" | "v8") => 0,
                Some(_) => 1,
            },
        )
        .or_else(|| manifests.iter().find(|d| d.platform.is_none()))
}

/// Imports every image of an archive; returns their ids.
pub(crate) fn import(store: &Arc<Store>, path: &Path) -> cri::Result<Vec<String>> {
    let archive = Archive::open(path, &store.scratch())?;
    let mut ids = if archive.contains("manifest.json") {
        docker(store, &archive)?
    } else if archive.contains("index.json") {
        oci(store, &archive)?
    } else {
        return Err(invalid(format!(
            "{} is no image archive: it has neither manifest.json (docker save) nor index.json (OCI)",
            path.display()
        )));
    };
    ids.dedup();
    Ok(ids)
}

fn docker(store: &Arc<Store>, archive: &Archive) -> cri::Result<Vec<String>> {
    let bytes = archive.read("manifest.json", MAX_DOCUMENT)?;
    let images: Vec<DockerImage> = serde_json::from_slice(&bytes)
        .context(|| "manifest.json is not valid".into())
        .map_err(|error| cri::Error {
            kind: cri::ErrorKind::Invalid,
            ..error
        })?;
    images
        .into_iter()
        .map(|image| {
            let config = ImageConfig::parse(&archive.read(&image.config, MAX_DOCUMENT)?)?;
            let layers = image.layers.unwrap_or_default();
            if layers.len() != config.diff_ids.len() {
                return Err(invalid(
                    "manifest.json and the image config differ in layers",
                ));
            }
            let names = image
                .repo_tags
                .unwrap_or_default()
                .iter()
                .map(|tag| parse_name(tag))
                .collect::<cri::Result<Vec<_>>>()?;
            let mut announce = Announce::new(Arc::clone(store), config);
            for (index, layer) in layers.iter().enumerate() {
                announce.layer(index, || archive.reader(layer))?;
            }
            announce.commit(names.iter().map(Reference::key))
        })
        .collect()
}

fn oci(store: &Arc<Store>, archive: &Archive) -> cri::Result<Vec<String>> {
    let index = Document::parse(&archive.read("index.json", MAX_DOCUMENT)?, "index.json")?;
    let mut ids = Vec::new();
    for descriptor in index.manifests.unwrap_or_default() {
        let name = [
            "io.containerd.image.name",
            "org.opencontainers.image.ref.name",
        ]
        .iter()
        .find_map(|key| descriptor.annotations.get(*key))
        // A bare tag names no image.
        .filter(|name| name.contains(['/', ':']))
        .map(|name| parse_name(name))
        .transpose()?;
        ids.extend(oci_image(store, archive, &descriptor, name.as_ref())?);
    }
    if ids.is_empty() {
        return Err(invalid(format!(
            "the archive has no image for linux/{}",
            architecture()
        )));
    }
    Ok(ids)
}

fn oci_image(
    store: &Arc<Store>,
    archive: &Archive,
    descriptor: &Descriptor,
    name: Option<&Reference>,
) -> cri::Result<Option<String>> {
    let mut document = Document::parse(&blob(archive, &descriptor.digest)?, &descriptor.digest)?;
    if let Some(manifests) = &document.manifests {
        let Some(chosen) = choose(manifests) else {
            return Ok(None);
        };
        document = Document::parse(&blob(archive, &chosen.digest)?, &chosen.digest)?;
    }
    let Some(config) = &document.config else {
        return Err(invalid(format!(
            "manifest {} has no config",
            descriptor.digest
        )));
    };
    let config = ImageConfig::parse(&blob(archive, &config.digest)?)?;
    if document.layers.len() != config.diff_ids.len() {
        return Err(invalid(
            "the manifest and the image config differ in layers",
        ));
    }
    let mut announce = Announce::new(Arc::clone(store), config);
    for (index, layer) in document.layers.iter().enumerate() {
        // The diff id, which the config's digest vouches for, covers the bytes.
        announce.layer(index, || archive.reader(&blob_path(&layer.digest)?))?;
    }
    let names = name
        .into_iter()
        .flat_map(|name| [name.key(), format!("{}@{}", name.name(), descriptor.digest)]);
    announce.commit(names).map(Some)
}

fn blob_path(digest: &str) -> cri::Result<String> {
    Ok(format!("blobs/sha256/{}", digits(digest)?))
}

/// A small blob whose bytes match its digest.
fn blob(archive: &Archive, expected: &str) -> cri::Result<Vec<u8>> {
    let bytes = archive.read(&blob_path(expected)?, MAX_DOCUMENT)?;
    let actual = digest(&bytes);
    if actual != expected {
        return Err(invalid(format!("blob {expected} has digest {actual}")));
    }
    Ok(bytes)
}

fn parse_name(name: &str) -> cri::Result<Reference> {
    Reference::parse(name).map_err(|error| invalid(error.to_string()))
}
