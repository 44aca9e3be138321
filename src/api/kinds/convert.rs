//! Conversions between served versions of kinds that differ in shape.
//!
//! Most kinds look the same in every version. Two do not: horizontal pod
//! autoscalers (`autoscaling/v1` and `/v2`, stored as v2) and events (core and
//! `events.k8s.io/v1`, stored as core). What a version cannot express is kept
//! in annotations where upstream keeps it.

use serde_json::{Map, Value, json};

use super::value::{blank, default, object, remove, text};
use crate::meta;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Brings an object from one `apiVersion` to another of its kind. Versions of
/// one shape only change `apiVersion`.
pub fn convert(object: &mut Value, from: &str, to: &str) {
    if from == to {
        return;
    }
    object["apiVersion"] = to.into();
    match (from, to) {
        ("autoscaling/v1", "autoscaling/v2") => autoscaler_to_v2(object),
        ("autoscaling/v2", "autoscaling/v1") => autoscaler_to_v1(object),
        ("v1", "events.k8s.io/v1") if object["kind"] == "Event" => rename(object, EVENT, false),
        ("events.k8s.io/v1", "v1") => rename(object, EVENT, true),
        _ => {}
    }
}

/// Core name and `events.k8s.io` name of each field.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Value, names: &[(&str, &str)], back: bool) {
    let rename_key = |key: String| {
        for (left, right) in names {
            let (from, to) = if back {
                (*right, *left)
            } else {
                (*left, *right)
            };
            if key == from {
                return to.to_owned();
            }
        }
        key
    };
    if let Some(map) = object.as_object_mut() {
        *map = std::mem::take(map)
            .into_iter()
            .map(|(key, value)| (rename_key(key), value))
            .collect();
    }
    // Managers name fields by their version and keep those names.
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["type"] == "Utilization"
        && !metric["resource"]["target"]["averageUtilization"].is_null()
}

/// A v2 metric as the annotation of v1 spells it, which is the form of `v2beta1`.
fn metric_to_v1(metric: &Value) -> Value {
    let mut out = Map::new();
    out.insert("type".into(), metric["type"].clone());
    let put = |map: &mut Map<String, Value>, name: &str, value: &Value| {
        if !value.is_null() {
            map.insert(name.into(), value.clone());
        }
    };
    for kind in [
        "object",
        "pods",
        "resource",
        "containerResource",
        "external",
    ] {
        let source = &metric[kind];
        if !source.is_object() {
            continue;
        }
        let target = &source["target"];
        let identity = &source["metric"];
        let mut new = Map::new();
        match kind {
            "object" => {
                let described = &source["describedObject"];
                new.insert("target".into(), described.clone());
                put(&mut new, "metricName", &identity["name"]);
                put(&mut new, "selector", &identity["selector"]);
                put(&mut new, "targetValue", &target["value"]);
                put(&mut new, "averageValue", &target["averageValue"]);
            }
            "pods" => {
                put(&mut new, "metricName", &identity["name"]);
                put(&mut new, "selector", &identity["selector"]);
                put(&mut new, "targetAverageValue", &target["averageValue"]);
            }
            "external" => {
                put(&mut new, "metricName", &identity["name"]);
                put(&mut new, "metricSelector", &identity["selector"]);
                put(&mut new, "targetValue", &target["value"]);
                put(&mut new, "targetAverageValue", &target["averageValue"]);
            }
            _ => {
                put(&mut new, "name", &source["name"]);
                put(&mut new, "container", &source["container"]);
                put(
                    &mut new,
                    "targetAverageUtilization",
                    &target["averageUtilization"],
                );
                put(&mut new, "targetAverageValue", &target["averageValue"]);
            }
        }
        out.insert(kind.into(), Value::Object(new));
    }
    Value::Object(out)
}

/// The inverse of [`metric_to_v1`].
fn metric_to_v2(metric: &Value) -> Value {
    let mut out = Map::new();
    out.insert("type".into(), metric["type"].clone());
    for kind in [
        "object",
        "pods",
        "resource",
        "containerResource",
        "external",
    ] {
        let source = &metric[kind];
        if !source.is_object() {
            continue;
        }
        let mut new = json!({});
        let mut target = Map::new();
        let average = if kind == "object" {
            &source["averageValue"]
        } else {
            &source["targetAverageValue"]
        };
        let kind_of_target = if !average.is_null() {
            target.insert("averageValue".into(), average.clone());
            "AverageValue"
        } else if !source["targetAverageUtilization"].is_null() {
            target.insert(
                "averageUtilization".into(),
                source["targetAverageUtilization"].clone(),
            );
            "Utilization"
        } else {
            target.insert("value".into(), source["targetValue"].clone());
            "Value"
        };
        target.insert("type".into(), kind_of_target.into());
        new["target"] = Value::Object(target);
        match kind {
            "resource" | "containerResource" => {
                new["name"] = source["name"].clone();
                if !source["container"].is_null() {
                    new["container"] = source["container"].clone();
                }
            }
            _ => {
                new["metric"] = json!({ "name": source["metricName"] });
                let selector = if kind == "external" {
                    &source["metricSelector"]
                } else {
                    &source["selector"]
                };
                if !selector.is_null() {
                    new["metric"]["selector"] = selector.clone();
                }
                if kind == "object" {
                    new["describedObject"] = source["target"].clone();
                }
            }
        }
        out.insert(kind.into(), new);
    }
    Value::Object(out)
}

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        remove(metadata, "annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn put_annotation(holder: &mut Value, name: &str, value: &Value) {
    meta::metadata_mut(holder);
    object(&mut holder["metadata"], "annotations")[name] = value.to_string().into();
}

fn autoscaler_to_v2(scaler: &mut Value) {
    let mut metrics = Vec::new();
    let target = scaler["spec"]["targetCPUUtilizationPercentage"].clone();
    if let Some(list) = take_annotation(scaler, METRICS) {
        metrics.extend(list.as_array().into_iter().flatten().map(metric_to_v2));
    }
    if !target.is_null() {
        let cpu = json!({
            "type": "Resource",
            "resource": {
                "name": "cpu",
                "target": { "type": "Utilization", "averageUtilization": target },
            },
        });
        metrics.insert(0, cpu);
    }
    let spec = object(scaler, "spec");
    remove(spec, "targetCPUUtilizationPercentage");
    if !metrics.is_empty() {
        spec["metrics"] = metrics.into();
    }
    if let Some(behavior) = take_annotation(scaler, BEHAVIOR) {
        object(scaler, "spec")["behavior"] = behavior;
    }
    let conditions = take_annotation(scaler, CONDITIONS);
    let current = take_annotation(scaler, CURRENT_METRICS);
    let status = object(scaler, "status");
    if super::value::int(status, "currentReplicas") == 0 {
        remove(status, "currentReplicas");
    }
    let utilization = status["currentCPUUtilizationPercentage"].clone();
    remove(status, "currentCPUUtilizationPercentage");
    let mut metrics = Vec::new();
    if !utilization.is_null() {
        metrics.push(json!({
            "type": "Resource",
            "resource": { "name": "cpu", "current": { "averageUtilization": utilization } },
        }));
    }
    if let Some(Value::Array(list)) = current {
        metrics.extend(list);
    }
    if !metrics.is_empty() {
        status["currentMetrics"] = metrics.into();
    }
    if let Some(conditions) = conditions {
        status["conditions"] = conditions;
    }
}

fn autoscaler_to_v1(scaler: &mut Value) {
    let spec = object(scaler, "spec");
    let metrics: Vec<Value> = super::value::list(spec, "metrics").to_vec();
    let behavior = spec["behavior"].clone();
    remove(spec, "metrics");
    remove(spec, "behavior");
    let cpu = metrics.iter().position(is_cpu_utilization);
    if let Some(at) = cpu {
        spec["targetCPUUtilizationPercentage"] =
            metrics[at]["resource"]["target"]["averageUtilization"].clone();
    }
    let rest: Vec<Value> = metrics
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != cpu)
        .map(|(_, metric)| metric_to_v1(metric))
        .collect();
    if !rest.is_empty() {
        put_annotation(scaler, METRICS, &rest.into());
    }
    if !blank(&behavior) {
        put_annotation(scaler, BEHAVIOR, &behavior);
    }
    let status = object(scaler, "status");
    let current: Vec<Value> = super::value::list(status, "currentMetrics").to_vec();
    let conditions = status["conditions"].clone();
    remove(status, "currentMetrics");
    remove(status, "conditions");
    let is_cpu = |metric: &Value| {
        metric["type"] == "Resource"
            && text(&metric["resource"], "name") == "cpu"
            && !metric["resource"]["current"]["averageUtilization"].is_null()
    };
    let cpu = current.iter().position(is_cpu);
    if let Some(at) = cpu {
        status["currentCPUUtilizationPercentage"] =
            current[at]["resource"]["current"]["averageUtilization"].clone();
    }
    default(status, "currentReplicas", 0);
    default(status, "desiredReplicas", 0);
    let rest: Vec<Value> = current
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != cpu)
        .map(|(_, metric)| metric.clone())
        .collect();
    if !rest.is_empty() {
        put_annotation(scaler, CURRENT_METRICS, &rest.into());
    }
    if !blank(&conditions) {
        put_annotation(scaler, CONDITIONS, &conditions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: &str, to: &str, left: Value, right: Value) {
        let mut value = left.clone();
        convert(&mut value, from, to);
        assert_eq!(value, right);
        convert(&mut value, to, from);
        assert_eq!(value, left);
    }

    #[test]
    fn events() {
        check(
            "v1",
            "events.k8s.io/v1",
            json!({"kind": "Event", "apiVersion": "v1", "message": "m", "involvedObject": {"name": "x"}, "count": 2, "type": "Normal"}),
            json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "note": "m", "regarding": {"name": "x"}, "deprecatedCount": 2, "type": "Normal"}),
        );
    }

    #[test]
    fn autoscalers() {
        check(
            "autoscaling/v2",
            "autoscaling/v1",
            json!({
                "apiVersion": "autoscaling/v2", "metadata": {"name": "a"}, "status": {"desiredReplicas": 0},
                "spec": {"maxReplicas": 3, "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                ]},
            }),
            json!({
                "apiVersion": "autoscaling/v1", "status": {"currentReplicas": 0, "desiredReplicas": 0},
                "metadata": {"name": "a", "annotations": {METRICS: r#"[{"pods":{"metricName":"q","targetAverageValue":"1"},"type":"Pods"}]"#}},
                "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80},
            }),
        );
    }
}
