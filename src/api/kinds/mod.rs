//! What is truly per kind: defaults beyond the table, strategy, validation,
//! selectable fields and table columns. One file for each kind or family.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::meta::{self, NameRule};
use crate::{FieldError, GroupKind, Path};

pub mod convert;
pub mod plan;
pub mod table;
mod value;

mod admission;
mod apiextensions;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod columns;
mod config;
mod core;
mod discovery;
mod dynamic;
mod event;
mod flowcontrol;
mod networking;
mod node;
mod pod;
mod pod_defaults;
mod pod_table;
mod policy;
mod rbac;
mod service;
mod storage;
mod validate;
mod volume;

pub use convert::convert;
pub use plan::Plan;

pub(crate) use pod::qos_class;

/// What a strategy or validation may look at beside the object.
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    /// Version the request speaks, such as `v1`.
    pub version: &'a str,
    /// Subresource written, such as `status`; empty for the object itself.
    pub subresource: &'a str,
    /// Who writes: user name.
    pub user: &'a str,
    /// Who writes: groups.
    pub groups: &'a [String],
    /// Who writes: uid.
    pub user_uid: &'a str,
    /// Who writes: `extra`, as `CertificateSigningRequest` carries it.
    pub extra: Option<&'a BTreeMap<String, Vec<String>>>,
    /// Now, as `metav1.Time`.
    pub now: &'a str,
}

/// A column of a `meta.k8s.io` Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`, …
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// The rules of one kind. Every method has the rule of a plain kind as its default.
///
/// Order on create: table defaults, [`Kind::default`], `managedFields`
/// ([`crate::managed::update`] with [`Kind::reset_fields`]), mutating
/// admission, [`Kind::prepare_create`], [`validate_create`]. On update: table
/// defaults, [`Kind::default`], `managedFields`, admission,
/// [`meta::restore_generation`], [`Kind::prepare_update`],
/// [`meta::prepare_update`], [`validate_update`].
pub trait Kind: Sync {
    /// The form of its objects' names.
    fn name_rule(&self) -> NameRule {
        NameRule::Subdomain
    }

    /// Whether finalizers must be standard ones or have a domain.
    fn judges_finalizers(&self) -> bool {
        true
    }

    /// How status and generation behave.
    fn plan(&self) -> Plan {
        Plan::PLAIN
    }

    /// Defaults that the schema table cannot express. Also run on objects read
    /// from a patch or apply.
    fn default(&self, _object: &mut Value) {}

    /// Drops what a client may not set on create (`status`), sets generation.
    fn prepare_create(&self, object: &mut Value, _context: &Context<'_>) {
        self.plan().create(object);
    }

    /// Keeps what a client may not change (status by spec writes, spec by
    /// status writes), raises generation.
    fn prepare_update(&self, new: &mut Value, old: &Value, context: &Context<'_>) {
        self.plan().update(new, old, context.subresource);
    }

    /// Fields that a write to this subresource cannot set, so that their
    /// writer does not come to own them.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        self.plan().reset_fields(subresource)
    }

    /// Everything wrong with a new object's metadata.
    fn validate_metadata(&self, object: &Value, namespaced: bool) -> Vec<FieldError> {
        let path = Path::new("metadata");
        let mut errors = meta::validate(&object["metadata"], namespaced, self.name_rule(), &path);
        if self.judges_finalizers() {
            errors.extend(validate::finalizers(object));
        }
        errors
    }

    /// Everything wrong with a new object beside its metadata, in upstream's order.
    fn validate_create(&self, _object: &Value, _context: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    /// Everything wrong with a change beside its metadata, in upstream's order.
    fn validate_update(&self, new: &Value, _old: &Value, context: &Context<'_>) -> Vec<FieldError> {
        if context.subresource.is_empty() {
            self.validate_create(new, context)
        } else {
            Vec::new()
        }
    }

    /// `Warning:` headers for a write.
    fn warnings(&self, _new: &Value, _old: Option<&Value>, _context: &Context<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Fields beside `metadata.name` and `metadata.namespace` that field
    /// selectors may name, each with its value in this object.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Fields as those of [`Kind::selectable_fields`] that a definition names,
    /// not the program.
    fn declared_fields(&self, _object: &Value) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Whether a request may select by this field.
    fn selects_by(&self, field: &str) -> bool {
        self.selectable_fields(&Value::Null)
            .iter()
            .any(|(name, _)| *name == field)
    }

    /// What is said of a field that no field selector may name, if the kind
    /// has selectable fields of its own.
    fn unknown_field(&self, field: &str) -> String {
        format!("field label not supported: {field}")
    }

    /// Drops what a row's `metadata` does not show.
    fn row_metadata(&self, _metadata: &mut Value) {}

    /// Columns of its table.
    fn columns(&self) -> &'static [Column] {
        table::PLAIN
    }

    /// The cells of its row; `now` is seconds since the Unix epoch, for ages.
    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        table::plain_cells(object, now)
    }

    /// `conditions` of its row, such as `Completed` of a pod that is done.
    fn row_conditions(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }
}

/// The rules of a built-in kind; those of a plain kind if it has none of its own.
pub fn of(kind: &GroupKind) -> &'static dyn Kind {
    struct Plain;
    impl Kind for Plain {}
    let name = &*kind.kind;
    let found = match &*kind.group {
        "" => core::of(name),
        "apiextensions.k8s.io" => apiextensions::of(name),
        "apps" => apps::of(name),
        "batch" => batch::of(name),
        "autoscaling" => autoscaling::of(name),
        "policy" => policy::of(name),
        "networking.k8s.io" => networking::of(name),
        "discovery.k8s.io" => discovery::of(name),
        "events.k8s.io" => event::of(name),
        "rbac.authorization.k8s.io" => rbac::of(name),
        "storage.k8s.io" => storage::of(name),
        "certificates.k8s.io" => certificates::of(name),
        "admissionregistration.k8s.io" => admission::of(name),
        "flowcontrol.apiserver.k8s.io" => flowcontrol::of(name),
        "resource.k8s.io" => dynamic::of(name),
        "coordination.k8s.io" | "node.k8s.io" | "scheduling.k8s.io" | "apiregistration.k8s.io" => {
            config::of(name)
        }
        _ => None,
    };
    found.unwrap_or(&Plain)
}

/// The kind that errors of validation name: events of both groups are the core one.
pub fn error_kind(kind: &GroupKind) -> GroupKind {
    if kind.kind == "Event" {
        GroupKind {
            group: String::new(),
            kind: kind.kind.clone(),
        }
    } else {
        kind.clone()
    }
}

/// Everything wrong with a new object: its metadata by the kind's name rule,
/// then the kind's own rules; what could not be part of a URL only if all else
/// is well.
pub fn validate_create(
    kind: &dyn Kind,
    object: &Value,
    namespaced: bool,
    context: &Context<'_>,
) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let metadata = &object["metadata"];
    let mut errors = kind.validate_metadata(object, namespaced);
    errors.extend(kind.validate_create(object, context));
    if errors.is_empty() {
        errors = meta::validate(metadata, namespaced, NameRule::PathSegment, &path);
    }
    errors
}

/// Everything wrong with a change. Metadata is judged twice, once for every
/// kind and once by the kind's strategy, and both say so, as upstream's do.
pub fn validate_update(
    kind: &dyn Kind,
    new: &Value,
    old: &Value,
    namespaced: bool,
    context: &Context<'_>,
) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let (new_meta, old_meta) = (&new["metadata"], &old["metadata"]);
    let mut errors = meta::validate(new_meta, namespaced, NameRule::PathSegment, &path);
    errors.extend(meta::validate_update(new_meta, old_meta, &path));
    errors.extend(meta::validate_update(new_meta, old_meta, &path));
    errors.extend(kind.validate_update(new, old, context));
    errors
}
