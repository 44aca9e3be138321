//! Facts about how each resource is written and deleted: upstream's strategies
//! as data. What is not listed behaves as most resources do.

/// `rest.GarbageCollectionPolicy` for a delete that names none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dependents {
    #[default]
    Delete,
    Orphan,
    /// No garbage collection: finalizers for it are never set.
    Unsupported,
}

/// How one resource deviates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strategy {
    /// A PUT to a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update must carry a resource version.
    pub must_be_conditional: bool,
    /// Delete answers with the object instead of a `Status`.
    pub returns_deleted: bool,
    pub dependents: Dependents,
}

const CREATE_ON_UPDATE: &[&str] = &[
    "runtimeclasses.node.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "leases.coordination.k8s.io",
    "leasecandidates.coordination.k8s.io",
    "limitranges",
    "events",
    "events.events.k8s.io",
    "services",
    "endpoints",
];

const MUST_BE_CONDITIONAL: &[&str] = &[
    "podcertificaterequests.certificates.k8s.io",
    "clustertrustbundles.certificates.k8s.io",
    "runtimeclasses.node.k8s.io",
    "storageversionmigrations.storagemigration.k8s.io",
    "poddisruptionbudgets.policy",
    "storageversions.internal.apiserver.k8s.io",
    "csidrivers.storage.k8s.io",
    "csistoragecapacities.storage.k8s.io",
    "volumeattachments.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "leases.coordination.k8s.io",
    "leasecandidates.coordination.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "customresourcedefinitions.apiextensions.k8s.io",
    "apiservices.apiregistration.k8s.io",
];

const RETURNS_DELETED: &[&str] = &[
    "resourceclaimtemplates.resource.k8s.io",
    "resourceslices.resource.k8s.io",
    "resourceclaims.resource.k8s.io",
    "deviceclasses.resource.k8s.io",
    "devicetaintrules.resource.k8s.io",
    "csidrivers.storage.k8s.io",
    "storageclasses.storage.k8s.io",
    "volumeattachments.storage.k8s.io",
    "csinodes.storage.k8s.io",
    "volumeattributesclasses.storage.k8s.io",
    "resourcequotas",
    "persistentvolumes",
    "serviceaccounts",
    "persistentvolumeclaims",
    "namespaces",
    "pods",
    "services",
    "podtemplates",
];

/// The strategy of a resource, named as [`api::GroupResource`] prints it.
pub(crate) fn of(resource: &str) -> Strategy {
    Strategy {
        create_on_update: CREATE_ON_UPDATE.contains(&resource),
        must_be_conditional: MUST_BE_CONDITIONAL.contains(&resource),
        returns_deleted: RETURNS_DELETED.contains(&resource),
        dependents: match resource {
            "events" => Dependents::Unsupported,
            "replicationcontrollers" | "jobs.batch" => Dependents::Orphan,
            _ => Dependents::Delete,
        },
    }
}
