//! Which names a definition gets: those that no other of its group has.

use serde_json::{Value, json};

/// Sets a condition; the time moves with the status.
pub(super) fn set_condition(
    status: &mut Value,
    name: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: &str,
) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(all) = status["conditions"].as_array_mut() else {
        return;
    };
    let mut new = json!({
        "type": name, "status": value, "lastTransitionTime": now,
        "reason": reason, "message": message,
    });
    match all.iter_mut().find(|it| it["type"] == name) {
        Some(old) => {
            if old["status"] == value {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            // What else somebody wrote into it stays.
            if let (Some(old), Value::Object(new)) = (old.as_object_mut(), new) {
                old.extend(new);
            }
        }
        None => all.push(new),
    }
}

pub(super) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|it| it["type"] == name)
}

pub(super) fn is_established(object: &Value) -> bool {
    condition(object, "Established").is_some_and(|it| it["status"] == "True")
}

fn texts<'a>(value: &'a Value) -> impl Iterator<Item = &'a str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// The status of a definition among the others: names accepted as far as they
/// are free, and established once all are.
pub(super) fn status(object: &Value, others: &[&Value], now: &str) -> Value {
    let mut resources: Vec<&str> = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    for other in others {
        let same = other["spec"]["group"] == object["spec"]["group"]
            && other["metadata"]["name"] != object["metadata"]["name"];
        if !same {
            continue;
        }
        let names = &other["status"]["acceptedNames"];
        let named = |name: &str| names[name].as_str().filter(|it| !it.is_empty());
        resources.extend(named("plural").into_iter().chain(named("singular")));
        resources.extend(texts(&names["shortNames"]));
        kinds.extend(named("kind").into_iter().chain(named("listKind")));
    }
    let wanted = &object["spec"]["names"];
    let mut status = object["status"].clone();
    let had = status["acceptedNames"].clone();
    let mut accepted = had.clone();
    let mut refusal: Option<(&str, String)> = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (field, reason, taken) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let problem = if field == "shortNames" {
            let had: Vec<&str> = texts(&had[field]).collect();
            let new = texts(&wanted[field]).filter(|it| !had.contains(it));
            let found: Vec<String> = new.filter(|it| taken.contains(it)).map(in_use).collect();
            match found.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                many => Some(format!("[{}]", many.join(", "))),
            }
        } else {
            let name = wanted[field].as_str().unwrap_or_default();
            (had[field] != name && taken.contains(&name)).then(|| in_use(name))
        };
        match problem {
            Some(message) => refusal = Some((reason, message)),
            None if wanted[field].is_null() => {
                if let Some(map) = accepted.as_object_mut() {
                    map.remove(field);
                }
            }
            None => accepted[field] = wanted[field].clone(),
        }
    }
    match &refusal {
        Some((reason, message)) => {
            set_condition(&mut status, "NamesAccepted", "False", reason, message, now);
        }
        None => {
            if wanted["categories"].is_null() {
                if let Some(map) = accepted.as_object_mut() {
                    map.remove("categories");
                }
            } else {
                accepted["categories"] = wanted["categories"].clone();
            }
            let message = "no conflicts found";
            set_condition(
                &mut status,
                "NamesAccepted",
                "True",
                "NoConflicts",
                message,
                now,
            );
        }
    }
    status["acceptedNames"] = accepted;
    if !is_established(object) {
        let (value, reason, message) = match refusal {
            Some(_) => ("False", "NotAccepted", "not all names are accepted"),
            None => (
                "True",
                "InitialNamesAccepted",
                "the initial names have been accepted",
            ),
        };
        set_condition(&mut status, "Established", value, reason, message, now);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: &[&str]) -> Value {
        json!({
            "metadata": { "name": format!("{plural}.example.com") },
            "spec": { "group": "example.com", "names": {
                "plural": plural, "singular": kind.to_lowercase(),
                "kind": kind, "listKind": format!("{kind}List"), "shortNames": short,
            } },
            "status": { "acceptedNames": { "plural": "", "kind": "" }, "conditions": null },
        })
    }

    fn reason(object: &Value, name: &str) -> (String, String) {
        let found = condition(object, name).expect("a condition");
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    fn named(object: &Value, others: &[&Value]) -> Value {
        let mut object = object.clone();
        object["status"] = status(&object, others, "2026-01-01T00:00:00Z");
        object
    }

    #[test]
    fn free_names_are_accepted() {
        let object = named(&definition("foos", "Foo", &["fo"]), &[]);
        assert_eq!(
            reason(&object, "NamesAccepted"),
            ("True".into(), "NoConflicts".into())
        );
        assert!(is_established(&object));
        assert_eq!(object["status"]["acceptedNames"], object["spec"]["names"]);
    }

    #[test]
    fn taken_names_are_refused_until_they_are_free() {
        let first = named(&definition("foos", "Foo", &["fo"]), &[]);
        let second = definition("bars", "Bar", &["fo", "br"]);
        let refused = named(&second, &[&first]);
        assert_eq!(
            reason(&refused, "NamesAccepted"),
            ("False".into(), "ShortNamesConflict".into())
        );
        let message = &condition(&refused, "NamesAccepted").expect("it")["message"];
        assert_eq!(message, "\"fo\" is already in use");
        assert!(!is_established(&refused));
        assert_eq!(refused["status"]["acceptedNames"]["plural"], "bars");
        assert!(is_established(&named(&refused, &[])));
        // Kinds and resources are named apart.
        assert!(is_established(&named(
            &definition("fooes", "Fooe", &["Foo"]),
            &[&first]
        )));
        // An established one stays so when it asks for a name that is taken.
        let mut greedy = named(&definition("bars", "Bar", &[]), &[&first]);
        greedy["spec"]["names"]["shortNames"] = json!(["fo"]);
        let greedy = named(&greedy, &[&first]);
        assert!(is_established(&greedy));
        assert_eq!(reason(&greedy, "NamesAccepted").0, "False");
    }
}
