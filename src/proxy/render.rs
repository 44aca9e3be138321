//! From Services and EndpointSlices to nftables, as a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use linux::nftables::{
    Base, Chain, ChainKind, Comparison, Concat, Expression, Family, FieldType, Hook, MetaKey,
    NatKind, NatRange, Numbering, Register, Rule, Set, Table, Value, Verdict, priority,
};

use crate::endpoints::{Endpoint, Endpoints, usable};
use crate::flows::Frontends;
use crate::service::{ServicePort, ports};

/// Name of the table, in the `ip` and in the `ip6` family.
pub(crate) const TABLE: &str = "karve-proxy";
/// The bit that asks for masquerading; the same as kube-proxy's, so that
/// software that looks at it finds what it expects.
const MASQUERADE: u32 = 0x4000;

const SERVICES: &str = "services";
const REJECT: &str = "reject";
const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "service-nodeports";
const CLUSTER_IPS: &str = "cluster-ips";
const ENDPOINTS: &str = "endpoints";
const LOCAL_ENDPOINTS: &str = "local-endpoints";
const AFFINITY: &str = "affinity";
const AFFINITY_PICKS: &str = "affinity-picks";
const LOCAL_AFFINITY_PICKS: &str = "local-affinity-picks";
const HAIRPIN: &str = "hairpin";

const R0: Register = Register(0);
/// Where lookups put an address and a port.
const FOUND: Register = Register(8);

/// Everything the rules follow from.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// All Services.
    pub services: Vec<Arc<Service>>,
    /// All EndpointSlices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Name of this node.
    pub node: String,
    /// Zone of this node (`topology.kubernetes.io/zone`).
    pub zone: Option<String>,
    /// All pods. Traffic to ClusterIPs from elsewhere is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Where ClusterIPs come from. Traffic to ones nobody has is dropped.
    pub service_cidrs: Vec<IpNet>,
}

/// What the kernel should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// One table for each address family.
    pub tables: Vec<Table>,
    /// Where UDP flows may lead.
    pub(crate) udp: Frontends,
}

/// Translates Services to rules. The same state gives the same rules, in
/// whatever order its objects come.
pub fn render(state: &State) -> Ruleset {
    let endpoints = Endpoints::new(&state.slices, &state.node);
    let mut udp = Frontends::default();
    let tables = [false, true].map(|ipv6| {
        let mut renderer = Renderer {
            ipv6,
            state,
            table: skeleton(ipv6, state),
            udp: &mut udp,
        };
        let mut all: Vec<ServicePort<'_>> = state
            .services
            .iter()
            .flat_map(|service| ports(service, ipv6))
            .collect();
        // Where two Services claim the same address and port the first by name has it.
        all.sort_by_key(|port| (port.namespace, port.service, port.name, port.protocol));
        for port in &all {
            let key = (port.namespace, port.service, port.name, port.protocol, ipv6);
            renderer.port(port, &endpoints.of(&key));
        }
        renderer.table
    });
    Ruleset {
        tables: tables.into(),
        udp,
    }
}

/// Registers an address takes.
fn words(ipv6: bool) -> u8 {
    if ipv6 { 4 } else { 1 }
}

fn goto(chain: impl Into<String>) -> Expression {
    Expression::Verdict(Verdict::Goto(chain.into()))
}

fn jump(chain: &str) -> Expression {
    Expression::Verdict(Verdict::Jump(chain.into()))
}

fn lookup(set: &str, key: Register, to: Option<Register>) -> Expression {
    Expression::Lookup {
        set: set.to_owned(),
        key,
        to,
        inverted: false,
    }
}

/// Everything but the Services.
fn skeleton(ipv6: bool, state: &State) -> Table {
    let family = if ipv6 { Family::Ip6 } else { Family::Ip };
    let address = if ipv6 {
        FieldType::Ipv6
    } else {
        FieldType::Ipv4
    };
    let (protocol, port, number) = (FieldType::Protocol, FieldType::Port, FieldType::Number);
    let mut table = Table::new(family, TABLE);
    // A Service port is named by its ClusterIP and one number made of protocol
    // and port; five fields are as many as `nft` can print.
    let picks = [address, number, number];
    let affinity = Set {
        dynamic: true,
        ..Set::of(&[address, address, number, address, port])
    };
    table.sets.extend([
        (
            SERVICE_IPS.to_owned(),
            Set::verdicts(&[address, protocol, port]),
        ),
        (NODE_PORTS.to_owned(), Set::verdicts(&[protocol, port])),
        (CLUSTER_IPS.to_owned(), Set::of(&[address])),
        (ENDPOINTS.to_owned(), Set::map(&picks, &[address, port])),
        (
            LOCAL_ENDPOINTS.to_owned(),
            Set::map(&picks, &[address, port]),
        ),
        (AFFINITY_PICKS.to_owned(), Set::verdicts(&picks)),
        (LOCAL_AFFINITY_PICKS.to_owned(), Set::verdicts(&picks)),
        (AFFINITY.to_owned(), affinity),
        (HAIRPIN.to_owned(), Set::of(&[address, address])),
    ]);
    let nat = |hook, priority, rules| Chain {
        base: Some(Base {
            kind: ChainKind::Nat,
            hook,
            priority,
        }),
        rules,
    };
    let to_services = || vec![Rule::new([jump(SERVICES)])];
    table.chains.extend([
        (
            "prerouting".to_owned(),
            nat(Hook::Prerouting, priority::DSTNAT, to_services()),
        ),
        (
            "output".to_owned(),
            nat(Hook::Output, priority::DSTNAT, to_services()),
        ),
        (
            "postrouting".to_owned(),
            nat(Hook::Postrouting, priority::SRCNAT, postrouting(ipv6)),
        ),
        (
            REJECT.to_owned(),
            Chain {
                base: None,
                rules: vec![Rule::new([Expression::Reject { ipv6 }])],
            },
        ),
        (
            SERVICES.to_owned(),
            Chain {
                base: None,
                rules: services(ipv6, state),
            },
        ),
    ]);
    table
}

fn postrouting(ipv6: bool) -> Vec<Rule> {
    let mut marked = Expression::has_mark_bits(MASQUERADE, R0);
    marked.extend(Expression::clear_mark_bits(MASQUERADE, R0));
    marked.push(Expression::Masquerade);
    let mut hairpin = vec![
        Expression::source(ipv6, R0),
        Expression::destination(ipv6, R0.after(words(ipv6))),
        lookup(HAIRPIN, R0, None),
    ];
    hairpin.extend(Expression::destination_was_translated(FOUND));
    hairpin.push(Expression::Masquerade);
    vec![
        Rule::new(marked),
        Rule::new(hairpin).comment("a pod to itself through its Service"),
    ]
}

fn services(ipv6: bool, state: &State) -> Vec<Rule> {
    let words = words(ipv6);
    let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
        nets.iter()
            .copied()
            .filter(|net| net.addr().is_ipv6() == ipv6)
            .collect()
    };
    let mut rules = Vec::new();
    let cluster = of_family(&state.cluster_cidrs);
    if !cluster.is_empty() {
        let mut outsiders = vec![
            Expression::destination(ipv6, R0),
            lookup(CLUSTER_IPS, R0, None),
        ];
        for net in cluster {
            outsiders.push(Expression::source(ipv6, R0));
            outsiders.extend(Expression::within(R0, Comparison::NotEqual, net));
        }
        outsiders.extend(Expression::set_mark_bits(MASQUERADE, R0));
        rules.push(Rule::new(outsiders).comment("to ClusterIPs from outside the pod network"));
    }
    rules.push(Rule::new([
        Expression::destination(ipv6, R0),
        Expression::Meta {
            key: MetaKey::Protocol,
            to: R0.after(words),
        },
        Expression::destination_port(R0.after(words + 1)),
        Expression::VerdictLookup {
            set: SERVICE_IPS.into(),
            key: R0,
        },
    ]));
    rules.push(
        Rule::new([
            Expression::destination(ipv6, R0),
            lookup(CLUSTER_IPS, R0, None),
            goto(REJECT),
        ])
        .comment("ports no Service has"),
    );
    for net in of_family(&state.service_cidrs) {
        let mut nobody = vec![Expression::destination(ipv6, R0)];
        nobody.extend(Expression::within(R0, Comparison::Equal, net));
        nobody.push(Expression::Verdict(Verdict::Drop));
        rules.push(Rule::new(nobody).comment("ClusterIPs no Service has"));
    }
    let mut node_ports = Expression::for_this_host(R0);
    if ipv6 {
        // Loopback cannot be translated to elsewhere in IPv6.
        let loopback = IpNet::new(IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 128)
            .expect("128 bits fit IPv6");
        node_ports.push(Expression::destination(true, R0));
        node_ports.extend(Expression::within(R0, Comparison::NotEqual, loopback));
    }
    node_ports.extend([
        Expression::Meta {
            key: MetaKey::Protocol,
            to: R0,
        },
        Expression::destination_port(R0.after(1)),
        Expression::VerdictLookup {
            set: NODE_PORTS.into(),
            key: R0,
        },
    ]);
    rules.push(Rule::new(node_ports));
    rules
}

struct Renderer<'a> {
    ipv6: bool,
    state: &'a State,
    table: Table,
    udp: &'a mut Frontends,
}

/// Which of a Service port's endpoints a chain picks from.
#[derive(Clone, Copy)]
enum Scope {
    Cluster,
    Local,
}

impl Scope {
    fn chain(self, label: &str) -> String {
        match self {
            Self::Cluster => format!("service-{label}"),
            Self::Local => format!("local-{label}"),
        }
    }

    fn endpoints(self) -> &'static str {
        match self {
            Self::Cluster => ENDPOINTS,
            Self::Local => LOCAL_ENDPOINTS,
        }
    }

    fn picks(self) -> &'static str {
        match self {
            Self::Cluster => AFFINITY_PICKS,
            Self::Local => LOCAL_AFFINITY_PICKS,
        }
    }
}

impl Renderer<'_> {
    fn port(&mut self, port: &ServicePort<'_>, all: &[&Endpoint]) {
        let label = port.label();
        let usable = usable(all, &self.state.node, self.state.zone.as_deref());
        let anywhere = !usable.cluster.is_empty() || !usable.local.is_empty();
        let has_external = port.node_port.is_some()
            || !port.external_ips.is_empty()
            || !port.load_balancer_ips.is_empty();
        let uses_cluster = !port.internal_local || has_external;
        let uses_local = port.internal_local || (port.external_local && has_external);
        if uses_cluster && !usable.cluster.is_empty() {
            self.picker(port, &label, Scope::Cluster, &usable.cluster);
        }
        if uses_local && !usable.local.is_empty() {
            self.picker(port, &label, Scope::Local, &usable.local);
        }
        let to = |scope: Scope, endpoints: &[&Endpoint]| match (endpoints, anywhere) {
            ([_, ..], _) => Verdict::Goto(scope.chain(&label)),
            ([], true) => Verdict::Drop,
            ([], false) => Verdict::Goto(REJECT.into()),
        };
        let internal = if port.internal_local {
            to(Scope::Local, &usable.local)
        } else {
            to(Scope::Cluster, &usable.cluster)
        };
        self.claim_ip(port.cluster_ip, port, internal);
        let ip = Concat::new().ip(port.cluster_ip).build();
        self.set(CLUSTER_IPS).elements.insert(ip, None);

        let mut reachable = usable.cluster.clone();
        reachable.extend(
            usable
                .local
                .iter()
                .filter(|local| !usable.cluster.contains(local)),
        );
        if port.protocol == 17 {
            self.udp.add(port, &reachable);
        }
        for endpoint in reachable.iter().filter(|endpoint| endpoint.local) {
            let key = Concat::new().ip(endpoint.ip).ip(endpoint.ip).build();
            self.set(HAIRPIN).elements.insert(key, None);
        }
        if has_external {
            let external = if anywhere {
                let local = to(Scope::Local, &usable.local);
                let cluster = to(Scope::Cluster, &usable.cluster);
                self.external(port, &label, cluster, local)
            } else {
                Verdict::Goto(REJECT.into())
            };
            self.claim_external(port, &label, external);
        }
    }

    /// The chain for traffic from outside; returns what leads there.
    fn external(
        &mut self,
        port: &ServicePort<'_>,
        label: &str,
        cluster: Verdict,
        local: Verdict,
    ) -> Verdict {
        let mut rules = Vec::new();
        let masquerade = || Expression::set_mark_bits(MASQUERADE, R0);
        if port.external_local {
            // Whoever is on this node or in a pod is not bound by the policy.
            let nets = self.state.cluster_cidrs.clone();
            for net in nets.iter().filter(|net| net.addr().is_ipv6() == self.ipv6) {
                let mut pods = vec![Expression::source(self.ipv6, R0)];
                pods.extend(Expression::within(R0, Comparison::Equal, *net));
                pods.push(Expression::Verdict(cluster.clone()));
                rules.push(Rule::new(pods).comment("from pods"));
            }
            let mut node = Expression::from_this_host(R0);
            node.extend(masquerade());
            node.push(Expression::Verdict(cluster));
            rules.push(Rule::new(node).comment("from the node"));
            rules.push(Rule::new([Expression::Verdict(local)]));
        } else {
            let mut everyone = masquerade();
            everyone.push(Expression::Verdict(cluster));
            rules.push(Rule::new(everyone));
        }
        let chain = format!("external-{label}");
        self.table
            .chains
            .insert(chain.clone(), Chain { base: None, rules });
        Verdict::Goto(chain)
    }

    fn claim_external(&mut self, port: &ServicePort<'_>, label: &str, external: Verdict) {
        if let Some(node_port) = port.node_port {
            let key = Concat::new()
                .protocol(port.protocol)
                .port(node_port)
                .build();
            let value = Some(Value::Verdict(external.clone()));
            self.set(NODE_PORTS).elements.entry(key).or_insert(value);
        }
        for ip in &port.external_ips {
            self.claim_ip(*ip, port, external.clone());
        }
        let checked = if port.source_ranges.is_empty() {
            external
        } else {
            let mut rules: Vec<Rule> = port
                .source_ranges
                .iter()
                .map(|range| {
                    let mut allowed = vec![Expression::source(self.ipv6, R0)];
                    allowed.extend(Expression::within(R0, Comparison::Equal, *range));
                    allowed.push(Expression::Verdict(external.clone()));
                    Rule::new(allowed)
                })
                .collect();
            rules.push(Rule::new([Expression::Verdict(Verdict::Drop)]));
            let chain = format!("firewall-{label}");
            self.table
                .chains
                .insert(chain.clone(), Chain { base: None, rules });
            Verdict::Goto(chain)
        };
        for ip in &port.load_balancer_ips {
            self.claim_ip(*ip, port, checked.clone());
        }
    }

    fn claim_ip(&mut self, ip: IpAddr, port: &ServicePort<'_>, verdict: Verdict) {
        let key = Concat::new()
            .ip(ip)
            .protocol(port.protocol)
            .port(port.port)
            .build();
        let value = Some(Value::Verdict(verdict));
        self.set(SERVICE_IPS).elements.entry(key).or_insert(value);
    }

    /// The chain that picks one of the endpoints.
    fn picker(&mut self, port: &ServicePort<'_>, label: &str, scope: Scope, from: &[&Endpoint]) {
        let mut rules = Vec::new();
        if let Some(timeout) = port.affinity {
            for endpoint in from {
                let chain = self.sticky_endpoint(port, label, endpoint, timeout);
                let mut known = self.affinity_key(port, endpoint);
                known.push(lookup(AFFINITY, R0, None));
                known.push(goto(chain));
                rules.push(Rule::new(known));
            }
        }
        let words = words(self.ipv6);
        let count = u32::try_from(from.len()).unwrap_or(u32::MAX);
        let mut pick = load_service(port, R0);
        let index = R0.after(words + 1);
        pick.push(Expression::Numgen {
            how: Numbering::Random,
            modulus: count,
            to: index,
        });
        if port.affinity.is_some() {
            pick.push(Expression::VerdictLookup {
                set: scope.picks().into(),
                key: R0,
            });
        } else {
            pick.push(lookup(scope.endpoints(), R0, Some(FOUND)));
            pick.push(self.translate(FOUND));
        }
        rules.push(Rule::new(pick));
        for (index, endpoint) in (0..count).zip(from) {
            let key = Concat::new()
                .ip(port.cluster_ip)
                .number(service_number(port))
                .number(index)
                .build();
            let (set, value) = if port.affinity.is_some() {
                let chain = endpoint_chain(label, endpoint);
                (scope.picks(), Value::Verdict(Verdict::Goto(chain)))
            } else {
                let target = Concat::new().ip(endpoint.ip).port(endpoint.port).build();
                (scope.endpoints(), Value::Fields(target))
            };
            self.set(set).elements.insert(key, Some(value));
        }
        self.table
            .chains
            .insert(scope.chain(label), Chain { base: None, rules });
    }

    /// The chain that leads to an endpoint and remembers who went there.
    fn sticky_endpoint(
        &mut self,
        port: &ServicePort<'_>,
        label: &str,
        endpoint: &Endpoint,
        timeout: Duration,
    ) -> String {
        let mut rule = self.affinity_key(port, endpoint);
        rule.push(Expression::Remember {
            set: AFFINITY.into(),
            key: R0,
            timeout,
        });
        let target = R0.after(2 * words(self.ipv6) + 1);
        rule.push(self.translate(target));
        let chain = endpoint_chain(label, endpoint);
        let rules = vec![Rule::new(rule)];
        self.table
            .chains
            .insert(chain.clone(), Chain { base: None, rules });
        chain
    }

    /// Loads client, Service port and endpoint, in this order.
    fn affinity_key(&self, port: &ServicePort<'_>, endpoint: &Endpoint) -> Vec<Expression> {
        let words = words(self.ipv6);
        let mut key = vec![Expression::source(self.ipv6, R0)];
        key.extend(load_service(port, R0.after(words)));
        let target = R0.after(2 * words + 1);
        key.push(Expression::Load {
            value: Concat::new().ip(endpoint.ip).build(),
            to: target,
        });
        key.push(Expression::Load {
            value: endpoint.port.to_be_bytes().to_vec(),
            to: target.after(words),
        });
        key
    }

    fn translate(&self, address: Register) -> Expression {
        let port = Some(address.after(words(self.ipv6)));
        Expression::Nat {
            kind: NatKind::Destination,
            ipv6: self.ipv6,
            to: NatRange { address, port },
        }
    }

    fn set(&mut self, name: &str) -> &mut Set {
        self.table
            .sets
            .get_mut(name)
            .expect("the skeleton holds every set")
    }
}

/// Protocol and port of a Service port in one number.
fn service_number(port: &ServicePort<'_>) -> u32 {
    (u32::from(port.protocol) << 16) | u32::from(port.port)
}

/// Loads what names a Service port.
fn load_service(port: &ServicePort<'_>, to: Register) -> Vec<Expression> {
    let ip = Concat::new().ip(port.cluster_ip).build();
    let number = service_number(port).to_ne_bytes().to_vec();
    let words = words(port.cluster_ip.is_ipv6());
    vec![
        Expression::Load { value: ip, to },
        Expression::Load {
            value: number,
            to: to.after(words),
        },
    ]
}

fn endpoint_chain(label: &str, endpoint: &Endpoint) -> String {
    let ip = endpoint.ip.to_string().replace(':', ".");
    format!("endpoint-{label}/{ip}/{}", endpoint.port)
}

impl Frontends {
    fn add(&mut self, port: &ServicePort<'_>, endpoints: &[&Endpoint]) {
        let targets: BTreeSet<(IpAddr, u16)> = endpoints
            .iter()
            .map(|endpoint| (endpoint.ip, endpoint.port))
            .collect();
        let ips = [port.cluster_ip]
            .into_iter()
            .chain(port.external_ips.iter().copied())
            .chain(port.load_balancer_ips.iter().copied());
        for ip in ips {
            self.by_address.insert((ip, port.port), targets.clone());
        }
        if let Some(node_port) = port.node_port {
            let known: &mut BTreeMap<_, BTreeSet<_>> = &mut self.by_node_port;
            known.entry(node_port).or_default().extend(targets);
        }
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
