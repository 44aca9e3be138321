//! Names of groups, versions, kinds and resources.

use std::fmt;

/// API group and version; the core group is the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersion {
    /// Group, such as `apps`; empty for core.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
}

impl GroupVersion {
    /// Both parts.
    pub fn new(group: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
        }
    }

    /// Parses `apiVersion`: `v1` or `apps/v1`. `None` with more than one slash.
    pub fn parse(api_version: &str) -> Option<Self> {
        let (group, version) = match api_version.split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", api_version),
        };
        (!version.contains('/')).then(|| Self::new(group, version))
    }
}

/// As `apiVersion` is written: `v1` or `apps/v1`.
impl fmt::Display for GroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.version)
        } else {
            write!(f, "{}/{}", self.group, self.version)
        }
    }
}

/// Group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// Group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind, such as `Pod`.
    pub kind: String,
}

impl GroupVersionKind {
    /// All three parts.
    pub fn new(
        group: impl Into<String>,
        version: impl Into<String>,
        kind: impl Into<String>,
    ) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// Group and version.
    pub fn group_version(&self) -> GroupVersion {
        GroupVersion::new(&*self.group, &*self.version)
    }
}

/// Group and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKind {
    /// Group; empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
}

/// Group, version and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionResource {
    /// Group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name, such as `pods`.
    pub resource: String,
}

/// Group and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// Group; empty for core.
    pub group: String,
    /// Plural name.
    pub resource: String,
}

/// As upstream prints it: `pods` or `deployments.apps`.
impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() {
            f.write_str(&self.resource)
        } else {
            write!(f, "{}.{}", self.resource, self.group)
        }
    }
}
