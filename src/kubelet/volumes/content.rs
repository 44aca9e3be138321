//! Volumes whose files come from the API: `configMap`, `secret`, `downwardAPI`
//! and `projected`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, Volume};
use tokio::time::Instant;

use super::atomic::{self, File, Payload};
use super::directory::{mount_tmpfs, own};
use super::{Context, Plugin, Ready, blocking};
use crate::pod::{field, namespace, resource_field, shared_run_as_user};

const DEFAULT_MODE: i32 = 0o644;

/// The four kinds together: they differ only in what they write.
pub(super) struct Content;

#[async_trait]
impl Plugin for Content {
    fn handles(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.projected.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Ready, String> {
        let mut payload = Payload::new();
        let mut refresh_at: Option<Instant> = None;
        // Only a config map is no secret: the others never touch the disk.
        let (plugin, in_memory) = if let Some(source) = &volume.config_map {
            let found = context.sources.config_map(&source.name, source.optional)?;
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let optional = source.optional.unwrap_or(false);
            let items = source.items.as_deref();
            add_config_map(&mut payload, found, items, mode, optional)?;
            ("kubernetes.io/configmap", false)
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            let found = context.sources.secret(name, source.optional)?;
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let optional = source.optional.unwrap_or(false);
            add_secret(&mut payload, found, source.items.as_deref(), mode, optional)?;
            ("kubernetes.io/secret", true)
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            add_fields(&mut payload, source.items.as_deref(), mode, context)?;
            ("kubernetes.io/downward-api", true)
        } else if let Some(source) = &volume.projected {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            for source in source.sources.iter().flatten() {
                let next =
                    add_projection(&mut payload, source, &volume.name, mode, context).await?;
                refresh_at = refresh_at.into_iter().chain(next).min();
            }
            ("kubernetes.io/projected", true)
        } else {
            return Err("the volume has no source".into());
        };
        let dir = context.dir(plugin, volume);
        let group = context.fs_group();
        if group.is_some() {
            for file in payload.values_mut() {
                file.mode |= 0o440;
            }
        }
        blocking(move || {
            if in_memory {
                mount_tmpfs(&dir, None)?;
            } else {
                std::fs::create_dir_all(&dir)
                    .map_err(|error| format!("creating {dir:?}: {error}"))?;
            }
            own(&dir, if in_memory { 0o1777 } else { 0o777 }, group)?;
            atomic::write(&dir, &payload, group)
                .map_err(|error| format!("writing the files of {dir:?}: {error}"))?;
            Ok(Ready {
                path: dir,
                read_only: true,
                refresh_at,
            })
        })
        .await
    }
}

fn file(data: Vec<u8>, mode: i32) -> File {
    File {
        data,
        mode: mode.unsigned_abs() & 0o777,
        owner: None,
    }
}

/// Adds the keys an `items` list picks, or all.
fn add_keys(
    payload: &mut Payload,
    all: &[(&str, &[u8])],
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: impl Fn(&str) -> String,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, data) in all {
            payload.insert((*key).to_owned(), file(data.to_vec(), mode));
        }
        return Ok(());
    };
    for item in items {
        match all.iter().find(|(key, _)| *key == item.key) {
            Some((_, data)) => {
                payload.insert(
                    item.path.clone(),
                    file(data.to_vec(), item.mode.unwrap_or(mode)),
                );
            }
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(())
}

fn add_config_map(
    payload: &mut Payload,
    found: Option<&ConfigMap>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    let Some(found) = found else { return Ok(()) };
    let text = found.data.iter().flatten();
    let text = text.map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = found.binary_data.iter().flatten();
    let binary = binary.map(|(key, value)| (key.as_str(), value.0.as_slice()));
    let all: Vec<_> = text.chain(binary).collect();
    add_keys(payload, &all, items, mode, optional, |key| {
        format!("configmap references non-existent config key: {key}")
    })
}

fn add_secret(
    payload: &mut Payload,
    found: Option<&Secret>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    let Some(found) = found else { return Ok(()) };
    let all = found.data.iter().flatten();
    let all: Vec<_> = all
        .map(|(key, value)| (key.as_str(), value.0.as_slice()))
        .collect();
    add_keys(payload, &all, items, mode, optional, |key| {
        format!("references non-existent secret key: {key}")
    })
}

fn add_fields(
    payload: &mut Payload,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    context: &Context<'_>,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let text = if let Some(reference) = &item.field_ref {
            field(context.pod, &reference.field_path, context.fields)?
        } else if let Some(reference) = &item.resource_field_ref {
            resource_field(context.pod, None, reference, context.fields)?
        } else {
            continue;
        };
        let path = item.path.trim_start_matches("./").to_owned();
        payload.insert(path, file(text.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(())
}

async fn add_projection(
    payload: &mut Payload,
    source: &k8s_openapi::api::core::v1::VolumeProjection,
    volume: &str,
    mode: i32,
    context: &Context<'_>,
) -> Result<Option<Instant>, String> {
    if let Some(source) = &source.config_map {
        let found = context.sources.config_map(&source.name, source.optional)?;
        let optional = source.optional.unwrap_or(false);
        add_config_map(payload, found, source.items.as_deref(), mode, optional)?;
    } else if let Some(source) = &source.secret {
        let found = context.sources.secret(&source.name, source.optional)?;
        let optional = source.optional.unwrap_or(false);
        add_secret(payload, found, source.items.as_deref(), mode, optional)?;
    } else if let Some(source) = &source.downward_api {
        add_fields(payload, source.items.as_deref(), mode, context)?;
    } else if let Some(source) = &source.service_account_token {
        let (token, refresh_at) = context
            .tokens
            .get(context.client, context.pod, volume, source)
            .await?;
        let owner = shared_run_as_user(context.pod);
        let mode = match owner.is_some() || context.fs_group().is_some() {
            true => 0o600,
            false => mode,
        };
        let owner = owner.filter(|_| context.fs_group().is_none());
        payload.insert(
            source.path.clone(),
            File {
                owner,
                ..file(token.into_bytes(), mode)
            },
        );
        return Ok(Some(refresh_at));
    } else {
        return Err(format!(
            "a source of the projected volume in namespace {} is of a kind this node does not \
             support",
            namespace(context.pod)
        ));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_items() {
        let all: [(&str, &[u8]); 2] = [("a", b"1"), ("b", b"2")];
        let check = |items: &[(&str, &str, Option<i32>)], optional, want: Result<&str, &str>| {
            let items: Vec<KeyToPath> = items
                .iter()
                .map(|(key, path, mode)| KeyToPath {
                    key: (*key).into(),
                    path: (*path).into(),
                    mode: *mode,
                })
                .collect();
            let mut payload = Payload::new();
            let missing = |key: &str| format!("no {key}");
            let got = add_keys(&mut payload, &all, Some(&items), 0o644, optional, missing);
            let got = got.map(|()| {
                let files = payload.iter().map(|(path, file)| {
                    format!(
                        "{path}={}:{:o}",
                        String::from_utf8_lossy(&file.data),
                        file.mode
                    )
                });
                files.collect::<Vec<_>>().join(" ")
            });
            assert_eq!(got.as_deref().map_err(String::as_str), want);
        };
        check(&[], false, Ok("a=1:644 b=2:644"));
        check(&[("b", "x/y", Some(0o400))], false, Ok("x/y=2:400"));
        check(&[("c", "x", None)], false, Err("no c"));
        check(&[("c", "x", None)], true, Ok(""));
    }
}
