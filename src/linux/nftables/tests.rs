#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::super::*;
use super::Owner;
use crate::netns;
use crate::testing::skip_unless_root;

struct Namespace {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Namespace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ns");
        netns::create(&path).unwrap();
        Self {
            _folder: folder,
            path,
        }
    }

    fn owner(&self) -> Owner {
        Owner::open_in(&self.path).unwrap().unwrap()
    }

    /// What Debian's `nft` makes of the rules; `None` without it.
    fn listing(&self) -> Option<String> {
        netns::run_in(&self.path, || {
            let output = Command::new("nft")
                .args(["-n", "list", "ruleset"])
                .output()
                .ok()?;
            Some(
                String::from_utf8(output.stdout).unwrap()
                    + &String::from_utf8_lossy(&output.stderr),
            )
        })
        .unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        netns::delete(&self.path).unwrap();
    }
}

/// One of everything.
fn everything(services: u16) -> Table {
    let mut table = Table::new(Family::Ip, "karve-test");
    let r = Register;
    let base = |kind, hook, priority| {
        Some(Base {
            kind,
            hook,
            priority,
        })
    };
    let mut vmap = Set::verdicts(&[FieldType::Ipv4, FieldType::Protocol, FieldType::Port]);
    let mut endpoints = Set::map(
        &[FieldType::Port, FieldType::Number],
        &[FieldType::Ipv4, FieldType::Port],
    );
    let mut addresses = Set::of(&[FieldType::Ipv4]);
    addresses
        .elements
        .insert(Concat::new().ip([10, 43, 0, 1].into()).build(), None);
    let affinity = Set {
        dynamic: true,
        ..Set::of(&[FieldType::Ipv4, FieldType::Port])
    };
    for service in 0..services {
        let [high, low] = service.to_be_bytes();
        let chain = format!("svc-{service}");
        let key = Concat::new()
            .ip([10, 43, high, low].into())
            .protocol(6)
            .port(80)
            .build();
        vmap.elements
            .insert(key, Some(Value::Verdict(Verdict::Goto(chain.clone()))));
        for index in 0..2 {
            let key = Concat::new().port(service).number(index).build();
            let value = Concat::new()
                .ip([10, 42, high, low].into())
                .port(8080)
                .build();
            endpoints.elements.insert(key, Some(Value::Fields(value)));
        }
        let dnat = Expression::Nat {
            kind: NatKind::Destination,
            ipv6: false,
            to: NatRange {
                address: r(4),
                port: Some(r(5)),
            },
        };
        let pick = Rule::new([
            Expression::source(false, r(0)),
            Expression::Load {
                value: service.to_be_bytes().to_vec(),
                to: r(1),
            },
            Expression::Remember {
                set: "affinity".into(),
                key: r(0),
                timeout: Duration::from_secs(10800),
            },
            Expression::Numgen {
                how: Numbering::Random,
                modulus: 2,
                to: r(2),
            },
            Expression::Lookup {
                set: "endpoints".into(),
                key: r(1),
                to: Some(r(4)),
                inverted: false,
            },
            dnat,
        ])
        .comment("picks an endpoint");
        table.chains.insert(
            chain,
            Chain {
                base: None,
                rules: vec![pick],
            },
        );
    }
    let mut to_services = vec![
        Expression::destination(false, r(0)),
        Expression::Meta {
            key: MetaKey::Protocol,
            to: r(1),
        },
        Expression::destination_port(r(2)),
    ];
    to_services.push(Expression::VerdictLookup {
        set: "service-ips".into(),
        key: r(0),
    });
    let mut local = Expression::for_this_host(r(0));
    local.extend(Expression::interface(
        MetaKey::InputInterface,
        Comparison::NotEqual,
        "karve0",
        r(0),
    ));
    local.extend(Expression::interface(
        MetaKey::InputInterface,
        Comparison::Equal,
        "ve*",
        r(0),
    ));
    local.extend(Expression::set_mark_bits(0x4000, r(0)));
    local.push(Expression::Counter);
    let mut outside = vec![Expression::destination(false, r(0))];
    outside.extend(Expression::within(
        r(0),
        Comparison::NotEqual,
        "10.43.0.0/16".parse().unwrap(),
    ));
    outside.push(Expression::Verdict(Verdict::Return));
    let services = vec![
        Rule::new(to_services),
        Rule::new(local),
        Rule::new(outside),
        Rule::new([
            Expression::destination(false, r(0)),
            Expression::Lookup {
                set: "ips".into(),
                key: r(0),
                to: None,
                inverted: true,
            },
            Expression::Reject { ipv6: false },
        ]),
        Rule::new([Expression::Verdict(Verdict::Drop)]),
    ];
    let jump = Rule::new([Expression::Verdict(Verdict::Jump("services".into()))]);
    let mut masquerade = Expression::has_mark_bits(0x4000, r(0));
    masquerade.extend(Expression::destination_was_translated(r(0)));
    masquerade.extend(Expression::from_this_host(r(0)));
    masquerade.push(Expression::Masquerade);
    table.chains.extend([
        (
            "services".to_owned(),
            Chain {
                base: None,
                rules: services,
            },
        ),
        (
            "prerouting".to_owned(),
            Chain {
                base: base(ChainKind::Nat, Hook::Prerouting, priority::DSTNAT),
                rules: vec![jump.clone()],
            },
        ),
        (
            "output".to_owned(),
            Chain {
                base: base(ChainKind::Nat, Hook::Output, priority::DSTNAT),
                rules: vec![jump],
            },
        ),
        (
            "postrouting".to_owned(),
            Chain {
                base: base(ChainKind::Nat, Hook::Postrouting, priority::SRCNAT),
                rules: vec![Rule::new(masquerade)],
            },
        ),
        (
            "forward".to_owned(),
            Chain {
                base: base(ChainKind::Filter, Hook::Forward, priority::FILTER),
                rules: vec![],
            },
        ),
    ]);
    table.sets.extend([
        ("service-ips".to_owned(), vmap),
        ("endpoints".to_owned(), endpoints),
        ("affinity".to_owned(), affinity),
        ("ips".to_owned(), addresses),
    ]);
    table
}

#[test]
fn the_kernel_takes_every_expression() {
    skip_unless_root!();
    let namespace = Namespace::new();
    let mut owner = namespace.owner();
    assert!(owner.sync(vec![everything(3)]).unwrap());
    assert!(!owner.sync(vec![everything(3)]).unwrap(), "nothing differs");
    let Some(listing) = namespace.listing() else {
        return;
    };
    for wanted in [
        "table ip karve-test",
        "type nat hook prerouting priority -100; policy accept;",
        "type filter hook forward priority 0; policy accept;",
        "type ipv4_addr . inet_proto . inet_service : verdict",
        "10.43.0.2 . 6 . 80 : goto svc-2",
        "fib daddr type 2 iifname != \"karve0\" iifname \"ve*\"",
        "masquerade fully-random",
        "update @affinity",
        "numgen random mod 2",
        "comment \"picks an endpoint\"",
        "reject",
        "ip daddr != 10.43.0.0/16 return",
    ] {
        assert!(listing.contains(wanted), "no {wanted:?} in\n{listing}");
    }
}

#[test]
fn sends_differences_and_survives_strangers() {
    skip_unless_root!();
    let namespace = Namespace::new();
    let mut owner = namespace.owner();
    for services in [3, 0, 700, 699, 5] {
        assert!(
            owner.sync(vec![everything(services)]).unwrap(),
            "{services}"
        );
        // A restarted process knows nothing and replaces everything.
        assert!(
            namespace.owner().sync(vec![everything(services)]).unwrap(),
            "{services}"
        );
    }
    let found = netns::run_in(&namespace.path, || tables(Family::Ip))
        .unwrap()
        .unwrap();
    assert_eq!(found, ["karve-test"]);
    // Somebody flushes the rules behind its back.
    namespace
        .owner()
        .remove(&[(Family::Ip, "karve-test")])
        .unwrap();
    assert!(owner.sync(vec![everything(6)]).unwrap());
    let found = netns::run_in(&namespace.path, || tables(Family::Ip))
        .unwrap()
        .unwrap();
    assert_eq!(found, ["karve-test"]);
    for _ in 0..2 {
        owner
            .remove(&[(Family::Ip, "karve-test"), (Family::Ip6, "karve-test")])
            .unwrap();
    }
    let found = netns::run_in(&namespace.path, || tables(Family::Ip))
        .unwrap()
        .unwrap();
    assert!(found.is_empty());
}

#[test]
fn errors_name_the_change() {
    skip_unless_root!();
    let namespace = Namespace::new();
    let mut table = Table::new(Family::Ip, "t");
    let rule = Rule::new([Expression::Verdict(Verdict::Jump("nowhere".into()))]);
    table.chains.insert(
        "c".into(),
        Chain {
            base: None,
            rules: vec![rule],
        },
    );
    let error = namespace.owner().sync(vec![table]).unwrap_err();
    assert!(
        error.to_string().contains("adding a rule to chain c"),
        "{error}"
    );
}
