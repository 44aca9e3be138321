//! Sets of field paths, as `FieldsV1` holds them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// One step of a path in its wire form: `f:name`, `k:{"name":"a"}`, `v:"x"` or `i:0`.
pub type Element = String;

/// Field paths as a tree. A path is in the set if its last step is a member of
/// the node its other steps lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, FieldSet>,
}

impl FieldSet {
    /// Parses `fieldsV1`. What is no known step is dropped.
    pub fn from_value(value: &Value) -> Self {
        let mut set = Self::default();
        for (key, child) in value.as_object().into_iter().flatten() {
            if key == "." || !matches!(key.get(..2), Some("f:" | "k:" | "v:" | "i:")) {
                continue;
            }
            let nested = Self::from_value(child);
            let own = child.get(".").is_some();
            if own || nested.is_empty() {
                set.members.insert(key.clone());
            }
            if !nested.is_empty() {
                set.children.insert(key.clone(), nested);
            }
        }
        set
    }

    /// The wire form.
    pub fn to_value(&self) -> Value {
        Value::Object(self.to_map())
    }

    fn to_map(&self) -> Map<String, Value> {
        let mut out = Map::new();
        for member in &self.members {
            if !self.children.contains_key(member) {
                out.insert(member.clone(), Value::Object(Map::new()));
            }
        }
        for (element, child) in &self.children {
            let mut map = Map::new();
            if self.members.contains(element) {
                map.insert(".".into(), Value::Object(Map::new()));
            }
            map.extend(child.to_map());
            out.insert(element.clone(), Value::Object(map));
        }
        out
    }

    /// Whether no path is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Whether there is nothing in it at all, not even an empty branch.
    pub(crate) fn is_bare(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    /// Adds a path. The empty path is never in a set.
    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// A set of these paths of field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let path: Vec<Element> = path.iter().map(|name| format!("f:{name}")).collect();
            set.insert(&path);
        }
        set
    }

    /// Whether the path of this one step is in it.
    pub fn has(&self, element: &str) -> bool {
        self.members.contains(element)
    }

    /// The paths below a step.
    pub fn below(&self, element: &str) -> Option<&Self> {
        self.children.get(element).filter(|set| !set.is_empty())
    }

    /// Steps that paths of it go through.
    pub fn children(&self) -> impl Iterator<Item = (&Element, &Self)> {
        self.children.iter()
    }

    /// Paths in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.is_bare() {
            return other.clone();
        }
        let mut out = self.clone();
        out.members.extend(other.members.iter().cloned());
        for (element, child) in &other.children {
            let own = out.children.entry(element.clone()).or_default();
            *own = own.union(child);
        }
        out
    }

    /// Paths in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.pruned(
            self.members.intersection(&other.members).cloned().collect(),
            |element, child| match other.children.get(element) {
                Some(theirs) => child.intersection(theirs),
                None => Self::default(),
            },
        )
    }

    /// Paths of this that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.pruned(
            self.members.difference(&other.members).cloned().collect(),
            |element, child| match other.children.get(element) {
                Some(theirs) => child.difference(theirs),
                None => child.clone(),
            },
        )
    }

    /// Paths of this that are neither in the other nor below a path of it.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        if other.is_bare() {
            return self.clone();
        }
        self.pruned(
            self.members.difference(&other.members).cloned().collect(),
            |element, child| {
                if other.members.contains(element) {
                    return Self::default();
                }
                match other.children.get(element) {
                    Some(theirs) => child.recursive_difference(theirs),
                    None => child.clone(),
                }
            },
        )
    }

    fn pruned(&self, members: BTreeSet<Element>, f: impl Fn(&Element, &Self) -> Self) -> Self {
        let children = self
            .children
            .iter()
            .map(|(element, child)| (element.clone(), f(element, child)))
            .filter(|(_, child)| !child.is_empty())
            .collect();
        Self { members, children }
    }

    /// Adds a step as a member; used to build sets node by node.
    pub(crate) fn add_member(&mut self, element: &str) {
        self.members.insert(element.to_owned());
    }

    /// Replaces the paths below a step.
    pub(crate) fn set_below(&mut self, element: &str, set: Self) {
        if !set.is_empty() {
            self.children.insert(element.to_owned(), set);
        }
    }

    /// Every path, members of a node before what is below it.
    pub fn paths(&self) -> Vec<Vec<Element>> {
        let mut out = Vec::new();
        self.collect(&mut Vec::new(), &mut out);
        out
    }

    fn collect(&self, at: &mut Vec<Element>, out: &mut Vec<Vec<Element>>) {
        for member in &self.members {
            let mut path = at.clone();
            path.push(member.clone());
            out.push(path);
        }
        for (element, child) in &self.children {
            at.push(element.clone());
            child.collect(at, out);
            at.pop();
        }
    }
}

/// A path as conflicts print it: `.spec.containers[name="a"].image`.
pub fn display(path: &[Element]) -> String {
    let mut out = String::new();
    for element in path {
        let (kind, rest) = element.split_at(2);
        match kind {
            "f:" => {
                out.push('.');
                out.push_str(rest);
            }
            "k:" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let keys: Vec<String> = keys
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                out.push_str(&format!("[{}]", keys.join(",")));
            }
            "v:" => out.push_str(&format!("[={rest}]")),
            _ => out.push_str(&format!("[{rest}]")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn wire_form() {
        let value = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}},
        });
        let set = FieldSet::from_value(&value);
        assert_eq!(set.to_value(), value);
        assert_eq!(
            set.paths()
                .iter()
                .map(|path| display(path))
                .collect::<Vec<_>>(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"a\"]",
                ".spec.containers[name=\"a\"].image",
            ]
        );
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        proptest::collection::vec(proptest::collection::vec("f:[ab]", 1..4), 0..6).prop_map(
            |paths| {
                let mut set = FieldSet::default();
                for path in paths {
                    set.insert(&path);
                }
                set
            },
        )
    }

    proptest! {
        #[test]
        fn algebra(a in any_set(), b in any_set()) {
            prop_assert_eq!(FieldSet::from_value(&a.to_value()), a.clone());
            prop_assert_eq!(a.union(&b), b.union(&a));
            let parts = a.difference(&b).union(&a.intersection(&b));
            prop_assert_eq!(parts.to_value(), a.to_value());
            prop_assert!(a.difference(&a).is_empty());
        }
    }
}
