//! `metadata.managedFields`: who set which field.
//!
//! Every write goes through [`update`] (create, update, patch, status) or
//! [`crate::apply::apply`] (server-side apply). An entry belongs to a manager,
//! an operation, an API version and a subresource; it names the fields that
//! this manager set last. The rules, and what is deliberately left out of the
//! sets, are those of `k8s.io/apimachinery/pkg/util/managedfields`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::meta;

pub(crate) mod check;
mod node;
pub mod set;
pub mod typed;

pub use check::check;
pub use node::Node;
use set::FieldSet;
use typed::Structure;

/// Managers by update before the oldest are folded into one.
const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager that the oldest are folded into.
const ANCIENT: &str = "ancient-changes";
/// Bytes of a manager's name.
const MANAGER_MAX: usize = 128;

/// Which manager an entry belongs to. The order is that of folding: names of
/// the same age in the order of upstream's identifiers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// Name, from `fieldManager` or the user agent.
    pub manager: String,
    /// `Apply` rather than `Update`.
    pub applied: bool,
    /// `apiVersion`; empty for `Apply`, whose entry is one for all versions.
    pub api_version: String,
    /// `status` and the like; empty for the object itself.
    pub subresource: String,
}

/// What one manager owns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owned {
    /// The fields, in the terms of [`Owned::api_version`].
    pub fields: FieldSet,
    /// Version whose schema names the fields.
    pub api_version: String,
    /// When it last changed.
    pub time: Option<String>,
}

/// All entries of an object.
pub type Managers = BTreeMap<ManagerId, Owned>;

/// Who writes what, how.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// `apiVersion` of the request.
    pub api_version: &'a str,
    /// Name of the manager, see [`manager_name`].
    pub manager: &'a str,
    /// Subresource written; empty for the object itself.
    pub subresource: &'a str,
    /// Now, as `metav1.Time`.
    pub now: &'a str,
    /// Fields that this write cannot set, such as `status`; see
    /// [`crate::kinds::Kind::reset_fields`].
    pub reset: &'a [&'a [&'a str]],
}

/// An object and its schema in another served version; `None` if the version
/// is gone.
pub type Versions<'a, S> = &'a dyn Fn(&Value, &str) -> Option<(Value, S)>;

/// The manager of a request: its `fieldManager`, or its user agent up to the slash.
pub fn manager_name(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut out = String::new();
    let first = user_agent.split('/').next().unwrap_or_default();
    for c in first.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MANAGER_MAX {
            break;
        }
        out.push(c);
    }
    out
}

/// Parses `managedFields`; `None` if an entry is malformed.
pub fn decode(entries: &Value) -> Option<Managers> {
    let mut out = Managers::new();
    for entry in entries.as_array().into_iter().flatten() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let applied = match &*text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let id = ManagerId {
            manager: text("manager"),
            applied,
            api_version: if applied {
                String::new()
            } else {
                api_version.clone()
            },
            subresource: text("subresource"),
        };
        let owned = Owned {
            fields: FieldSet::from_value(&entry["fieldsV1"]),
            api_version,
            time: entry["time"].as_str().map(str::to_owned),
        };
        out.insert(id, owned);
    }
    Some(out)
}

/// Writes `metadata.managedFields`, in upstream's order; none removes it.
pub fn encode(object: &mut Value, managers: &Managers) {
    let mut entries: Vec<(&ManagerId, &Owned)> = managers.iter().collect();
    entries.sort_by_key(|(id, owned)| {
        (
            !id.applied,
            owned.time.clone().unwrap_or_default(),
            id.manager.clone(),
            owned.api_version.clone(),
            id.subresource.clone(),
        )
    });
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|(id, owned)| {
            let mut entry = Map::new();
            entry.insert("manager".into(), id.manager.clone().into());
            let operation = if id.applied { "Apply" } else { "Update" };
            entry.insert("operation".into(), operation.into());
            entry.insert("apiVersion".into(), owned.api_version.clone().into());
            if let Some(time) = &owned.time {
                entry.insert("time".into(), time.clone().into());
            }
            entry.insert("fieldsType".into(), "FieldsV1".into());
            entry.insert("fieldsV1".into(), owned.fields.to_value());
            if !id.subresource.is_empty() {
                entry.insert("subresource".into(), id.subresource.clone().into());
            }
            Value::Object(entry)
        })
        .collect();
    let metadata = meta::metadata_mut(object);
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), entries.into());
    }
}

/// Fields of every object that have no owner.
pub(crate) fn unowned() -> FieldSet {
    FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

/// A client clears the entries with an empty list or one empty entry.
fn is_reset(entries: &Value) -> bool {
    match entries.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// The same objects without `managedFields`.
pub(crate) fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Records a create, update, patch or status write in `new`'s `managedFields`.
///
/// `live` is the stored object in the request's version, `None` on create.
pub fn update<S: Structure>(
    schema: &S,
    live: Option<&Value>,
    new: &mut Value,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) {
    let zero = schema.zero();
    let live = live.unwrap_or(&zero);
    // What cannot be told apart has no owners, and no more than that happens.
    if check(schema, new, true).is_err() || check(schema, live, true).is_err() {
        *new = stripped(new);
        return;
    }
    let live_entries = &live["metadata"]["managedFields"];
    let new_entries = &new["metadata"]["managedFields"];
    let from_live = || decode(live_entries).unwrap_or_default();
    let managers = if !write.subresource.is_empty() {
        from_live()
    } else if is_reset(new_entries) {
        Managers::new()
    } else {
        match decode(new_entries) {
            Some(managers) if !managers.is_empty() => managers,
            _ => from_live(),
        }
    };
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    // An object that nobody's fields are tracked on stays untracked.
    let created = live["metadata"]["uid"].as_str().is_none_or(str::is_empty);
    if managers.is_empty() && !created {
        return;
    }
    let managers = update_managers(schema, &stripped(live), new, managers, write, versions);
    encode(new, &managers);
}

pub(crate) fn update_managers<S: Structure>(
    schema: &S,
    live: &Value,
    new: &Value,
    managers: Managers,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) -> Managers {
    let reset = FieldSet::of_fields(write.reset);
    let (mut managers, comparison) =
        disown(schema, live, new, managers, None, write, &reset, versions);
    let fields = comparison
        .modified
        .union(&comparison.added)
        .recursive_difference(&reset)
        .difference(&unowned());
    if !fields.is_empty() {
        let name = if write.manager.is_empty() {
            "unknown"
        } else {
            write.manager
        };
        let id = ManagerId {
            manager: name.to_owned(),
            applied: false,
            api_version: write.api_version.to_owned(),
            subresource: write.subresource.to_owned(),
        };
        let owned = managers.entry(id).or_default();
        owned.fields = if owned.fields.is_bare() {
            fields
        } else {
            owned.fields.union(&fields)
        };
        write.api_version.clone_into(&mut owned.api_version);
        owned.time = Some(write.now.to_owned());
    }
    cap(managers)
}

/// Takes changed and removed fields from every other manager. Answers what changed.
#[expect(
    clippy::too_many_arguments,
    reason = "the objects, the managers and the write are distinct; a struct would be built for this call alone"
)]
fn disown<S: Structure>(
    schema: &S,
    live: &Value,
    new: &Value,
    managers: Managers,
    except: Option<&ManagerId>,
    write: &Write<'_>,
    reset: &FieldSet,
    versions: Versions<'_, S>,
) -> (Managers, typed::Comparison) {
    let comparison = typed::compare(schema, live, new);
    if managers.is_empty() {
        return (managers, comparison);
    }
    let mut by_version = BTreeMap::from([(
        write.api_version.to_owned(),
        Some(comparison.without(reset)),
    )]);
    let mut out = Managers::new();
    for (id, mut owned) in managers {
        if except == Some(&id) {
            out.insert(id, owned);
            continue;
        }
        let changes = compare_in(
            &mut by_version,
            &owned.api_version,
            live,
            new,
            reset,
            versions,
        );
        let Some(changes) = changes else { continue };
        owned.fields = owned
            .fields
            .difference(
                &owned
                    .fields
                    .intersection(&changes.modified.union(&changes.added)),
            )
            .difference(&changes.removed);
        if !owned.fields.is_empty() {
            out.insert(id, owned);
        }
    }
    (out, comparison)
}

/// The comparison in another version, computed once.
fn compare_in<'a, S: Structure>(
    known: &'a mut BTreeMap<String, Option<typed::Comparison>>,
    version: &str,
    live: &Value,
    new: &Value,
    reset: &FieldSet,
    versions: Versions<'_, S>,
) -> Option<&'a typed::Comparison> {
    if !known.contains_key(version) {
        let compared = versions(live, version)
            .zip(versions(new, version))
            .map(|((live, schema), (new, _))| typed::compare(&schema, &live, &new).without(reset));
        known.insert(version.to_owned(), compared);
    }
    known.get(version).and_then(Option::as_ref)
}

/// What other managers own of what an apply changes.
pub(crate) fn conflicts<S: Structure>(
    schema: &S,
    live: &Value,
    new: &Value,
    managers: &Managers,
    own: &ManagerId,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) -> Vec<(ManagerId, FieldSet)> {
    let reset = FieldSet::of_fields(write.reset);
    let mut by_version = BTreeMap::from([(
        write.api_version.to_owned(),
        Some(typed::compare(schema, live, new).without(&reset)),
    )]);
    let mut out = Vec::new();
    for (id, owned) in managers.iter().filter(|(id, _)| *id != own) {
        let changes = compare_in(
            &mut by_version,
            &owned.api_version,
            live,
            new,
            &reset,
            versions,
        );
        if let Some(changes) = changes {
            let set = owned
                .fields
                .intersection(&changes.modified.union(&changes.added));
            if !set.is_empty() {
                out.push((id.clone(), set));
            }
        }
    }
    out
}

/// [`disown`] for an apply that is allowed to take over.
pub(crate) fn take_over<S: Structure>(
    schema: &S,
    live: &Value,
    new: &Value,
    managers: Managers,
    own: &ManagerId,
    write: &Write<'_>,
    versions: Versions<'_, S>,
) -> Managers {
    let reset = FieldSet::of_fields(write.reset);
    let mut managers = disown(
        schema,
        live,
        new,
        managers,
        Some(own),
        write,
        &reset,
        versions,
    )
    .0;
    managers.retain(|_, owned| !owned.fields.is_empty());
    managers
}

/// Folds the oldest managers by update into one for each version.
fn cap(mut managers: Managers) -> Managers {
    let mut updaters: Vec<(String, ManagerId)> = managers
        .iter()
        .filter(|(id, _)| !id.applied)
        .map(|(id, owned)| (owned.time.clone().unwrap_or_default(), id.clone()))
        .collect();
    let mut count = updaters.len();
    updaters.sort();
    let mut first: BTreeMap<String, ManagerId> = BTreeMap::new();
    for (_, id) in updaters {
        if count <= UPDATE_MANAGERS_MAX {
            break;
        }
        let version = id.api_version.clone();
        let Some(oldest) = first.get(&version).cloned() else {
            first.insert(version, id);
            continue;
        };
        let bucket = ManagerId {
            manager: ANCIENT.to_owned(),
            applied: false,
            api_version: version,
            subresource: String::new(),
        };
        if !managers.contains_key(&bucket)
            && let Some(owned) = managers.remove(&oldest)
        {
            managers.insert(bucket.clone(), owned);
        }
        if let Some(owned) = managers.remove(&id) {
            let old = managers.entry(bucket).or_default();
            old.fields = old.fields.union(&owned.fields);
            old.api_version = owned.api_version;
            old.time = owned.time;
            count -= 1;
        }
    }
    managers
}

/// Gives entries their old times back if the write changed nothing else, so
/// that a write without effect changes nothing at all.
pub fn ignore_timestamps(new: &mut Value, old: &Value) {
    let untimed = |object: &Value| {
        let mut object = object.clone();
        if let Some(entries) = object["metadata"]["managedFields"].as_array_mut() {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.remove("time");
            }
        }
        object
    };
    let old_entries = &old["metadata"]["managedFields"];
    if new["metadata"]["managedFields"] != *old_entries && untimed(new) == untimed(old) {
        meta::metadata_mut(new).insert("managedFields".into(), old_entries.clone());
    }
}

/// The value of `metadata.managedFields` that clears all entries.
pub fn cleared() -> Value {
    json!([{}])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::typed::Shape;
    use super::*;

    /// `metadata.labels`, `spec.replicas`, `spec.containers` keyed by name.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Node {
        Root,
        Struct,
        Containers,
        Any,
    }

    impl Structure for Node {
        fn shape(&self, value: &Value) -> Shape {
            match (self, value) {
                (Self::Containers, _) => Shape::Keyed(vec!["name".to_owned()]),
                (Self::Root | Self::Struct, _) => Shape::Map,
                (Self::Any, Value::Object(_)) => Shape::Map,
                (Self::Any, _) => Shape::Leaf,
            }
        }

        fn field(&self, name: &str) -> (Self, bool) {
            match (self, name) {
                (Self::Root, _) => (Self::Struct, true),
                (Self::Struct, "containers") => (Self::Containers, true),
                (Self::Struct, _) => (Self::Any, true),
                _ => (Self::Any, false),
            }
        }

        fn item(&self) -> Self {
            Self::Struct
        }

        fn key_default(&self, _name: &str) -> Option<Value> {
            None
        }

        fn zero(&self) -> Value {
            json!({"metadata": {}, "spec": {"containers": null}})
        }
    }

    fn write(manager: &str) -> Write<'_> {
        Write {
            api_version: "v1",
            manager,
            subresource: "",
            now: "2026-01-01T00:00:00Z",
            reset: &[&["status"]],
        }
    }

    fn same(value: &Value, _version: &str) -> Option<(Value, Node)> {
        Some((value.clone(), Node::Root))
    }

    fn object() -> Value {
        json!({
            "apiVersion": "v1",
            "metadata": {"name": "x", "labels": {"app": "t"}},
            "spec": {"containers": [{"name": "a", "image": "i"}], "replicas": 1},
            "status": {"n": 1},
        })
    }

    #[test]
    fn create_owns_what_it_sets() {
        let mut new = object();
        update(&Node::Root, None, &mut new, &write("me"), &same);
        assert_eq!(
            new["metadata"]["managedFields"],
            json!([{
                "manager": "me", "operation": "Update", "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {
                        "f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}},
                        "f:replicas": {},
                    },
                },
            }])
        );
    }

    #[test]
    fn update_takes_fields_and_noop_changes_nothing() {
        let mut first = object();
        update(&Node::Root, None, &mut first, &write("me"), &same);
        first["metadata"]["uid"] = "1".into();
        let mut second = first.clone();
        second["spec"]["replicas"] = 2.into();
        update(&Node::Root, Some(&first), &mut second, &write("you"), &same);
        let managers = decode(&second["metadata"]["managedFields"]).unwrap();
        let fields = |name: &str| {
            let (_, owned) = managers.iter().find(|(id, _)| id.manager == name).unwrap();
            owned.fields.to_value()
        };
        assert_eq!(fields("you"), json!({"f:spec": {"f:replicas": {}}}));
        assert!(fields("me")["f:spec"].get("f:replicas").is_none());

        let mut again = second.clone();
        let later = Write {
            now: "2027-01-01T00:00:00Z",
            ..write("third")
        };
        update(&Node::Root, Some(&second), &mut again, &later, &same);
        assert_eq!(again, second);
    }

    #[test]
    fn reset_and_cap() {
        let mut object = object();
        update(&Node::Root, None, &mut object, &write("me"), &same);
        object["metadata"]["uid"] = "1".into();
        for n in 0..15 {
            let mut new = object.clone();
            new["metadata"]["labels"][format!("l{n}")] = "x".into();
            let name = format!("m{n:02}");
            update(&Node::Root, Some(&object), &mut new, &write(&name), &same);
            object = new;
        }
        let managers = decode(&object["metadata"]["managedFields"]).unwrap();
        assert_eq!(managers.len(), UPDATE_MANAGERS_MAX);
        assert!(managers.keys().any(|id| id.manager == ANCIENT));

        let mut new = object.clone();
        new["metadata"]["managedFields"] = cleared();
        update(&Node::Root, Some(&object), &mut new, &write("me"), &same);
        assert!(new["metadata"]["managedFields"].is_null());
    }

    #[test]
    fn apply_merges_prunes_and_conflicts() {
        let apply = |live: Option<&Value>, config: Value, manager: &str, force: bool| {
            crate::apply::apply(&Node::Root, live, &config, force, &write(manager), &same)
        };
        let config = |extra: Value| {
            let mut out = json!({"apiVersion": "v1", "metadata": {"name": "x"}});
            out["spec"] = extra;
            out
        };
        let mut live = apply(
            None,
            config(json!({"replicas": 1, "containers": [{"name": "a", "image": "i"}]})),
            "a",
            false,
        )
        .unwrap();
        live["metadata"]["uid"] = "1".into();
        let error = apply(Some(&live), config(json!({"replicas": 2})), "b", false).unwrap_err();
        assert_eq!(
            error.message,
            "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
        );
        let forced = apply(Some(&live), config(json!({"replicas": 2})), "b", true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 2);
        // The first manager drops its container; nobody else owns it.
        let pruned = apply(Some(&forced), config(json!({})), "a", false).unwrap();
        assert_eq!(pruned["spec"]["replicas"], 2);
        assert!(pruned["spec"]["containers"].is_null());
        // Without a change nothing changes, not even the time.
        let same_again = apply(
            Some(&live),
            config(json!({"replicas": 1, "containers": [{"name": "a", "image": "i"}]})),
            "a",
            false,
        )
        .unwrap();
        assert_eq!(same_again, live);
    }
}
