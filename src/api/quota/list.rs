//! Amounts by name: `v1.ResourceList` and its arithmetic.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::Quantity;

/// `v1.ResourceList`.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Reads a list; what is no quantity is left out.
pub fn parse(list: &Value) -> ResourceList {
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?)))
        .collect()
}

/// The list as an object.
pub fn to_value(list: &ResourceList) -> Value {
    let fields: Map<String, Value> = list
        .iter()
        .map(|(name, quantity)| (name.clone(), quantity.to_string().into()))
        .collect();
    Value::Object(fields)
}

/// Adds `more` to `list`.
pub fn add(list: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        match list.get_mut(name) {
            Some(known) => known.add(quantity),
            None => {
                list.insert(name.clone(), quantity.clone());
            }
        }
    }
}

/// Raises each amount of `list` to that of `other`.
pub fn raise(list: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        if list.get(name).is_none_or(|known| quantity > known) {
            list.insert(name.clone(), quantity.clone());
        }
    }
}

/// How much more `new` is than `old`; never less than nothing.
pub fn growth(new: &ResourceList, old: &ResourceList) -> ResourceList {
    new.iter()
        .map(|(name, quantity)| {
            let mut more = quantity.clone();
            if let Some(before) = old.get(name) {
                more.sub(before);
            }
            let more = if more.sign() > 0 {
                more
            } else {
                Quantity::default()
            };
            (name.clone(), more)
        })
        .collect()
}

/// `cpu=1,memory=2Gi`: as quotas are told of in errors.
pub fn describe(list: &ResourceList) -> String {
    let parts: Vec<String> = list
        .iter()
        .map(|(name, quantity)| format!("{name}={quantity}"))
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(value: Value) -> ResourceList {
        parse(&value)
    }

    #[test]
    fn arithmetic() {
        let mut sum = list(json!({ "cpu": "500m", "pods": "1" }));
        add(&mut sum, &list(json!({ "cpu": "1", "memory": "1Gi" })));
        assert_eq!(describe(&sum), "cpu=1500m,memory=1Gi,pods=1");
        let more = growth(
            &sum,
            &list(json!({ "cpu": "2", "memory": "512Mi", "old": "1" })),
        );
        assert_eq!(
            to_value(&more),
            json!({ "cpu": "0", "memory": "512Mi", "pods": "1" })
        );
        raise(&mut sum, &list(json!({ "cpu": "2", "memory": "1Ki" })));
        assert_eq!(describe(&sum), "cpu=2,memory=1Gi,pods=1");
    }
}
