//! Which rules hold at a level and version, and what a pod violates of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, Standard, Version};
use super::{baseline, restricted};

/// What is wrong: the reason, and the detail that upstream puts in brackets.
pub(super) type Violation = (String, String);

/// A rule; `None` if the pod (or template of pods) keeps it.
type Rule = fn(&Value) -> Option<Violation>;

/// A rule and the first minor release whose rules it is among.
type Since = (u64, Rule);

/// A rule by its upstream id, in the forms it had over time. The last form
/// whose release is not newer than the one asked for counts.
struct Check {
    id: &'static str,
    forms: &'static [Since],
}

/// In order of their ids, which is the order of messages.
const BASELINE: &[Check] = &[
    Check {
        id: "appArmorProfile",
        forms: &[(0, baseline::app_armor)],
    },
    Check {
        id: "capabilities_baseline",
        forms: &[(0, baseline::capabilities)],
    },
    Check {
        id: "hostNamespaces",
        forms: &[(0, baseline::host_namespaces)],
    },
    Check {
        id: "hostPathVolumes",
        forms: &[(0, baseline::host_paths)],
    },
    Check {
        id: "hostPorts",
        forms: &[(0, baseline::host_ports)],
    },
    Check {
        id: "hostProbesAndHostLifecycle",
        forms: &[(34, baseline::probe_hosts)],
    },
    Check {
        id: "privileged",
        forms: &[(0, baseline::privileged)],
    },
    Check {
        id: "procMount",
        forms: &[(0, baseline::proc_mount), (35, baseline::proc_mount_1_35)],
    },
    Check {
        id: "seLinuxOptions",
        forms: &[(0, baseline::selinux_1_0), (31, baseline::selinux_1_31)],
    },
    Check {
        id: "seccompProfile_baseline",
        forms: &[(0, baseline::seccomp_annotations), (19, baseline::seccomp)],
    },
    Check {
        id: "sysctls",
        forms: &[
            (0, baseline::sysctls_1_0),
            (27, baseline::sysctls_1_27),
            (29, baseline::sysctls_1_29),
            (32, baseline::sysctls_1_32),
        ],
    },
    Check {
        id: "windowsHostProcess",
        forms: &[(0, baseline::windows_host_process)],
    },
];

const RESTRICTED: &[Check] = &[
    Check {
        id: "allowPrivilegeEscalation",
        forms: &[
            (8, restricted::privilege_escalation),
            (25, restricted::privilege_escalation_1_25),
        ],
    },
    Check {
        id: "capabilities_restricted",
        forms: &[
            (22, restricted::capabilities),
            (25, restricted::capabilities_1_25),
        ],
    },
    Check {
        id: "procMount_restricted",
        forms: &[(35, baseline::proc_mount)],
    },
    Check {
        id: "restrictedVolumes",
        forms: &[(0, restricted::volumes)],
    },
    Check {
        id: "runAsNonRoot",
        forms: &[
            (0, restricted::run_as_non_root),
            (35, restricted::run_as_non_root_1_35),
        ],
    },
    Check {
        id: "runAsUser",
        forms: &[
            (23, restricted::run_as_user),
            (35, restricted::run_as_user_1_35),
        ],
    },
    Check {
        id: "seccompProfile_restricted",
        forms: &[(19, restricted::seccomp), (25, restricted::seccomp_1_25)],
    },
];

/// Restricted rules that say more than the baseline rule they stand for.
const OVERRIDES: &[(&str, &str)] = &[
    ("capabilities_restricted", "capabilities_baseline"),
    ("procMount_restricted", "procMount"),
    ("restrictedVolumes", "hostPathVolumes"),
    ("seccompProfile_restricted", "seccompProfile_baseline"),
];

impl Check {
    fn at(&self, version: Version) -> Option<Rule> {
        self.forms
            .iter()
            .rev()
            .find(|(since, _)| Version::Minor(*since) <= version)
            .map(|(_, rule)| *rule)
    }
}

fn rules(standard: Standard) -> Vec<Rule> {
    let at = |check: &Check| check.at(standard.version);
    match standard.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => BASELINE.iter().filter_map(at).collect(),
        Level::Restricted => {
            let overridden = |check: &&Check| {
                OVERRIDES.iter().any(|(by, id)| {
                    *id == check.id
                        && RESTRICTED
                            .iter()
                            .any(|other| other.id == *by && at(other).is_some())
                })
            };
            let kept = BASELINE.iter().filter(|check| !overridden(check));
            kept.chain(RESTRICTED).filter_map(at).collect()
        }
    }
}

/// Everything a pod violates.
pub(super) struct Violations(Vec<Violation>);

impl Violations {
    /// `host namespaces, privileged`.
    pub(super) fn reasons(&self) -> String {
        let reasons: Vec<&str> = self.0.iter().map(|(reason, _)| reason.as_str()).collect();
        reasons.join(", ")
    }

    /// `host namespaces (hostPID=true), …`.
    pub(super) fn details(&self) -> String {
        let each: Vec<String> = self
            .0
            .iter()
            .map(|(reason, detail)| match detail.as_str() {
                "" => reason.clone(),
                detail => format!("{reason} ({detail})"),
            })
            .collect();
        each.join(", ")
    }
}

/// What a pod, or a template of pods, violates of a standard.
pub(super) fn evaluate(standard: Standard, pod: &Value) -> Option<Violations> {
    let violations: Vec<Violation> = rules(standard)
        .iter()
        .filter_map(|rule| rule(pod))
        .collect();
    (!violations.is_empty()).then_some(Violations(violations))
}

/// Every container of a pod: those that run first, the usual ones, those added later.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| pod["spec"][field].as_array().into_iter().flatten())
}

/// The names of the containers that `bad` finds.
pub(super) fn names_of(pod: &Value, mut bad: impl FnMut(&Value) -> bool) -> Vec<&str> {
    containers(pod)
        .filter(|container| bad(container))
        .map(name)
        .collect()
}

pub(super) fn name(container: &Value) -> &str {
    container["name"].as_str().unwrap_or("")
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn listed(names: &[&str]) -> String {
    format!(
        "{} {}",
        plural(names.len(), "container", "containers"),
        quoted(names)
    )
}

/// `"a", "b"`.
pub(super) fn quoted<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items
        .iter()
        .map(|item| format!("\"{}\"", item.as_ref()))
        .collect();
    items.join(", ")
}

/// The same of a set, in order.
pub(super) fn quoted_set(items: &BTreeSet<String>) -> String {
    let items: Vec<&String> = items.iter().collect();
    quoted(&items)
}

pub(super) fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

/// Whether the pod's users are nobody outside of it.
pub(super) fn has_user_namespace(pod: &Value) -> bool {
    pod["spec"]["hostUsers"] == false
}

/// `pod`, `container "a"`, or both joined by `and`: who sets something.
pub(super) fn setters(pod_too: bool, names: &[&str]) -> Option<String> {
    let mut setters = Vec::new();
    if pod_too {
        setters.push("pod".to_owned());
    }
    if !names.is_empty() {
        setters.push(listed(names));
    }
    (!setters.is_empty()).then(|| setters.join(" and "))
}
