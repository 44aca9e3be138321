//! `HorizontalPodAutoscaler`.

use serde_json::{Value, json};

use super::value::{default, int, list, object, text};
use super::{Column, Context, Kind, Plan, columns, convert, table, validate};
use crate::FieldError;

pub(super) fn of(kind: &str) -> Option<&'static dyn Kind> {
    Some(match kind {
        "HorizontalPodAutoscaler" => &Autoscaler,
        "Scale" => &Scale,
        _ => return None,
    })
}

/// `Scale`, which the `scale` subresource of workloads reads and writes.
struct Scale;

impl Kind for Scale {
    fn validate_create(&self, scale: &Value, _: &Context<'_>) -> Vec<FieldError> {
        crate::kinds::value::nonnegative(&scale["spec"], "replicas", &crate::Path::new("spec"))
            .into_iter()
            .collect()
    }

    fn columns(&self) -> &'static [Column] {
        columns::SCALE
    }

    fn cells(&self, scale: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(scale),
            int(&scale["spec"], "replicas").into(),
            int(&scale["status"], "replicas").into(),
            table::age(scale, now),
        ]
    }
}

struct Autoscaler;

/// The autoscaler as `autoscaling/v2` has it.
fn as_v2(scaler: &Value) -> Value {
    let mut scaler = scaler.clone();
    if scaler["apiVersion"] == "autoscaling/v1" {
        convert(&mut scaler, "autoscaling/v1", "autoscaling/v2");
    }
    scaler
}

fn rules(behavior: &mut Value, name: &str, mut defaults: Value) {
    for (key, value) in behavior[name].as_object().into_iter().flatten() {
        if !value.is_null() {
            defaults[key] = value.clone();
        }
    }
    behavior[name] = defaults;
}

impl Kind for Autoscaler {
    fn plan(&self) -> Plan {
        Plan::STATUS
    }

    fn default(&self, scaler: &mut Value) {
        let old = scaler["apiVersion"] == "autoscaling/v1";
        let metrics = scaler["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"]
            .is_string();
        let spec = object(scaler, "spec");
        default(spec, "minReplicas", 1);
        if old {
            // The hub version defaults an absent list of metrics.
            if !metrics {
                default(spec, "targetCPUUtilizationPercentage", 80);
            }
        } else {
            if list(spec, "metrics").is_empty() {
                spec["metrics"] = json!([{
                    "type": "Resource",
                    "resource": {
                        "name": "cpu",
                        "target": { "type": "Utilization", "averageUtilization": 80 },
                    },
                }]);
            }
            super::value::within(spec, "behavior", |behavior| {
                rules(
                    behavior,
                    "scaleUp",
                    json!({
                        "stabilizationWindowSeconds": 0,
                        "selectPolicy": "Max",
                        "policies": [
                            { "type": "Pods", "value": 4, "periodSeconds": 15 },
                            { "type": "Percent", "value": 100, "periodSeconds": 15 },
                        ],
                    }),
                );
                rules(
                    behavior,
                    "scaleDown",
                    json!({
                        "selectPolicy": "Max",
                        "policies": [{ "type": "Percent", "value": 100, "periodSeconds": 15 }],
                    }),
                );
            });
        }
        let status = object(scaler, "status");
        default(status, "desiredReplicas", 0);
        if old {
            default(status, "currentReplicas", 0);
        } else if status["currentMetrics"].is_null() {
            status["currentMetrics"] = Value::Null;
        }
    }

    fn prepare_create(&self, scaler: &mut Value, _: &Context<'_>) {
        scaler["status"] = if scaler["apiVersion"] == "autoscaling/v1" {
            json!({ "currentReplicas": 0, "desiredReplicas": 0 })
        } else {
            json!({ "desiredReplicas": 0, "currentMetrics": null })
        };
    }

    fn validate_create(&self, object: &Value, _: &Context<'_>) -> Vec<FieldError> {
        validate::autoscaling::autoscaler(&as_v2(object))
    }

    fn columns(&self) -> &'static [Column] {
        columns::HORIZONTALPODAUTOSCALER
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        let scaler = as_v2(object);
        let (spec, status) = (&scaler["spec"], &scaler["status"]);
        let target = &spec["scaleTargetRef"];
        let minimum = spec["minReplicas"]
            .as_i64()
            .map_or_else(|| "<unset>".to_owned(), |number| number.to_string());
        vec![
            table::name(&scaler),
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            metrics(list(spec, "metrics"), list(status, "currentMetrics")).into(),
            minimum.into(),
            int(spec, "maxReplicas").into(),
            int(status, "currentReplicas").into(),
            table::age(&scaler, now),
        ]
    }
}

/// Current and wanted value of each metric.
fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let cells: Vec<String> = specs
        .iter()
        .enumerate()
        .map(|(index, spec)| metric(spec, statuses.get(index).unwrap_or(&Value::Null)))
        .collect();
    let max = 2;
    let shown = cells[..cells.len().min(max)].join(", ");
    if cells.len() > max {
        format!("{shown} + {} more...", cells.len() - max)
    } else {
        shown
    }
}

fn metric(spec: &Value, status: &Value) -> String {
    let (kind, named) = match text(spec, "type") {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&spec[kind]["target"], &status[kind]["current"]);
    let now = |name: &str| match current[name].as_str() {
        Some(value) => value.to_owned(),
        None => "<unknown>".to_owned(),
    };
    let percent = |value: &Value, none: &str| match value.as_i64() {
        Some(number) => format!("{number}%"),
        None => none.to_owned(),
    };
    let value = if !target["averageValue"].is_null() {
        let average = if matches!(kind, "external" | "object") {
            " (avg)"
        } else {
            ""
        };
        format!(
            "{}/{}{average}",
            now("averageValue"),
            text(target, "averageValue")
        )
    } else if named {
        format!(
            "{}/{}",
            percent(&current["averageUtilization"], "<unknown>"),
            percent(&target["averageUtilization"], "<auto>")
        )
    } else {
        format!("{}/{}", now("value"), text(target, "value"))
    };
    if named {
        format!("{}: {value}", text(&spec[kind], "name"))
    } else {
        value
    }
}
