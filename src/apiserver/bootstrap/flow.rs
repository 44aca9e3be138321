//! Priority levels and flow schemas: upstream's mandatory and suggested ones.

use serde_json::{Value, json};

const ANNOTATION: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares of the server's capacity, how much of it may be lent in
/// percent, and queues, hand size and queue length; without these a request
/// over the limit is refused.
type Level = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
];

/// Every priority level.
pub(super) fn levels() -> Vec<Value> {
    let object = |name: &str, spec: Value| {
        json!({
            "metadata": { "name": name, "annotations": { ANNOTATION: "true" } },
            "spec": spec,
        })
    };
    let mut levels = vec![object(
        "exempt",
        json!({
            "type": "Exempt",
            "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 },
        }),
    )];
    levels.extend(LEVELS.map(|(name, shares, lendable, queuing)| {
        let response = match queuing {
            None => json!({ "type": "Reject" }),
            Some((queues, hand, length)) => json!({
                "type": "Queue",
                "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": length },
            }),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": response,
        });
        object(name, json!({ "type": "Limited", "limited": limited }))
    }));
    levels
}

fn groups(names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .map(|name| json!({ "kind": "Group", "group": { "name": name } }))
        .collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .map(|name| json!({ "kind": "User", "user": { "name": name } }))
        .collect()
}

/// Every service account of `kube-system`.
fn system_accounts() -> Value {
    json!({
        "kind": "ServiceAccount",
        "serviceAccount": { "name": "*", "namespace": "kube-system" },
    })
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs,
        "apiGroups": [group],
        "resources": resources,
        "namespaces": ["*"],
    });
    if cluster_scope {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Whatever somebody asks for.
fn everything(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
    })
}

/// Every flow schema.
pub(super) fn schemas() -> Vec<Value> {
    const EVERYONE: [&str; 2] = ["system:unauthenticated", "system:authenticated"];
    const BY_USER: &str = "ByUser";
    const BY_NAMESPACE: &str = "ByNamespace";
    let mut leaders = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    leaders.push(system_accounts());
    let probes = json!({
        "subjects": groups(&EVERYONE),
        "nonResourceRules": [{
            "verbs": ["get"],
            "nonResourceURLs": ["/healthz", "/readyz", "/livez"],
        }],
    });
    let leases = json!({
        "subjects": leaders,
        "resourceRules": [
            resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false),
        ],
    });
    let health = json!({
        "subjects": groups(&["system:nodes"]),
        "resourceRules": [
            resources(&["*"], "", &["nodes", "nodes/status"], true),
            resources(&["*"], "coordination.k8s.io", &["leases"], false),
        ],
    });
    let schemas = [
        (
            "exempt",
            "exempt",
            1,
            "",
            everything(groups(&["system:masters"])),
        ),
        ("probes", "exempt", 2, "", probes),
        (
            "system-leader-election",
            "leader-election",
            100,
            BY_USER,
            leases,
        ),
        ("system-node-high", "node-high", 400, BY_USER, health),
        (
            "system-nodes",
            "system",
            500,
            BY_USER,
            everything(groups(&["system:nodes"])),
        ),
        (
            "kube-controller-manager",
            "workload-high",
            800,
            BY_NAMESPACE,
            everything(users(&["system:kube-controller-manager"])),
        ),
        (
            "kube-scheduler",
            "workload-high",
            800,
            BY_NAMESPACE,
            everything(users(&["system:kube-scheduler"])),
        ),
        (
            "kube-system-service-accounts",
            "workload-high",
            900,
            BY_NAMESPACE,
            everything(vec![system_accounts()]),
        ),
        (
            "service-accounts",
            "workload-low",
            9000,
            BY_USER,
            everything(groups(&["system:serviceaccounts"])),
        ),
        (
            "global-default",
            "global-default",
            9900,
            BY_USER,
            everything(groups(&EVERYONE)),
        ),
        (
            "catch-all",
            "catch-all",
            10000,
            BY_USER,
            everything(groups(&EVERYONE)),
        ),
    ];
    schemas
        .into_iter()
        .map(|(name, level, precedence, distinguisher, rule)| {
            let mut spec = json!({
                "priorityLevelConfiguration": { "name": level },
                "matchingPrecedence": precedence,
                "rules": [rule],
            });
            if !distinguisher.is_empty() {
                spec["distinguisherMethod"] = json!({ "type": distinguisher });
            }
            json!({
                "metadata": { "name": name, "annotations": { ANNOTATION: "true" } },
                "spec": spec,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_has_its_level() {
        let levels = levels();
        assert_eq!(levels.len(), 8);
        for schema in schemas() {
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(
                levels
                    .iter()
                    .any(|known| known["metadata"]["name"] == *level),
                "{schema}"
            );
        }
    }
}
