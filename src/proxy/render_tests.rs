#![allow(clippy::unwrap_used, reason = "tests")]

use linux::nftables::{Change, plan};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn service(name: &str, spec: Json) -> Arc<Service> {
    let object = json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn slice(service: &str, endpoints: Json) -> Arc<EndpointSlice> {
    let object = json!({
        "metadata": {
            "namespace": "default", "name": format!("{service}-1"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn state(services: Vec<Arc<Service>>, slices: Vec<Arc<EndpointSlice>>) -> State {
    State {
        services,
        slices,
        node: "n".into(),
        zone: None,
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
    }
}

fn verdict(table: &Table, set: &str, key: Concat) -> Option<String> {
    match table.sets[set].elements.get(&key.build())? {
        Some(Value::Verdict(Verdict::Drop)) => Some("drop".into()),
        Some(Value::Verdict(verdict)) => verdict.chain().map(Into::into),
        _ => None,
    }
}

fn to_ip(table: &Table, ip: &str, port: u16) -> Option<String> {
    verdict(
        table,
        SERVICE_IPS,
        Concat::new().ip(ip.parse().unwrap()).protocol(6).port(port),
    )
}

fn to_node(table: &Table, port: u16) -> Option<String> {
    verdict(table, NODE_PORTS, Concat::new().protocol(6).port(port))
}

/// Where the last rule of a chain leads.
fn end(table: &Table, chain: &str) -> String {
    let rule = table.chains[chain].rules.last().unwrap();
    match rule.expressions.last().unwrap() {
        Expression::Verdict(Verdict::Goto(chain)) => chain.clone(),
        Expression::Verdict(Verdict::Drop) => "drop".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn policies_decide_where_traffic_goes() {
    let here = json!({"addresses": ["10.42.0.2"], "nodeName": "n"});
    let there = json!({"addresses": ["10.42.1.2"], "nodeName": "m"});
    let (service, local, external) = (
        "service-default/web/tcp/80",
        "local-default/web/tcp/80",
        "external-default/web/tcp/80",
    );
    for (internal, outer, endpoints, cluster_ip, node_port, end_of_external) in [
        (
            "Cluster",
            "Cluster",
            json!([here, there]),
            service,
            external,
            service,
        ),
        (
            "Local",
            "Cluster",
            json!([here, there]),
            local,
            external,
            service,
        ),
        (
            "Local",
            "Local",
            json!([here, there]),
            local,
            external,
            local,
        ),
        (
            "Cluster",
            "Local",
            json!([there]),
            service,
            external,
            "drop",
        ),
        ("Local", "Local", json!([there]), "drop", external, "drop"),
        ("Local", "Cluster", json!([]), "reject", "reject", ""),
        ("Cluster", "Local", json!([]), "reject", "reject", ""),
    ] {
        let case = format!("{internal} {outer} {endpoints}");
        let web = self::service(
            "web",
            json!({
                "clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
                "internalTrafficPolicy": internal, "externalTrafficPolicy": outer,
                "externalIPs": ["203.0.113.1", "2001:db8::1"],
            }),
        );
        let ruleset = render(&state(vec![web], vec![slice("web", endpoints)]));
        let table = &ruleset.tables[0];
        assert_eq!(
            to_ip(table, "10.43.0.9", 80).as_deref(),
            Some(cluster_ip),
            "{case}"
        );
        assert_eq!(to_node(table, 30080).as_deref(), Some(node_port), "{case}");
        assert_eq!(
            to_ip(table, "203.0.113.1", 80).as_deref(),
            Some(node_port),
            "{case}"
        );
        if node_port == external {
            assert_eq!(end(table, external), end_of_external, "{case}");
        }
        assert!(
            ruleset.tables[1].sets[SERVICE_IPS].elements.is_empty(),
            "{case}"
        );
    }
}

#[test]
fn leaves_out_what_is_not_proxied() {
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    let mut foreign = Service::clone(&service(
        "d",
        json!({"clusterIP": "10.43.0.9", "ports": ports}),
    ));
    let label = (
        "service.kubernetes.io/service-proxy-name".to_owned(),
        "other".to_owned(),
    );
    foreign.metadata.labels = Some([label].into());
    let services = vec![
        service(
            "a",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}),
        ),
        service(
            "b",
            json!({"type": "ExternalName", "externalName": "x.example", "ports": ports}),
        ),
        service("c", json!({"ports": ports})),
        Arc::new(foreign),
    ];
    let ruleset = render(&state(services, vec![]));
    assert_eq!(ruleset, render(&state(vec![], vec![])));
}

#[test]
fn source_ranges_guard_load_balancer_addresses_only() {
    let mut web = Service::clone(&service(
        "web",
        json!({
            "clusterIP": "10.43.0.9", "type": "LoadBalancer",
            "ports": [{"port": 80, "nodePort": 30080}],
            "loadBalancerSourceRanges": ["198.51.100.0/24", " 192.0.2.0/24"],
        }),
    ));
    web.status = serde_json::from_value(json!({
        "loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"ip": "203.0.113.8", "ipMode": "Proxy"}]},
    }))
    .unwrap();
    let endpoints = slice(
        "web",
        json!([{"addresses": ["10.42.1.2"], "nodeName": "m"}]),
    );
    let ruleset = render(&state(vec![Arc::new(web)], vec![endpoints]));
    let table = &ruleset.tables[0];
    let firewall = "firewall-default/web/tcp/80";
    assert_eq!(to_ip(table, "203.0.113.7", 80).as_deref(), Some(firewall));
    assert_eq!(to_ip(table, "203.0.113.8", 80), None);
    assert_eq!(
        to_node(table, 30080).as_deref(),
        Some("external-default/web/tcp/80")
    );
    assert_eq!(table.chains[firewall].rules.len(), 3);
    assert_eq!(end(table, firewall), "drop");
}

#[test]
fn the_way_of_a_packet_does_not_grow_with_the_services() {
    let many = |count: u8| {
        let services = (0..count)
            .map(|at| {
                service(
                    &format!("s{at}"),
                    json!({"clusterIP": format!("10.43.0.{at}"), "ports": [{"port": 80}]}),
                )
            })
            .collect();
        let slices = (0..count)
            .map(|at| {
                slice(
                    &format!("s{at}"),
                    json!([{"addresses": [format!("10.42.1.{at}")]}]),
                )
            })
            .collect();
        render(&state(services, slices)).tables.remove(0)
    };
    let (few, lots) = (many(1), many(200));
    for chain in ["prerouting", "output", "postrouting", SERVICES, REJECT] {
        assert_eq!(few.chains[chain], lots.chains[chain], "{chain}");
    }
    // One endpoint more is a handful of changes among hundreds of Services.
    let mut changed = lots.clone();
    changed
        .sets
        .get_mut(ENDPOINTS)
        .unwrap()
        .elements
        .pop_first();
    let changes = plan(Some(&changed), &lots);
    assert!(
        matches!(changes.as_slice(), [Change::AddElements(..)]),
        "{changes:?}"
    );
}

proptest! {
    #[test]
    fn order_does_not_matter(shuffled in Just((0usize..12).collect::<Vec<_>>()).prop_shuffle()) {
        let object = |at: usize| {
            let name = format!("s{at}");
            let spec = json!({
                // Pairs share a node port and an external address.
                "clusterIP": format!("10.43.0.{at}"),
                "ports": [{"port": 80, "nodePort": 30000 + at / 2}],
                "externalIPs": [format!("203.0.113.{}", at / 2)],
                "sessionAffinity": if at.is_multiple_of(3) { "ClientIP" } else { "None" },
            });
            let endpoints = json!([
                {"addresses": [format!("10.42.1.{at}")], "nodeName": "n"},
                {"addresses": ["10.42.2.1"], "conditions": {"ready": !at.is_multiple_of(4)}},
            ]);
            (service(&name, spec), slice(&name, endpoints))
        };
        let build = |order: Vec<usize>| {
            let (services, slices) = order.into_iter().map(object).unzip();
            render(&state(services, slices))
        };
        prop_assert_eq!(build(shuffled), build((0..12).collect()));
    }
}
