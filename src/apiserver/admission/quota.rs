//! `ResourceQuota`: a write that would use more than a quota allows is refused;
//! what it uses is charged before it is stored.
//!
//! A charge is a compare-and-swap on the quota's status, so that servers that
//! share a store cannot give the last of it away twice. What was charged for a
//! write that failed afterwards is given back by the quota controller, which
//! adds up what is really there.

use std::sync::Arc;

use api::quota::{Evaluator, ResourceList, list};
use api::{GroupResource, Status};
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Operation, Plugin, Reader, Review, is_core};

/// How often a charge is tried again when somebody else charged first.
const ATTEMPTS: u32 = 16;
/// Namespaces share this many locks: charges of one namespace queue up here
/// instead of disturbing each other in the store.
const LOCKS: usize = 64;

/// Resources that quotas never count: reviews store nothing, and events go by
/// themselves.
fn is_ignored(resource: &GroupResource) -> bool {
    is_core(resource, "events")
        || matches!(
            (resource.group.as_str(), resource.resource.as_str()),
            ("events.k8s.io", "events")
                | ("", "bindings")
                | ("", "namespaces")
                | ("authorization.k8s.io" | "authentication.k8s.io", _)
        )
}

/// Where quotas are read from and charged.
#[async_trait]
pub trait Quotas: Send + Sync {
    /// The quotas of a namespace. `fresh` waits until every charge that was
    /// made before is seen.
    async fn quotas(&self, namespace: &str, fresh: bool) -> Result<Vec<Arc<Value>>, Status>;

    /// Writes what is used of a quota, unless it has changed since it was
    /// read; whether it was written.
    async fn charge(&self, quota: &Value, used: Value) -> Result<bool, Status>;
}

/// The plugin.
pub struct ResourceQuota {
    quotas: Arc<dyn Quotas>,
    locks: Vec<Mutex<()>>,
}

impl ResourceQuota {
    /// Enforces the quotas of a store.
    pub fn new(quotas: Arc<dyn Quotas>) -> Self {
        Self {
            quotas,
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
        }
    }

    fn lock(&self, namespace: &str) -> &Mutex<()> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(namespace);
        &self.locks[usize::try_from(hash % LOCKS as u64).unwrap_or(0)]
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        match operation {
            Operation::Create => subresource.is_empty() && !is_ignored(resource),
            Operation::Update => match Evaluator::of(resource) {
                Evaluator::Pods => matches!(subresource, "" | "resize"),
                Evaluator::Claims => matches!(subresource, "" | "status"),
                Evaluator::Services | Evaluator::DeviceClaims => subresource.is_empty(),
                Evaluator::Count(_) => false,
            },
            Operation::Delete | Operation::Connect => false,
        }
    }

    async fn validate(
        &self,
        review: &Review<'_>,
        _reader: &dyn Reader,
    ) -> Result<Vec<String>, Status> {
        if review.namespace.is_empty() {
            return Ok(Vec::new());
        }
        let evaluator = Evaluator::of(review.resource);
        if !evaluator.handles(review.subresource, &review.object, review.old)
            || self
                .quotas
                .quotas(review.namespace, false)
                .await?
                .is_empty()
        {
            return Ok(Vec::new());
        }
        let _queued = self.lock(review.namespace).lock().await;
        let mut charged: Vec<String> = Vec::new();
        for _ in 0..ATTEMPTS {
            let quotas = self.quotas.quotas(review.namespace, true).await?;
            let due = due(&evaluator, review, &quotas, &charged)?;
            if review.dry_run {
                return Ok(Vec::new());
            }
            let mut behind = false;
            for (quota, used) in due {
                if self.quotas.charge(&quota, list::to_value(&used)).await? {
                    charged.push(name(&quota).to_owned());
                } else {
                    behind = true;
                }
            }
            if !behind {
                return Ok(Vec::new());
            }
        }
        let resource = GroupResource {
            group: String::new(),
            resource: "resourcequotas".to_owned(),
        };
        Err(Status::conflict(
            &resource,
            "",
            "the quotas of the namespace change too fast; please try again",
        ))
    }
}

fn name(quota: &Value) -> &str {
    quota["metadata"]["name"].as_str().unwrap_or("")
}

/// The quotas a write has to be charged to, each with what is used of it then.
/// Those in `charged` are settled already.
fn due(
    evaluator: &Evaluator,
    review: &Review<'_>,
    quotas: &[Arc<Value>],
    charged: &[String],
) -> Result<Vec<(Arc<Value>, ResourceList)>, Status> {
    let object = &review.object;
    let mut concerned = Vec::new();
    for quota in quotas {
        if !evaluator.matches(quota, object) {
            continue;
        }
        let hard = list::parse(&quota["status"]["hard"]);
        let limited: Vec<&str> = hard
            .keys()
            .map(String::as_str)
            .filter(|name| evaluator.counts(name))
            .collect();
        evaluator
            .check(&limited, object)
            .map_err(|why| review.forbidden(&format!("failed quota: {}: {why}", name(quota))))?;
        let used = &quota["status"]["used"];
        if limited.iter().any(|name| used.get(name).is_none()) {
            return Err(review.forbidden(&format!(
                "status unknown for quota: {}, resources: {}",
                name(quota),
                limited.join(",")
            )));
        }
        concerned.push((quota, hard));
    }
    let now = Timestamp::now();
    let usage = evaluator.usage(object, now);
    let negative: Vec<&str> = usage
        .iter()
        .filter(|(_, amount)| amount.sign() < 0)
        .map(|(name, _)| name.as_str())
        .collect();
    if !negative.is_empty() {
        return Err(review.forbidden(&format!(
            "quota usage is negative for resource(s): {}",
            negative.join(",")
        )));
    }
    let mut due = Vec::new();
    for (quota, hard) in concerned {
        // What counted here before is paid for.
        let mut asked = match review.old {
            Some(old) if evaluator.matches(quota, old) => {
                list::growth(&usage, &evaluator.usage(old, now))
            }
            _ => usage.clone(),
        };
        asked.retain(|name, amount| hard.contains_key(name) && !amount.is_zero());
        if asked.is_empty() || charged.iter().any(|settled| settled == name(quota)) {
            continue;
        }
        let used = list::parse(&quota["status"]["used"]);
        let mut then = used.clone();
        list::add(&mut then, &asked);
        let over = |name: &String| {
            asked.contains_key(name)
                && then
                    .get(name)
                    .zip(hard.get(name))
                    .is_some_and(|(then, hard)| then > hard)
        };
        if review.subresource != "status" && hard.keys().any(over) {
            let only = |list: &ResourceList| -> ResourceList {
                list.iter()
                    .filter(|(name, _)| over(name))
                    .map(|(name, amount)| (name.clone(), amount.clone()))
                    .collect()
            };
            return Err(review.forbidden(&format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                name(quota),
                list::describe(&only(&asked)),
                list::describe(&only(&used)),
                list::describe(&only(&hard)),
            )));
        }
        due.push((quota.clone(), then));
    }
    Ok(due)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::access::User;
    use crate::admission::tests_support::Empty;
    use api::GroupVersionKind;
    use parking_lot::Mutex as Lock;
    use serde_json::json;

    /// Quotas in memory; refuses as many charges as it is told to.
    #[derive(Default)]
    struct Fake {
        quota: Lock<Value>,
        disturbed: Lock<u32>,
    }

    #[async_trait]
    impl Quotas for Fake {
        async fn quotas(&self, _: &str, _: bool) -> Result<Vec<Arc<Value>>, Status> {
            Ok(vec![Arc::new(self.quota.lock().clone())])
        }

        async fn charge(&self, _: &Value, used: Value) -> Result<bool, Status> {
            let mut disturbed = self.disturbed.lock();
            if *disturbed > 0 {
                *disturbed -= 1;
                return Ok(false);
            }
            self.quota.lock()["status"]["used"] = used;
            Ok(true)
        }
    }

    fn world(hard: Value, used: Value) -> (Arc<Fake>, ResourceQuota) {
        let fake = Arc::new(Fake::default());
        *fake.quota.lock() = json!({
            "metadata": { "name": "q", "namespace": "ns" },
            "spec": { "hard": hard },
            "status": { "hard": hard, "used": used },
        });
        (fake.clone(), ResourceQuota::new(fake))
    }

    async fn write(
        plugin: &ResourceQuota,
        plural: &str,
        object: Value,
        old: Option<&Value>,
    ) -> Result<(), String> {
        let kind = GroupVersionKind::new("", "v1", "X");
        let resource = GroupResource {
            group: String::new(),
            resource: plural.to_owned(),
        };
        let user = User::default();
        let options = json!({});
        let review = Review {
            operation: if old.is_some() {
                Operation::Update
            } else {
                Operation::Create
            },
            kind: &kind,
            resource: &resource,
            version: "v1",
            subresource: "",
            namespace: "ns",
            name: "x",
            object,
            old,
            options: &options,
            user: &user,
            dry_run: false,
        };
        plugin
            .validate(&review, &Empty)
            .await
            .map(|_| ())
            .map_err(|status| status.message)
    }

    #[tokio::test]
    async fn charges_until_nothing_is_left() {
        let (fake, plugin) = world(json!({ "secrets": "2" }), json!({ "secrets": "0" }));
        *fake.disturbed.lock() = 3;
        assert_eq!(write(&plugin, "secrets", json!({}), None).await, Ok(()));
        assert_eq!(write(&plugin, "secrets", json!({}), None).await, Ok(()));
        assert_eq!(
            write(&plugin, "secrets", json!({}), None).await,
            Err(
                "secrets \"x\" is forbidden: exceeded quota: q, requested: secrets=1, used: \
                 secrets=2, limited: secrets=2"
                    .to_owned()
            )
        );
        assert_eq!(
            fake.quota.lock()["status"]["used"],
            json!({ "secrets": "2" })
        );
        // What no quota names is free.
        assert_eq!(write(&plugin, "configmaps", json!({}), None).await, Ok(()));
    }

    #[tokio::test]
    async fn updates_pay_the_difference() {
        let hard = json!({ "services": "1", "services.nodeports": "1" });
        let (fake, plugin) = world(hard, json!({ "services": "1", "services.nodeports": "0" }));
        let plain = json!({ "spec": { "type": "ClusterIP", "ports": [{ "port": 1 }] } });
        let open = json!({ "spec": { "type": "NodePort", "ports": [{ "port": 1 }] } });
        assert_eq!(
            write(&plugin, "services", open.clone(), Some(&plain)).await,
            Ok(())
        );
        assert_eq!(
            fake.quota.lock()["status"]["used"],
            json!({ "services": "1", "services.nodeports": "1" })
        );
        assert_eq!(write(&plugin, "services", plain, Some(&open)).await, Ok(()));
    }

    #[tokio::test]
    async fn refusals() {
        let (_, plugin) = world(json!({ "limits.cpu": "1" }), json!({ "limits.cpu": "0" }));
        let pod = json!({ "spec": { "containers": [{ "name": "a" }] } });
        assert_eq!(
            write(&plugin, "pods", pod, None).await,
            Err(
                "pods \"x\" is forbidden: failed quota: q: must specify limits.cpu for: a"
                    .to_owned()
            )
        );
        let (_, plugin) = world(json!({ "pods": "1" }), Value::Null);
        assert_eq!(
            write(&plugin, "pods", json!({}), None).await,
            Err("pods \"x\" is forbidden: status unknown for quota: q, resources: pods".to_owned())
        );
    }
}
