//! From one table to another, as ordered changes.

use std::collections::BTreeMap;

use super::{Base, Family, Rule, Set, Table, Value};

/// Elements in one message; keeps attributes below 64 KiB.
const ELEMENTS_AT_ONCE: usize = 256;

/// One message of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Creates the table if there is none.
    AddTable,
    /// Removes the table with all it holds.
    DeleteTable,
    /// Creates a chain.
    AddChain(String, Option<Base>),
    /// Removes an empty chain nothing leads to.
    DeleteChain(String),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Appends a rule to a chain.
    AddRule(String, Rule),
    /// Creates an empty set (its elements are not looked at).
    AddSet(String, Set),
    /// Removes a set nothing refers to.
    DeleteSet(String),
    /// Adds elements to a set.
    AddElements(String, Vec<(Vec<u8>, Option<Value>)>),
    /// Removes elements from a set.
    DeleteElements(String, Vec<Vec<u8>>),
}

/// The changes that turn `from` into `to`; without `from`, whatever table of
/// that name exists is replaced as a whole. Empty if nothing differs.
///
/// The order keeps every reference valid: what is referred to is made first
/// and removed last.
pub fn plan(from: Option<&Table>, to: &Table) -> Vec<Change> {
    let Some(from) = from.filter(|from| same_shape(from, to)) else {
        let mut changes = vec![Change::AddTable, Change::DeleteTable, Change::AddTable];
        difference(&Table::new(to.family, &to.name), to, &mut changes);
        return changes;
    };
    let mut changes = Vec::new();
    difference(from, to, &mut changes);
    changes
}

/// The changes that remove a table whether or not it exists.
pub(super) fn removal() -> Vec<Change> {
    vec![Change::AddTable, Change::DeleteTable]
}

/// Whether what cannot be changed in place is the same.
fn same_shape(from: &Table, to: &Table) -> bool {
    let chains = from.chains.iter().all(|(name, chain)| {
        to.chains
            .get(name)
            .is_none_or(|other| other.base == chain.base)
    });
    let sets = from.sets.iter().all(|(name, set)| {
        to.sets.get(name).is_none_or(|other| {
            (&other.key, &other.data, other.dynamic) == (&set.key, &set.data, set.dynamic)
        })
    });
    let identity = |table: &Table| -> (Family, String) { (table.family, table.name.clone()) };
    identity(from) == identity(to) && chains && sets
}

fn difference(from: &Table, to: &Table, changes: &mut Vec<Change>) {
    for (name, set) in &to.sets {
        if !from.sets.contains_key(name) {
            let empty = Set {
                elements: BTreeMap::new(),
                ..set.clone()
            };
            changes.push(Change::AddSet(name.clone(), empty));
        }
    }
    for (name, chain) in &to.chains {
        if !from.chains.contains_key(name) {
            changes.push(Change::AddChain(name.clone(), chain.base));
        }
    }
    for (name, chain) in &from.chains {
        let same = to
            .chains
            .get(name)
            .is_some_and(|other| other.rules == chain.rules);
        if !same && !chain.rules.is_empty() {
            changes.push(Change::FlushChain(name.clone()));
        }
    }
    for (name, set) in from.sets.iter().filter(|(_, set)| !set.dynamic) {
        let wanted = to.sets.get(name);
        let gone: Vec<Vec<u8>> = set
            .elements
            .iter()
            .filter(|(key, value)| {
                wanted.is_none_or(|wanted| wanted.elements.get(*key) != Some(value))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for some in gone.chunks(ELEMENTS_AT_ONCE) {
            changes.push(Change::DeleteElements(name.clone(), some.to_vec()));
        }
    }
    // Rules before elements: for each rule that refers to a map the kernel
    // walks the map's elements.
    for (name, chain) in &to.chains {
        let same = from
            .chains
            .get(name)
            .is_some_and(|other| other.rules == chain.rules);
        if !same {
            changes.extend(
                chain
                    .rules
                    .iter()
                    .map(|rule| Change::AddRule(name.clone(), rule.clone())),
            );
        }
    }
    for (name, set) in to.sets.iter().filter(|(_, set)| !set.dynamic) {
        let known = from.sets.get(name);
        let fresh: Vec<(Vec<u8>, Option<Value>)> = set
            .elements
            .iter()
            .filter(|(key, value)| {
                known.is_none_or(|known| known.elements.get(*key) != Some(value))
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for some in fresh.chunks(ELEMENTS_AT_ONCE) {
            changes.push(Change::AddElements(name.clone(), some.to_vec()));
        }
    }
    for name in from
        .chains
        .keys()
        .filter(|name| !to.chains.contains_key(*name))
    {
        changes.push(Change::DeleteChain(name.clone()));
    }
    for name in from.sets.keys().filter(|name| !to.sets.contains_key(*name)) {
        changes.push(Change::DeleteSet(name.clone()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::nftables::{Chain, Expression, FieldType, Verdict};

    /// What the kernel would make of a change, refusing what it refuses.
    fn apply(table: &mut Option<Table>, blank: &Table, change: &Change) -> Result<(), String> {
        if let Change::AddTable = change {
            table.get_or_insert_with(|| blank.clone());
            return Ok(());
        }
        let Some(existing) = table else {
            return Err("no table".into());
        };
        let refers = |table: &Table, chain: &str, set: &str| {
            let rules = table.chains.values().flat_map(|chain| &chain.rules);
            rules.flat_map(|rule| &rule.expressions).any(|expression| {
                expression.chain() == Some(chain) || expression.set() == Some(set)
            }) || table.sets.values().flat_map(|set| set.elements.values()).any(|value| {
                matches!(value, Some(Value::Verdict(verdict)) if verdict.chain() == Some(chain))
            })
        };
        match change {
            Change::AddTable => {}
            Change::DeleteTable => *table = None,
            Change::AddChain(name, base) => {
                let chain = Chain {
                    base: *base,
                    rules: vec![],
                };
                if existing.chains.insert(name.clone(), chain).is_some() {
                    return Err(format!("chain {name} exists"));
                }
            }
            Change::DeleteChain(name) => {
                let chain = existing.chains.remove(name).ok_or("no chain")?;
                if !chain.rules.is_empty() || refers(existing, name, "") {
                    return Err(format!("chain {name} in use"));
                }
            }
            Change::FlushChain(name) => {
                existing
                    .chains
                    .get_mut(name)
                    .ok_or("no chain")?
                    .rules
                    .clear();
            }
            Change::AddRule(name, rule) => {
                for expression in &rule.expressions {
                    let chain = expression.chain();
                    if chain.is_some_and(|chain| !existing.chains.contains_key(chain)) {
                        return Err("rule to no chain".into());
                    }
                    if expression
                        .set()
                        .is_some_and(|set| !existing.sets.contains_key(set))
                    {
                        return Err("rule on no set".into());
                    }
                }
                existing
                    .chains
                    .get_mut(name)
                    .ok_or("no chain")?
                    .rules
                    .push(rule.clone());
            }
            Change::AddSet(name, set) => {
                if existing.sets.insert(name.clone(), set.clone()).is_some() {
                    return Err(format!("set {name} exists"));
                }
            }
            Change::DeleteSet(name) => {
                existing.sets.remove(name).ok_or("no set")?;
                if refers(existing, "", name) {
                    return Err(format!("set {name} in use"));
                }
            }
            Change::AddElements(name, elements) => {
                for (key, value) in elements {
                    if let Some(Value::Verdict(verdict)) = value
                        && verdict
                            .chain()
                            .is_some_and(|to| !existing.chains.contains_key(to))
                    {
                        return Err("element to no chain".into());
                    }
                    let set = existing.sets.get_mut(name).ok_or("no set")?;
                    if set.elements.insert(key.clone(), value.clone()).is_some() {
                        return Err("element exists".into());
                    }
                }
            }
            Change::DeleteElements(name, keys) => {
                let set = existing.sets.get_mut(name).ok_or("no set")?;
                for key in keys {
                    set.elements.remove(key).ok_or("no element")?;
                }
            }
        }
        Ok(())
    }

    /// Chains `c0`…, of which some are jumped to by rules and elements.
    fn any_table() -> impl Strategy<Value = Table> {
        let chains = prop::collection::vec(prop::collection::vec(0usize..8, 0..3), 0..6);
        let elements = prop::collection::btree_map(0u16..20, 0usize..8, 0..12);
        (chains, elements, any::<bool>()).prop_map(|(chains, elements, with_set)| {
            let mut table = Table::new(Family::Ip, "t");
            let count = chains.len();
            for (at, jumps) in chains.iter().enumerate() {
                let mut rules = Vec::new();
                for to in jumps.iter().filter(|to| **to < count && **to > at) {
                    let mut rule =
                        Rule::new([Expression::Verdict(Verdict::Jump(format!("c{to}")))]);
                    if with_set {
                        rule.expressions.insert(
                            0,
                            Expression::VerdictLookup {
                                set: "m".into(),
                                key: crate::nftables::Register(0),
                            },
                        );
                    }
                    rules.push(rule);
                }
                table
                    .chains
                    .insert(format!("c{at}"), Chain { base: None, rules });
            }
            if with_set {
                let mut set = Set::verdicts(&[FieldType::Port]);
                for (port, to) in elements {
                    let verdict = if to < count {
                        Verdict::Goto(format!("c{to}"))
                    } else {
                        Verdict::Drop
                    };
                    let key = port.to_be_bytes().to_vec();
                    set.elements.insert(key, Some(Value::Verdict(verdict)));
                }
                table.sets.insert("m".into(), set);
            }
            table
        })
    }

    proptest! {
        #[test]
        fn leads_from_any_table_to_any_other(from in any_table(), to in any_table()) {
            let blank = Table::new(Family::Ip, "t");
            for known in [Some(&from), None] {
                let mut kernel = Some(from.clone());
                for change in plan(known, &to) {
                    apply(&mut kernel, &blank, &change).map_err(TestCaseError::fail)?;
                }
                prop_assert_eq!(kernel.as_ref(), Some(&to));
            }
            prop_assert_eq!(plan(Some(&to), &to), vec![]);
        }
    }
}
