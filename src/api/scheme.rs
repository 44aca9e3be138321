//! The built-in resources: what discovery lists, with the type of each.

use std::sync::OnceLock;

use crate::schema::{self, OwnedType, Schema, TypeRef};
use crate::{GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};

/// The table, written by `scripts/gen-schema`.
pub(crate) static TABLE: &str = include_str!("schema/builtin.txt");

/// Every built-in type and resource.
#[derive(Debug)]
pub struct Scheme {
    schema: &'static Schema,
    groups: Vec<Group>,
    resources: Vec<Resource>,
}

/// An API group with its versions, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name; empty for core.
    pub name: String,
    /// Versions, alpha and beta ones among them.
    pub versions: Vec<String>,
}

/// The verbs of a resource, a small set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verbs(u8);

/// In discovery's order.
const VERBS: [(&str, u8); 8] = [
    ("create", b'c'),
    ("delete", b'd'),
    ("deletecollection", b'x'),
    ("get", b'g'),
    ("list", b'l'),
    ("patch", b'p'),
    ("update", b'u'),
    ("watch", b'w'),
];

impl Verbs {
    /// Every verb.
    pub const ALL: Self = Self(0xff);

    /// A set of these; unknown names are left out.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |name| VERBS.iter().position(|(it, _)| *it == name);
        Self(
            names
                .into_iter()
                .filter_map(bit)
                .fold(0, |set, bit| set | 1 << bit),
        )
    }

    fn parse(letters: &str) -> Self {
        let bit = |letter| VERBS.iter().position(|(_, it)| *it == letter);
        Self(
            letters
                .bytes()
                .filter_map(bit)
                .fold(0, |set, bit| set | 1 << bit),
        )
    }

    /// Whether the verb is in it.
    pub fn contains(self, verb: &str) -> bool {
        self.iter().any(|it| it == verb)
    }

    /// The verbs, sorted by name.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        VERBS
            .iter()
            .enumerate()
            .filter(move |(bit, _)| self.0 & 1 << bit != 0)
            .map(|(_, (name, _))| *name)
    }
}

/// A resource of one group and version, built in or custom.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Kind of its objects.
    pub gvk: GroupVersionKind,
    /// Name in paths, such as `pods`.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Verbs.
    pub verbs: Verbs,
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Group and version that its objects are stored in; `None` for a resource
    /// that stores nothing, such as `bindings`.
    pub storage: Option<GroupVersion>,
    /// Type of its objects.
    pub schema: OwnedType,
    /// Whether a server without flags serves it: alpha and beta versions are off.
    pub served_by_default: bool,
}

/// A subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Name, such as `status`.
    pub name: String,
    /// Kind of what is read and written.
    pub gvk: GroupVersionKind,
    /// Verbs; `create` and `get` of a connecting one, such as `exec`.
    pub verbs: Verbs,
    /// Whether discovery shows group and version, which it does where they are
    /// not the resource's.
    pub foreign: bool,
}

impl Resource {
    /// Type of its objects.
    pub fn type_ref(&self) -> TypeRef<'_> {
        self.schema.get()
    }

    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        self.gvk.group_version()
    }

    /// Group and resource, as error messages name it.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource {
            group: self.gvk.group.clone(),
            resource: self.plural.clone(),
        }
    }

    /// Group, version and resource.
    pub fn gvr(&self) -> GroupVersionResource {
        GroupVersionResource {
            group: self.gvk.group.clone(),
            version: self.gvk.version.clone(),
            resource: self.plural.clone(),
        }
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|it| it.name == name)
    }

    /// Kind of lists of it. `None` where it cannot be listed.
    pub fn list_kind(&self) -> Option<String> {
        self.verbs
            .contains("list")
            .then(|| format!("{}List", self.gvk.kind))
    }

    /// `storageVersionHash` of discovery: eight bytes of the hash of the stored kind, base64.
    pub fn storage_version_hash(&self) -> Option<String> {
        let storage = self.storage.as_ref()?;
        let kind = GroupVersionKind::new(&*storage.group, &*storage.version, &*self.gvk.kind);
        Some(storage_version_hash(&kind))
    }
}

/// `storageVersionHash` of what is stored as this kind.
pub fn storage_version_hash(stored: &GroupVersionKind) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let text = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    let hash = sha2::Sha256::digest(text);
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

impl Scheme {
    /// The built-in scheme, read on first use.
    pub fn builtin() -> &'static Self {
        static SCHEME: OnceLock<Scheme> = OnceLock::new();
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEME.get_or_init(|| Self::parse(SCHEMA.get_or_init(|| schema::table(TABLE)), TABLE))
    }

    fn parse(schema: &'static Schema, text: &'static str) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut resources: Vec<Resource> = Vec::new();
        let tail = text.find("\nG ").map_or("", |at| &text[at + 1..]);
        for line in tail.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["G", name, versions] => groups.push(Group {
                    name: dash(name).to_owned(),
                    versions: list(versions),
                }),
                [
                    "R",
                    version,
                    plural,
                    kind,
                    singular,
                    scope,
                    verbs,
                    short,
                    categories,
                    storage,
                    foreign,
                ] => {
                    let group = groups.last().map_or("", |it| &it.name);
                    let gvk = GroupVersionKind::new(group, *version, *kind);
                    // A resource may read and write a kind of another group.
                    let own = split_gv(foreign).unwrap_or_else(|| gvk.group_version());
                    let ty = schema.kind(&own.group, &own.version, kind);
                    resources.push(Resource {
                        schema: OwnedType::builtin(ty.expect("the generator lists known kinds")),
                        gvk,
                        plural: (*plural).to_owned(),
                        singular: dash(singular).to_owned(),
                        namespaced: *scope == "n",
                        short_names: list(short),
                        categories: list(categories),
                        verbs: Verbs::parse(verbs),
                        subresources: Vec::new(),
                        storage: split_gv(storage),
                        served_by_default: !version.contains("alpha") && !version.contains("beta"),
                    });
                }
                ["U", _, name, kind, verbs, foreign, _] => {
                    let resource = resources
                        .last_mut()
                        .expect("a resource precedes its subresources");
                    let own = split_gv(foreign);
                    let foreign = own.is_some();
                    let gv = own.unwrap_or_else(|| resource.group_version());
                    resource.subresources.push(Subresource {
                        name: (*name).to_owned(),
                        gvk: GroupVersionKind::new(gv.group, gv.version, *kind),
                        verbs: Verbs::parse(verbs),
                        foreign,
                    });
                }
                _ => {}
            }
        }
        Self {
            schema,
            groups,
            resources,
        }
    }

    /// The schema of every built-in type.
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }

    /// Every built-in resource in discovery's order, those not served by default among them.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// Groups in discovery's order, the core group first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The resource served at this place.
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources
            .iter()
            .find(|it| it.plural == plural && it.gvk.version == version && it.gvk.group == group)
    }

    /// The resource whose objects are of this kind.
    pub fn resource_of_kind(&self, gvk: &GroupVersionKind) -> Option<&Resource> {
        self.resources.iter().find(|it| it.gvk == *gvk)
    }

    /// The type of a kind: of an object, a list, a review or options. The
    /// options of `meta/v1` and `WatchEvent` are known in every group and version.
    pub fn type_of(&self, gvk: &GroupVersionKind) -> Option<TypeRef<'static>> {
        let GroupVersionKind {
            group,
            version,
            kind,
        } = gvk;
        if let Some(ty) = self.schema.kind(group, version, kind) {
            return Some(ty);
        }
        const EVERYWHERE: [&str; 8] = [
            "ApplyOptions",
            "CreateOptions",
            "DeleteOptions",
            "GetOptions",
            "ListOptions",
            "PatchOptions",
            "UpdateOptions",
            "WatchEvent",
        ];
        const CORE: [&str; 5] = [
            "APIGroup",
            "APIGroupList",
            "APIResourceList",
            "APIVersions",
            "Status",
        ];
        let known = EVERYWHERE.contains(&kind.as_str())
            || (group.is_empty() && version == "v1" && CORE.contains(&kind.as_str()));
        known.then(|| self.schema.named("meta/v1", kind)).flatten()
    }

    /// Whether any kind of this group and version is known.
    pub fn knows(&self, version: &GroupVersion) -> bool {
        self.schema
            .has_group_version(&version.group, &version.version)
    }
}

fn dash(word: &str) -> &str {
    if word == "-" { "" } else { word }
}

fn list(word: &str) -> Vec<String> {
    dash(word)
        .split(',')
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `GROUP/VERSION`, the core group as `-`; `None` for a mere `-`.
fn split_gv(word: &str) -> Option<GroupVersion> {
    let (group, version) = word.rsplit_once('/')?;
    Some(GroupVersion::new(dash(group), version))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::schema::{Scalar, Shape};

    #[test]
    fn resources_carry_what_discovery_shows() {
        let scheme = Scheme::builtin();
        let pods = scheme.resource("", "v1", "pods").unwrap();
        assert_eq!(pods.gvk, GroupVersionKind::new("", "v1", "Pod"));
        assert_eq!(pods.short_names, ["po"]);
        assert!(pods.namespaced && pods.served_by_default);
        assert_eq!(pods.verbs, Verbs::ALL);
        assert_eq!(pods.storage_version_hash().unwrap(), "xPOwRZ+Yhw8=");
        let eviction = pods.subresource("eviction").unwrap();
        assert_eq!(
            eviction.gvk,
            GroupVersionKind::new("policy", "v1", "Eviction")
        );
        assert!(
            !scheme
                .resource("scheduling.k8s.io", "v1alpha2", "workloads")
                .unwrap()
                .served_by_default
        );
        assert!(scheme.resource("apps", "v1", "pods").is_none());
    }

    #[test]
    fn every_type_and_field_resolves() {
        let scheme = Scheme::builtin();
        let mut fields = 0;
        for it in scheme.schema().structs() {
            for field in it.fields() {
                field.ty().shape();
                fields += 1;
            }
        }
        assert!(fields > 4500, "{fields}");
    }

    #[test]
    fn fields_carry_merge_facts() {
        let pod = Scheme::builtin().type_of(&GroupVersionKind::new("", "v1", "PodTemplateSpec"));
        assert!(pod.is_none(), "not a kind");
        let spec = Scheme::builtin()
            .schema()
            .named("core/v1", "PodSpec")
            .unwrap();
        let containers = spec.as_struct().unwrap().field("containers").unwrap();
        assert_eq!(containers.patch_merge_key(), "name");
        assert_eq!(containers.patch_strategy(), "merge");
        assert_eq!(containers.ty().go_name(), "[]v1.Container");
        let Shape::List(container) = containers.ty().shape() else {
            panic!()
        };
        let ports = container.as_struct().unwrap().field("ports").unwrap();
        assert_eq!(
            ports.list_attrs().unwrap().keys,
            ["containerPort", "protocol"]
        );
        let probe = Scheme::builtin()
            .schema()
            .named("core/v1", "Probe")
            .unwrap();
        let exec = probe.as_struct().unwrap().field("exec").unwrap();
        assert_eq!(
            (exec.embeds().next(), exec.number()),
            (Some(("ProbeHandler", 1)), 1)
        );
        let policy = container
            .as_struct()
            .unwrap()
            .field("imagePullPolicy")
            .unwrap();
        assert!(matches!(policy.ty().shape(), Shape::Scalar(Scalar::String)));
        assert_eq!(policy.ty().go_name(), "v1.PullPolicy");
    }
}
