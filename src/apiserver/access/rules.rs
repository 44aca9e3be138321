//! RBAC rules: what a `PolicyRule` allows, and when one set of rules covers another.
//!
//! Pure; [`super::rbac`] finds the rules that apply to a user.

use serde_json::{Value, json};

use super::Attributes;

/// `rbac.authorization.k8s.io/v1 PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs; `*` is every verb.
    pub verbs: Vec<String>,
    /// API groups; empty string is core, `*` is every group.
    pub api_groups: Vec<String>,
    /// Resources, `resource/subresource`, `*` or `*/subresource`.
    pub resources: Vec<String>,
    /// Object names; none is every name.
    pub resource_names: Vec<String>,
    /// URL paths, `*` at the end matches what follows.
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// A rule object as it is stored; fields of another type count as absent.
    pub fn parse(rule: &Value) -> Self {
        let list = |name: &str| {
            rule[name]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|item| item.as_str().map(str::to_owned))
                .collect()
        };
        Self {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }

    /// The rule as an object.
    pub fn to_value(&self) -> Value {
        let mut object = json!({ "verbs": self.verbs });
        for (name, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                object[name] = json!(list);
            }
        }
        object
    }

    /// Whether this rule allows the request.
    pub fn allows(&self, request: &Attributes<'_>) -> bool {
        if !has(&self.verbs, request.verb) {
            return false;
        }
        if !request.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|url| path_matches(url, request.path));
        }
        has(&self.api_groups, request.group)
            && self
                .resources
                .iter()
                .any(|resource| resource_matches(resource, request.resource, request.subresource))
            && (self.resource_names.is_empty()
                || self.resource_names.iter().any(|name| name == request.name))
    }

    /// The parts this rule is made of: each with one verb, one group, one
    /// resource and at most one name, or one verb and one path.
    fn parts(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                parts.push(Self {
                    verbs: one(verb),
                    non_resource_urls: one(url),
                    ..Self::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let part = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part.clone());
                    }
                    for name in &self.resource_names {
                        parts.push(Self {
                            resource_names: one(name),
                            ..part.clone()
                        });
                    }
                }
            }
        }
        parts
    }

    /// Whether this rule allows all of a part from [`Rule::parts`].
    fn covers_part(&self, part: &Self) -> bool {
        let covered = |own: &[String], wanted: &[String]| {
            own.iter().any(|item| item == "*") || wanted.iter().all(|item| own.contains(item))
        };
        if !covered(&self.verbs, &part.verbs) {
            return false;
        }
        if let [url] = part.non_resource_urls.as_slice() {
            return self
                .non_resource_urls
                .iter()
                .any(|own| path_matches(own, url));
        }
        covered(&self.api_groups, &part.api_groups)
            && part.resources.iter().all(|wanted| {
                let (resource, subresource) = wanted.split_once('/').unwrap_or((wanted, ""));
                self.resources
                    .iter()
                    .any(|own| own == wanted || resource_matches(own, resource, subresource))
            })
            && (self.resource_names.is_empty()
                || (!part.resource_names.is_empty()
                    && part
                        .resource_names
                        .iter()
                        .all(|name| self.resource_names.contains(name))))
    }
}

/// The parts of `wanted` that `owned` does not cover: what a user would gain.
/// Empty means that granting `wanted` is no escalation.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::parts)
        .filter(|part| !owned.iter().any(|rule| rule.covers_part(part)))
        .collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((own, sub)) => own == resource && sub == subresource,
    }
}

fn path_matches(rule: &str, path: &str) -> bool {
    rule == "*"
        || rule == path
        || rule
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Rule {
            verbs: owned(verbs),
            api_groups: owned(groups),
            resources: owned(resources),
            resource_names: owned(names),
            non_resource_urls: Vec::new(),
        }
    }

    #[test]
    fn resources() {
        let get = |resource, subresource, name| Attributes {
            verb: "get",
            resource,
            subresource,
            name,
            is_resource: true,
            ..Attributes::default()
        };
        for (resources, names, request, allowed) in [
            (&["pods"][..], &[][..], get("pods", "", "a"), true),
            (&["pods"], &[], get("pods", "log", "a"), false),
            (&["pods/log"], &[], get("pods", "log", "a"), true),
            (&["pods/*"], &[], get("pods", "log", "a"), false),
            (&["*/log"], &[], get("pods", "log", "a"), true),
            (&["*"], &[], get("pods", "log", "a"), true),
            (&["pods"], &["b"], get("pods", "", "a"), false),
            (&["pods"], &["a"], get("pods", "", "a"), true),
            (&["pods"], &["a"], get("pods", "", ""), false),
        ] {
            let rule = rule(&["get"], &[""], resources, names);
            assert_eq!(
                rule.allows(&request),
                allowed,
                "{resources:?} {names:?} {request:?}"
            );
        }
    }

    #[test]
    fn paths() {
        for (url, path, allowed) in [
            ("/healthz", "/healthz", true),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz/*", "/healthz", false),
            ("*", "/metrics", true),
        ] {
            let rule = Rule {
                verbs: vec!["get".into()],
                non_resource_urls: vec![url.into()],
                ..Rule::default()
            };
            let request = Attributes {
                verb: "get",
                path,
                ..Attributes::default()
            };
            assert_eq!(rule.allows(&request), allowed, "{url} {path}");
        }
    }

    #[test]
    fn escalation_is_what_nobody_covers() {
        let owned = [
            rule(&["get", "list"], &[""], &["pods"], &[]),
            rule(&["*"], &["apps"], &["*"], &[]),
        ];
        assert_eq!(
            uncovered(&owned, &[rule(&["get"], &[""], &["pods"], &["a"])]),
            []
        );
        assert_eq!(
            uncovered(
                &owned,
                &[rule(&["watch"], &["apps"], &["deployments/scale"], &[])]
            ),
            []
        );
        let gained = uncovered(&owned, &[rule(&["get", "delete"], &[""], &["pods"], &[])]);
        assert_eq!(gained, [rule(&["delete"], &[""], &["pods"], &[])]);
        let named = [rule(&["get"], &[""], &["pods"], &["a"])];
        assert_eq!(
            uncovered(&named, &[rule(&["get"], &[""], &["pods"], &[])]).len(),
            1
        );
    }
}
