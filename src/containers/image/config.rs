//! The part of an image config this node needs.

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Context, invalid};

/// How the image wants to be run. Fields docker writes as `null` count as empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RunConfig {
    #[serde(deserialize_with = "or_default")]
    pub(crate) user: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) working_dir: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) stop_signal: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootFs {
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Raw {
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    #[serde(deserialize_with = "or_default")]
    config: RunConfig,
    #[serde(deserialize_with = "or_default")]
    rootfs: RootFs,
}

/// A parsed image config.
#[derive(Debug)]
pub(crate) struct ImageConfig {
    /// Its digest, the image id.
    pub(crate) id: String,
    pub(crate) run: RunConfig,
    /// Digests of the uncompressed layers, the lowest first.
    pub(crate) diff_ids: Vec<String>,
}

/// Most layers an image may have: overlayfs stacks no more than 500.
const MAX_LAYERS: usize = 500;

impl ImageConfig {
    /// Parses a config and checks that this machine can run it.
    pub(crate) fn parse(bytes: &[u8]) -> cri::Result<Self> {
        let raw: Raw = serde_json::from_slice(bytes)
            .context(|| "the image config is not valid JSON of its kind".into())
            .map_err(|error| cri::Error {
                kind: cri::ErrorKind::Invalid,
                ..error
            })?;
        if !raw.os.is_empty() && raw.os != "linux" {
            return Err(invalid(format!(
                "the image is for {}, this node runs linux",
                raw.os
            )));
        }
        if !raw.architecture.is_empty() && raw.architecture != architecture() {
            return Err(invalid(format!(
                "the image is for {}, this node is {}",
                raw.architecture,
                architecture()
            )));
        }
        if raw.rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(invalid(format!(
                "the image has more than {MAX_LAYERS} layers"
            )));
        }
        for diff_id in &raw.rootfs.diff_ids {
            super::digits(diff_id)?;
        }
        Ok(Self {
            id: super::digest(bytes),
            run: raw.config,
            diff_ids: raw.rootfs.diff_ids,
        })
    }
}

/// This machine's architecture by its name in image manifests.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "riscv64" => "riscv64",
        other => other,
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
