//! `/api`, `/apis` and below; OpenAPI.

use std::sync::Arc;

use api::{Resource, Scheme, Status};
use http::header::ACCEPT;
use serde_json::{Value, json};

use super::Context;
use crate::custom::Published;
use crate::http::{Output, Response, accept, json_value, not_found_page, object, write_status};

/// Groups with the versions that are served, in discovery's order.
pub(crate) fn groups(context: &Context<'_>) -> Vec<(String, Vec<String>)> {
    let scheme = context.server.inner.registry.engine.scheme;
    let mut groups: Vec<(String, Vec<String>)> = scheme
        .groups()
        .iter()
        .map(|group| {
            let versions = group
                .versions
                .iter()
                .filter(|version| is_served(scheme, &group.name, version))
                .cloned()
                .collect::<Vec<_>>();
            (group.name.clone(), versions)
        })
        .filter(|(_, versions)| !versions.is_empty())
        .collect();
    for custom in &published(context).resources {
        let gvk = &custom.resource.gvk;
        let group = match groups.iter_mut().find(|(name, _)| *name == gvk.group) {
            Some((_, versions)) => versions,
            None => {
                groups.push((gvk.group.clone(), Vec::new()));
                &mut groups.last_mut().expect("one was pushed").1
            }
        };
        if !group.contains(&gvk.version) {
            group.push(gvk.version.clone());
        }
    }
    groups
}

fn published(context: &Context<'_>) -> Arc<Published> {
    let registry = &context.server.inner.registry;
    registry.documents.published(registry)
}

/// Every resource of a group and version.
fn resources<'a>(
    published: &'a Published,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Resource> {
    let builtin = Scheme::builtin().resources().iter();
    let builtin = builtin.filter(move |resource| {
        resource.served_by_default && resource.gvk.group == group && resource.gvk.version == version
    });
    builtin.chain(published.of(group, version).map(|it| &it.resource))
}

/// Whether any version of a group is served.
pub(crate) fn knows(context: &Context<'_>, group: &str) -> bool {
    groups(context).iter().any(|(name, _)| name == group)
}

fn is_served(scheme: &Scheme, group: &str, version: &str) -> bool {
    scheme.resources().iter().any(|resource| {
        resource.served_by_default && resource.gvk.group == group && resource.gvk.version == version
    })
}

/// Serves discovery paths; 404 for everything else.
pub(crate) fn handle(context: &Context<'_>, path: &str) -> Result<Response, Status> {
    let output = Output {
        ..accept(&context.parts.headers, context.query, false, false).unwrap_or_default()
    };
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let value = match parts.as_slice() {
        ["api"] => {
            if let Some(response) = aggregated(context, true) {
                return Ok(response);
            }
            let config = &context.server.inner.config;
            let address = format!("{}:{}", config.advertise_address, config.port);
            json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [
                    { "clientCIDR": "0.0.0.0/0", "serverAddress": address },
                ],
            })
        }
        ["apis"] => {
            if let Some(response) = aggregated(context, false) {
                return Ok(response);
            }
            let groups: Vec<Value> = groups(context)
                .iter()
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, versions)| group_value(name, versions))
                .collect();
            json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
        }
        ["apis", name] => match groups(context).iter().find(|(group, _)| group == name) {
            Some((name, versions)) => {
                let mut value = group_value(name, versions);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                value
            }
            None => return Ok(not_found_page()),
        },
        ["api", version] => return Ok(resource_list(context, &output, "", version)),
        ["apis", group, version] => {
            return Ok(resource_list(context, &output, group, version));
        }
        _ => return Ok(not_found_page()),
    };
    Ok(json_value(200, &output, &value))
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let entry = |version: &String| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({
        "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

fn resource_list(context: &Context<'_>, output: &Output, group: &str, version: &str) -> Response {
    let scheme = context.server.inner.registry.engine.scheme;
    let published = published(context);
    if !is_served(scheme, group, version) && published.of(group, version).next().is_none() {
        return write_status(&super::paths::not_found(), output);
    }
    let mut list = Vec::new();
    for resource in resources(&published, group, version) {
        let mut value = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.gvk.kind,
            "verbs": resource.verbs.iter().collect::<Vec<_>>(),
        });
        if !resource.short_names.is_empty() {
            value["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            value["categories"] = json!(resource.categories);
        }
        if let Some(hash) = resource.storage_version_hash() {
            value["storageVersionHash"] = hash.into();
        }
        list.push(value);
        for subresource in &resource.subresources {
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": subresource.gvk.kind,
                "verbs": subresource.verbs.iter().collect::<Vec<_>>(),
            });
            if subresource.foreign {
                value["group"] = subresource.gvk.group.clone().into();
                value["version"] = subresource.gvk.version.clone().into();
            }
            list.push(value);
        }
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let group_version = api::GroupVersion::new(group, version).to_string();
    let mut value = json!({
        "kind": "APIResourceList",
        "groupVersion": group_version,
        "resources": list,
    });
    if !group.is_empty() {
        value["apiVersion"] = "v1".into();
    }
    json_value(200, output, &value)
}

/// Aggregated discovery, when the client takes it.
fn aggregated(context: &Context<'_>, core: bool) -> Option<Response> {
    let header = context.parts.headers.get(ACCEPT)?.to_str().ok()?;
    let version = header.split(',').find_map(|range| {
        let compact: String = range.chars().filter(|c| !c.is_whitespace()).collect();
        let wanted = compact.starts_with("application/json")
            && compact.contains("as=APIGroupDiscoveryList")
            && compact.contains("g=apidiscovery.k8s.io");
        match wanted {
            true if compact.contains("v=v2beta1") => Some("v2beta1"),
            true if compact.contains("v=v2") => Some("v2"),
            _ => None,
        }
    })?;
    let published = published(context);
    let items: Vec<Value> = groups(context)
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    json!({
                        "version": version,
                        "freshness": "Current",
                        "resources": discovery_resources(&published, name, version),
                    })
                })
                .collect();
            let mut metadata = json!({});
            if !name.is_empty() {
                metadata["name"] = name.clone().into();
            }
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    let media = match version {
        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
    };
    Some(object(200, media, value.to_string()))
}

fn discovery_resources(published: &Published, group: &str, version: &str) -> Vec<Value> {
    // Group and version are named only where they are not the resource's own.
    let kind = |gvk: &api::GroupVersionKind, foreign: bool| {
        let name = |text: &str| {
            if foreign {
                text.to_owned()
            } else {
                String::new()
            }
        };
        json!({
            "group": name(&gvk.group),
            "version": name(&gvk.version),
            "kind": gvk.kind,
        })
    };
    resources(published, group, version)
        .map(|resource| {
            let mut value = json!({
                "resource": resource.plural,
                "responseKind": kind(&resource.gvk, false),
                "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": resource.singular,
                "verbs": resource.verbs.iter().collect::<Vec<_>>(),
            });
            if !resource.short_names.is_empty() {
                value["shortNames"] = json!(resource.short_names);
            }
            if !resource.categories.is_empty() {
                value["categories"] = json!(resource.categories);
            }
            if !resource.subresources.is_empty() {
                value["subresources"] = resource
                    .subresources
                    .iter()
                    .map(|subresource| {
                        json!({
                            "subresource": subresource.name,
                            "responseKind": kind(&subresource.gvk, subresource.foreign),
                            "verbs": subresource.verbs.iter().collect::<Vec<_>>(),
                        })
                    })
                    .collect();
            }
            value
        })
        .collect()
}
