//! Masquerading and host ports as nftables tables.

use std::net::IpAddr;

use cri::Protocol;
use ipnet::IpNet;
use linux::nftables::{
    Base, Chain, ChainKind, Comparison, Concat, Expression, Family, FieldType, Hook, MetaKey,
    NatKind, NatRange, Register, Rule, Set, Table, Value, Verdict, priority,
};

use crate::state::Attachment;

/// Name of the table, in the `ip` and in the `ip6` family.
const TABLE: &str = "karve-network";
pub(crate) const TABLES: [(Family, &str); 2] = [(Family::Ip, TABLE), (Family::Ip6, TABLE)];

/// The node's ends of all veth pairs.
const PODS: &str = "vethk*";
const HOST_PORTS: &str = "hostports";
const HOST_IP_PORTS: &str = "hostip-ports";
const HAIRPIN: &str = "hairpin";

/// What the rules follow from.
pub(crate) struct Facts<'a> {
    pub(crate) pod_cidrs: &'a [IpNet],
    pub(crate) cluster_cidrs: &'a [IpNet],
    pub(crate) attachments: Vec<&'a Attachment>,
}

/// One table for each family the pods have addresses of.
pub(crate) fn render(facts: &Facts<'_>) -> Vec<Table> {
    facts
        .pod_cidrs
        .iter()
        .map(|pod_cidr| render_family(facts, *pod_cidr))
        .collect()
}

fn render_family(facts: &Facts<'_>, pod_cidr: IpNet) -> Table {
    let ipv6 = pod_cidr.addr().is_ipv6();
    let family = if ipv6 { Family::Ip6 } else { Family::Ip };
    let mut table = Table::new(family, TABLE);
    sets(&mut table, facts, ipv6);
    let base = |kind, hook, priority| {
        Some(Base {
            kind,
            hook,
            priority,
        })
    };
    let jump = || {
        vec![Rule::new([Expression::Verdict(Verdict::Jump(
            HOST_PORTS.into(),
        ))])]
    };
    let nat = ChainKind::Nat;
    table.chains.extend([
        (
            "prerouting".to_owned(),
            Chain {
                base: base(nat, Hook::Prerouting, priority::DSTNAT),
                rules: jump(),
            },
        ),
        (
            "output".to_owned(),
            Chain {
                base: base(nat, Hook::Output, priority::DSTNAT),
                rules: jump(),
            },
        ),
        (
            HOST_PORTS.to_owned(),
            Chain {
                base: None,
                rules: host_ports(ipv6),
            },
        ),
        (
            "postrouting".to_owned(),
            Chain {
                base: base(nat, Hook::Postrouting, priority::SRCNAT),
                rules: postrouting(facts, pod_cidr),
            },
        ),
    ]);
    if !ipv6 {
        // Pod interfaces route loopback addresses for the sake of host ports on
        // 127.0.0.1; nobody else may use that to reach the node's own services.
        let mut rule = Expression::interface(MetaKey::InputInterface, Comparison::Equal, PODS, R0);
        rule.push(Expression::destination(false, R0));
        rule.extend(Expression::within(R0, Comparison::Equal, loopback()));
        rule.push(Expression::Verdict(Verdict::Drop));
        table.chains.insert(
            "guard-loopback".to_owned(),
            Chain {
                base: base(ChainKind::Filter, Hook::Prerouting, priority::RAW),
                rules: vec![Rule::new(rule)],
            },
        );
    }
    table
}

const R0: Register = Register(0);

fn loopback() -> IpNet {
    IpNet::new(IpAddr::from([127, 0, 0, 0]), 8).expect("8 bits fit IPv4")
}

fn address_type(ipv6: bool) -> FieldType {
    if ipv6 {
        FieldType::Ipv6
    } else {
        FieldType::Ipv4
    }
}

/// Registers an address takes.
fn words(ipv6: bool) -> u8 {
    if ipv6 { 4 } else { 1 }
}

/// IANA number of a transport protocol.
fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn sets(table: &mut Table, facts: &Facts<'_>, ipv6: bool) {
    let address = address_type(ipv6);
    let to = [address, FieldType::Port];
    let mut by_port = Set::map(&[FieldType::Protocol, FieldType::Port], &to);
    let mut by_address = Set::map(&[address, FieldType::Protocol, FieldType::Port], &to);
    let mut hairpin = Set::of(&[address, address]);
    for attachment in &facts.attachments {
        let Some(ip) = attachment.ips.iter().find(|ip| ip.is_ipv6() == ipv6) else {
            continue;
        };
        for port in &attachment.ports {
            let value = Concat::new().ip(*ip).port(port.container_port).build();
            let value = Some(Value::Fields(value));
            let protocol = number(port.protocol);
            match port.host_ip.filter(|host_ip| !host_ip.is_unspecified()) {
                Some(host_ip) if host_ip.is_ipv6() != ipv6 => continue,
                Some(host_ip) => {
                    let key = Concat::new()
                        .ip(host_ip)
                        .protocol(protocol)
                        .port(port.host_port);
                    by_address.elements.insert(key.build(), value);
                }
                None => {
                    let key = Concat::new().protocol(protocol).port(port.host_port);
                    by_port.elements.insert(key.build(), value);
                }
            }
            hairpin
                .elements
                .insert(Concat::new().ip(*ip).ip(*ip).build(), None);
        }
    }
    table.sets.extend([
        (HOST_PORTS.to_owned(), by_port),
        (HOST_IP_PORTS.to_owned(), by_address),
        (HAIRPIN.to_owned(), hairpin),
    ]);
}

fn host_ports(ipv6: bool) -> Vec<Rule> {
    let words = words(ipv6);
    let found = Register(8);
    let translate = Expression::Nat {
        kind: NatKind::Destination,
        ipv6,
        to: NatRange {
            address: found,
            port: Some(found.after(words)),
        },
    };
    let lookup = |set: &str| Expression::Lookup {
        set: set.to_owned(),
        key: R0,
        to: Some(found),
        inverted: false,
    };
    let mut exact = Expression::for_this_host(R0);
    exact.extend([
        Expression::destination(ipv6, R0),
        Expression::Meta {
            key: MetaKey::Protocol,
            to: R0.after(words),
        },
        Expression::destination_port(R0.after(words + 1)),
        lookup(HOST_IP_PORTS),
        translate.clone(),
    ]);
    let mut any = Expression::for_this_host(R0);
    any.extend([
        Expression::Meta {
            key: MetaKey::Protocol,
            to: R0,
        },
        Expression::destination_port(R0.after(1)),
        lookup(HOST_PORTS),
        translate,
    ]);
    vec![Rule::new(exact), Rule::new(any)]
}

fn postrouting(facts: &Facts<'_>, pod_cidr: IpNet) -> Vec<Rule> {
    let ipv6 = pod_cidr.addr().is_ipv6();
    let mut rules = Vec::new();
    let to_pods = || Expression::interface(MetaKey::OutputInterface, Comparison::Equal, PODS, R0);

    let mut hairpin = to_pods();
    hairpin.extend([
        Expression::source(ipv6, R0),
        Expression::destination(ipv6, R0.after(words(ipv6))),
        Expression::Lookup {
            set: HAIRPIN.into(),
            key: R0,
            to: None,
            inverted: false,
        },
    ]);
    hairpin.extend(Expression::destination_was_translated(Register(8)));
    hairpin.push(Expression::Masquerade);
    rules.push(Rule::new(hairpin).comment("a pod to its own host port"));

    if !ipv6 {
        let mut local = to_pods();
        local.push(Expression::source(false, R0));
        local.extend(Expression::within(R0, Comparison::Equal, loopback()));
        local.push(Expression::Masquerade);
        rules.push(Rule::new(local).comment("host ports on loopback addresses"));
    }

    let mut leaving = vec![Expression::source(ipv6, R0)];
    leaving.extend(Expression::within(R0, Comparison::Equal, pod_cidr));
    let multicast = if ipv6 { "ff00::/8" } else { "224.0.0.0/4" };
    let multicast: IpNet = multicast.parse().expect("the literals above are CIDRs");
    let inside = facts
        .cluster_cidrs
        .iter()
        .filter(|net| net.addr().is_ipv6() == ipv6);
    for net in inside.copied().chain([pod_cidr, multicast]) {
        leaving.push(Expression::destination(ipv6, R0));
        leaving.extend(Expression::within(R0, Comparison::NotEqual, net));
    }
    leaving.push(Expression::Masquerade);
    rules.push(Rule::new(leaving).comment("traffic that leaves the cluster"));
    rules
}
