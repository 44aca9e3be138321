//! Server-side apply.
//!
//! The applied configuration is merged into the live object; what its manager
//! applied before and no longer names goes away unless somebody else owns it;
//! what it changes and others own is a conflict, which `force` takes over.

use serde_json::{Value, json};

use crate::managed::set::{FieldSet, display};
use crate::managed::typed::{self, Structure};
use crate::managed::{self, ManagerId, Managers, Owned, Versions, Write};
use crate::{Reason, Status};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One field that another manager owns.
struct Conflict {
    id: ManagerId,
    path: Vec<String>,
}

/// Applies `config` to `live` (`None` on create) and answers
/// the new object with its `managedFields`, before defaults.
///
/// # Errors
/// 409 with one cause for each conflict; 400 if the configuration carries
/// `managedFields` or another version, or cannot be merged.
pub fn apply<S: Structure>(
    schema: &S,
    live: Option<&Value>,
    config: &Value,
    force: bool,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) -> Result<Value, Status> {
    let zero = schema.zero();
    let live = live.unwrap_or(&zero);
    let version = config["apiVersion"].as_str().unwrap_or_default();
    if version != write.api_version {
        return Err(Status::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            write.api_version
        )));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    match try_apply(schema, live, config, force, write, versions)? {
        Ok(done) => Ok(done),
        Err(conflicts) => {
            // kubectl may take over what it applied on the client's side.
            if write.manager == "kubectl"
                && let Some(allowed) = last_applied(schema, live, write)
            {
                let rest: Vec<Conflict> = conflicts
                    .into_iter()
                    .filter(|conflict| !contains(&allowed, &conflict.path))
                    .collect();
                if !rest.is_empty() {
                    return Err(conflict_status(&rest));
                }
                return try_apply(schema, live, config, true, write, versions)?
                    .map_err(|conflicts| conflict_status(&conflicts));
            }
            Err(conflict_status(&conflicts))
        }
    }
}

fn contains(set: &FieldSet, path: &[String]) -> bool {
    match path {
        [] => false,
        [last] => set.has(last),
        [first, rest @ ..] => set.below(first).is_some_and(|set| contains(set, rest)),
    }
}

/// The fields of the live object's last configuration applied by the client.
fn last_applied<S: Structure>(schema: &S, live: &Value, write: &Write<'_>) -> Option<FieldSet> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let config: Value = serde_json::from_str(text).ok()?;
    (config["apiVersion"] == write.api_version).then(|| typed::field_set(schema, &config))
}

fn try_apply<S: Structure>(
    schema: &S,
    live: &Value,
    config: &Value,
    force: bool,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) -> Result<Result<Value, Vec<Conflict>>, Status> {
    let entries = &live["metadata"]["managedFields"];
    let mut managers = managed::decode(entries)
        .ok_or_else(|| Status::internal("failed to decode managed fields"))?;
    let original = live;
    let live = managed::stripped(live);
    if managers.is_empty() && live["metadata"]["uid"].is_string() {
        // Fields from before the first apply belong to somebody too.
        let before = Write {
            manager: "before-first-apply",
            ..*write
        };
        managers =
            managed::update_managers(schema, &schema.zero(), &live, managers, &before, versions);
    }
    let own = ManagerId {
        manager: write.manager.to_owned(),
        applied: true,
        api_version: String::new(),
        subresource: write.subresource.to_owned(),
    };
    if let Err(why) = managed::check(schema, config, false) {
        return Err(plain(format!(
            "failed to create typed patch object ({}): {why}",
            described(config)
        )));
    }
    if let Err(why) = managed::check(schema, &live, true) {
        return Err(plain(format!(
            "failed to create typed live object ({}): {why}",
            described(&live)
        )));
    }
    let merged = typed::merge(schema, &live, config)
        .map_err(|why| Status::internal(format!("failed to merge config: {why}")))?;
    let reset = FieldSet::of_fields(write.reset);
    let fields = typed::field_set(schema, config).recursive_difference(&reset);
    let before = managers.insert(
        own.clone(),
        Owned {
            fields,
            api_version: write.api_version.to_owned(),
            time: None,
        },
    );
    let new = match &before {
        Some(last) if !last.fields.is_empty() => {
            prune(schema, merged, &managers, last, write, versions)
        }
        _ => merged,
    };
    if !force {
        let found = managed::conflicts(schema, &live, &new, &managers, &own, write, versions);
        if !found.is_empty() {
            return Ok(Err(found
                .into_iter()
                .flat_map(|(id, set)| {
                    set.paths().into_iter().map(move |path| Conflict {
                        id: id.clone(),
                        path,
                    })
                })
                .collect()));
        }
    }
    let changed = new != live;
    let mut managers = managed::take_over(schema, &live, &new, managers, &own, write, versions);
    if let Some(owned) = managers.get_mut(&own) {
        owned.fields = owned.fields.difference(&managed::unowned());
        owned.time = if changed {
            Some(write.now.to_owned())
        } else {
            before.and_then(|last| last.time)
        };
        if owned.fields.is_empty() {
            managers.remove(&own);
        }
    }
    let mut new = if changed {
        new
    } else {
        managed::stripped(original)
    };
    managed::encode(&mut new, &managers);
    update_last_applied(&mut new, config, write);
    Ok(Ok(new))
}

/// 500 that says no more than the message.
fn plain(message: String) -> Status {
    Status {
        code: 500,
        ..Status::new(Reason::Unknown, message)
    }
}

/// `NAMESPACE/NAME; GROUP/VERSION, Kind=KIND`.
fn described(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{}/{}; {}",
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"]),
        kind_of(object)
    )
}

/// `GROUP/VERSION, Kind=KIND` of an object.
pub fn kind_of(object: &Value) -> String {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let version = text("apiVersion");
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={}", text("kind"))
}

/// Keeps the client-side annotation in step, for clients that still read it.
fn update_last_applied(new: &mut Value, config: &Value, write: &Write<'_>) {
    if write.manager == "kubectl" && !new["metadata"]["annotations"][LAST_APPLIED].is_null() {
        let mut text = config.to_string();
        text.push('\n');
        new["metadata"]["annotations"][LAST_APPLIED] = text.into();
    }
}

/// Removes what this manager applied before and nobody sets any more.
fn prune<S: Structure>(
    schema: &S,
    merged: Value,
    managers: &Managers,
    last: &Owned,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) -> Value {
    let (merged_then, then) = if last.api_version == write.api_version {
        (merged.clone(), schema.clone())
    } else {
        match versions(&merged, &last.api_version) {
            Some(converted) => converted,
            None => return merged,
        }
    };
    let named = |set: &FieldSet| typed::with_named_fields(&then, set);
    let cut = |set: &FieldSet| typed::remove(&then, &merged_then, set).unwrap_or(Value::Null);
    let mut pruned = cut(&named(&last.fields));

    // Owned by anybody: back it comes, version by version.
    let mut managed_at: Vec<(String, FieldSet)> = Vec::new();
    for owned in managers.values() {
        match managed_at
            .iter_mut()
            .find(|(version, _)| *version == owned.api_version)
        {
            Some((_, set)) => *set = set.union(&owned.fields),
            None => managed_at.push((owned.api_version.clone(), owned.fields.clone())),
        }
    }
    managed_at.sort_by_key(|(version, _)| *version != last.api_version);
    for (version, set) in managed_at {
        let convert = |value: &Value| {
            if version == last.api_version {
                Some((value.clone(), then.clone()))
            } else {
                versions(value, &version)
            }
        };
        let Some(((merged_there, there), (pruned_there, _))) =
            convert(&merged_then).zip(convert(&pruned))
        else {
            continue;
        };
        let named = |set: &FieldSet| typed::with_named_fields(&there, set);
        let all = named(&typed::field_set(&there, &merged_there));
        let kept = named(&typed::field_set(&there, &pruned_there)).union(&named(&set));
        let value =
            typed::remove(&there, &merged_there, &all.difference(&kept)).unwrap_or(Value::Null);
        pruned = if version == last.api_version {
            value
        } else {
            match versions(&value, &last.api_version) {
                Some((value, _)) => value,
                None => continue,
            }
        };
    }

    // Never applied by it, but below something it applied: stays as well.
    let kept = named(&typed::field_set(&then, &pruned));
    let all = named(&typed::field_set(&then, &merged_then));
    let gone = all.difference(&kept).intersection(&named(&last.fields));
    let pruned = cut(&gone);
    if last.api_version == write.api_version {
        pruned
    } else {
        versions(&pruned, write.api_version).map_or(pruned, |(value, _)| value)
    }
}

fn describe(conflict: &Conflict) -> String {
    let mut out = format!("{:?}", conflict.id.manager);
    if !conflict.id.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", conflict.id.subresource));
    }
    if !conflict.id.applied {
        out.push_str(&format!(" using {}", conflict.id.api_version));
    }
    out
}

/// `NewApplyConflict`.
fn conflict_status(conflicts: &[Conflict]) -> Status {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|conflict| {
            json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {}", describe(conflict)),
                "field": display(&conflict.path),
            })
        })
        .collect();
    let message = if let [one] = conflicts {
        format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            describe(one),
            display(&one.path)
        )
    } else {
        let mut managers: Vec<&ManagerId> = conflicts.iter().map(|one| &one.id).collect();
        managers.sort();
        managers.dedup();
        let mut lines = Vec::new();
        for id in managers {
            let mut of = conflicts.iter().filter(|one| one.id == *id).peekable();
            if let Some(first) = of.peek() {
                lines.push(format!("conflicts with {}:", describe(first)));
            }
            lines.extend(of.map(|one| format!("- {}", display(&one.path))));
        }
        format!(
            "Apply failed with {} conflicts: {}",
            conflicts.len(),
            lines.join("\n")
        )
    };
    Status::new(Reason::Conflict, message).with_details(json!({ "causes": causes }))
}
