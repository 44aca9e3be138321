//! Tables: what every kind shares.

use serde_json::Value;

use super::Column;
use super::value::{entries, list, text};

/// Columns of a kind that has none of its own.
pub const PLAIN: &[Column] = super::columns::PLAIN;

/// Cells of [`PLAIN`].
pub fn plain_cells(object: &Value, _now: i64) -> Vec<Value> {
    vec![
        name(object),
        object["metadata"]["creationTimestamp"].clone(),
    ]
}

/// The name cell.
pub(super) fn name(object: &Value) -> Value {
    text(&object["metadata"], "name").into()
}

/// Seconds since the Unix epoch of a `Time` or `MicroTime`; `None` if it is absent.
pub(super) fn seconds(time: &Value) -> Option<i64> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(time.as_second())
}

/// How long ago a time was; `<unknown>` without one.
pub(super) fn since(time: &Value, now: i64) -> String {
    seconds(time).map_or_else(|| "<unknown>".to_owned(), |at| duration(now - at))
}

/// The age cell.
pub(super) fn age(object: &Value, now: i64) -> Value {
    since(&object["metadata"]["creationTimestamp"], now).into()
}

/// `duration.HumanDuration`.
pub fn duration(seconds: i64) -> String {
    let pair = |whole: i64, unit: &str, rest: i64, smaller: &str| {
        if rest == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit}{rest}{smaller}")
        }
    };
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        pair(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        pair(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        pair(hours / 24, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        pair(hours / 24 / 365, "y", hours / 24 % 365, "d")
    } else {
        format!("{}y", hours / 24 / 365)
    }
}

/// Names and images of a pod spec's containers.
pub(super) fn containers(spec: &Value) -> (String, String) {
    let column = |field: &str| {
        let cells: Vec<&str> = list(spec, "containers")
            .iter()
            .map(|container| text(container, field))
            .collect();
        cells.join(",")
    };
    (column("name"), column("image"))
}

/// `labels.FormatLabels`.
pub(super) fn labels(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// `metav1.FormatLabelSelector`.
pub(super) fn selector(selector: &Value) -> String {
    match crate::LabelSelector::from_object(selector) {
        Ok(parsed) if parsed.to_string().is_empty() => "<none>".to_owned(),
        Ok(parsed) => parsed.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// At most `max` items joined by commas and how many more there are.
pub(super) fn at_most(items: &[String], max: usize, none: &str) -> String {
    let shown = items[..items.len().min(max)].join(",");
    if items.len() > max {
        format!("{shown} + {} more...", items.len() - max)
    } else if shown.is_empty() {
        none.to_owned()
    } else {
        shown
    }
}

/// `kind.group/name` of the controlling owner.
pub(super) fn controller(object: &Value) -> String {
    let owner = list(&object["metadata"], "ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true);
    let Some(owner) = owner else {
        return "<none>".to_owned();
    };
    let group = text(owner, "apiVersion")
        .split_once('/')
        .map(|(group, _)| group);
    let kind = text(owner, "kind").to_lowercase();
    match group {
        Some(group) => format!("{kind}.{group}/{}", text(owner, "name")),
        None => format!("{kind}/{}", text(owner, "name")),
    }
}

/// The text of a field, or this if it is absent.
pub(super) fn or<'a>(value: &'a Value, name: &str, none: &'a str) -> &'a str {
    value[name].as_str().unwrap_or(none)
}

/// The number of entries of a map field.
pub(super) fn count(value: &Value, name: &str) -> usize {
    entries(value, name).count()
}

/// Addresses of a load balancer's status, sorted.
pub(super) fn load_balancer(status: &Value) -> String {
    let mut addresses: Vec<&str> = list(&status["loadBalancer"], "ingress")
        .iter()
        .map(|ingress| match text(ingress, "ip") {
            "" => text(ingress, "hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations() {
        for (seconds, want) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600 + 60, "9h"),
            (50 * 3600, "2d2h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(duration(seconds), want);
        }
    }

    #[test]
    fn lists() {
        let items: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        assert_eq!(at_most(&items, 3, "<none>"), "a,b,c + 1 more...");
        assert_eq!(at_most(&[], 3, "<none>"), "<none>");
        assert_eq!(labels(&json!({"b": "1", "a": "2"})), "a=2,b=1");
    }
}
