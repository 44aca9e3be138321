#![allow(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;

pub(crate) fn service(name: &str, spec: Value) -> k8s_openapi::api::core::v1::Service {
    let object = json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

pub(crate) fn index() -> Index {
    let mut index = Index::default();
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    for (name, spec) in [
        (
            "web",
            json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9", "fd00:43::9"], "ports": http}),
        ),
        (
            "db",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": http}),
        ),
        (
            "ext",
            json!({"type": "ExternalName", "externalName": "www.example.com"}),
        ),
        (
            "loop",
            json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
        ),
    ] {
        index.put_service(&service(name, spec));
    }
    let slice = |name: &str, endpoints: Value| {
        let object = json!({
            "metadata": {"namespace": "default", "name": name,
                "labels": {"kubernetes.io/service-name": "db"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        serde_json::from_value(object).unwrap()
    };
    index.put_slice(&slice(
        "db-1",
        json!([
            {"addresses": ["10.42.0.2"], "hostname": "db-0"},
            {"addresses": ["10.42.0.3"]},
            {"addresses": ["10.42.0.4"], "conditions": {"ready": false}},
        ]),
    ));
    index.put_slice(&slice(
        "db-2",
        json!([{"addresses": ["10.42.0.2"], "hostname": "db-0"}]),
    ));
    index
}

/// `A 10.43.0.9`, … sorted; `-` for no data, `!` for no name, `?` for foreign.
fn ask(name: &str, wanted: RecordType) -> String {
    let zone = Zone::new("cluster.local").unwrap();
    let asked = Name::from_ascii(name).unwrap();
    match zone.look_up(&index(), &asked, wanted) {
        Outcome::Foreign => "?".into(),
        Outcome::NoName => "!".into(),
        Outcome::Alias(target) => format!("-> {target}"),
        Outcome::Records {
            answers,
            additionals,
        } => {
            assert!(
                answers
                    .iter()
                    .all(|record| record.name.eq_case(&asked) && record.ttl == TTL)
            );
            let mut all: Vec<String> = answers
                .iter()
                .map(|record| format!("{} {}", record.record_type(), record.data))
                .chain(
                    additionals
                        .iter()
                        .map(|record| format!("+{} {}", record.name, record.data)),
                )
                .collect();
            all.sort();
            if all.is_empty() {
                "-".into()
            } else {
                all.join("; ")
            }
        }
    }
}

#[test]
fn answers_as_the_specification_says() {
    use RecordType::{A, AAAA, CNAME, MX, PTR, SOA, SRV, TXT};
    let svc = "default.svc.cluster.local.";
    for (name, wanted, answer) in [
        (format!("web.{svc}"), A, "A 10.43.0.9"),
        ("WEB.Default.svc.CLUSTER.local.".into(), A, "A 10.43.0.9"),
        (format!("web.{svc}"), AAAA, "AAAA fd00:43::9"),
        (format!("web.{svc}"), MX, "-"),
        (
            format!("web.{svc}"),
            SRV,
            "+web.default.svc.cluster.local. 10.43.0.9; +web.default.svc.cluster.local. fd00:43::9; \
             SRV 0 100 80 web.default.svc.cluster.local.",
        ),
        (
            format!("_http._tcp.web.{svc}"),
            SRV,
            "+web.default.svc.cluster.local. 10.43.0.9; +web.default.svc.cluster.local. fd00:43::9; \
             SRV 0 100 80 web.default.svc.cluster.local.",
        ),
        (format!("_http._tcp.web.{svc}"), A, "-"),
        (format!("_http._udp.web.{svc}"), SRV, "!"),
        (format!("_tcp.web.{svc}"), SRV, "-"),
        (format!("db.{svc}"), A, "A 10.42.0.2; A 10.42.0.3"),
        (format!("db.{svc}"), AAAA, "-"),
        (format!("db-0.db.{svc}"), A, "A 10.42.0.2"),
        (format!("10-42-0-3.db.{svc}"), A, "A 10.42.0.3"),
        (format!("10-42-0-4.db.{svc}"), A, "!"),
        (
            format!("_http._tcp.db.{svc}"),
            SRV,
            "+10-42-0-3.db.default.svc.cluster.local. 10.42.0.3; \
             +db-0.db.default.svc.cluster.local. 10.42.0.2; \
             SRV 0 33 8080 10-42-0-3.db.default.svc.cluster.local.; \
             SRV 0 33 8080 db-0.db.default.svc.cluster.local.; \
             SRV 0 33 8080 db-0.db.default.svc.cluster.local.",
        ),
        (format!("ext.{svc}"), A, "-> www.example.com."),
        (format!("ext.{svc}"), CNAME, "-> www.example.com."),
        (format!("absent.{svc}"), A, "!"),
        (format!("a.b.c.d.web.{svc}"), A, "!"),
        (svc.to_owned(), A, "-"),
        ("other.svc.cluster.local.".into(), A, "!"),
        ("svc.cluster.local.".into(), A, "-"),
        ("1-2-3-4.default.pod.cluster.local.".into(), A, "A 1.2.3.4"),
        ("1-2-3-4.default.pod.cluster.local.".into(), AAAA, "-"),
        (
            "fd00-42--2.default.pod.cluster.local.".into(),
            AAAA,
            "AAAA fd00:42::2",
        ),
        ("1-2-3.default.pod.cluster.local.".into(), A, "!"),
        ("dns-version.cluster.local.".into(), TXT, "TXT 1.1.0"),
        ("cluster.local.".into(), A, "-"),
        (
            "cluster.local.".into(),
            SOA,
            "SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5",
        ),
        ("example.com.default.svc.cluster.local.".into(), A, "!"),
        ("example.com.".into(), A, "?"),
        ("notcluster.local.".into(), A, "?"),
        (
            "9.0.43.10.in-addr.arpa.".into(),
            PTR,
            "PTR web.default.svc.cluster.local.",
        ),
        ("9.0.43.10.in-addr.arpa.".into(), A, "-"),
        (
            "2.0.42.10.in-addr.arpa.".into(),
            PTR,
            "PTR db-0.db.default.svc.cluster.local.",
        ),
        ("8.8.8.8.in-addr.arpa.".into(), PTR, "?"),
        ("10.in-addr.arpa.".into(), PTR, "?"),
    ] {
        assert_eq!(ask(&name, wanted), answer, "{wanted} {name}");
    }
}

#[test]
fn forgets_what_is_gone() {
    let mut index = index();
    index.remove_service(&service("web", json!({})));
    for name in ["db-1", "db-2"] {
        let object = json!({"metadata": {"namespace": "default", "name": name,
            "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4"});
        index.remove_slice(&serde_json::from_value(object).unwrap());
    }
    let zone = Zone::new("cluster.local").unwrap();
    for (name, outcome) in [
        ("web.default.svc.cluster.local.", Outcome::NoName),
        ("9.0.43.10.in-addr.arpa.", Outcome::Foreign),
        ("2.0.42.10.in-addr.arpa.", Outcome::Foreign),
        ("db.default.svc.cluster.local.", Outcome::nothing()),
    ] {
        let name = Name::from_ascii(name).unwrap();
        assert_eq!(
            zone.look_up(&index, &name, RecordType::A),
            outcome,
            "{name}"
        );
    }
}
