//! From a question to records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use client::NamespacedName;
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::index::{Index, ServiceFacts};

/// Seconds answers, positive and negative, may be kept.
pub(crate) const TTL: u32 = 5;
/// Version of the DNS specification.
const SPECIFICATION: &str = "1.1.0";

/// The cluster domain.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    domain: Name,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The name is not of this zone.
    Foreign,
    /// The name does not exist.
    NoName,
    /// The name exists; the records of the wanted type, perhaps none, and what
    /// comes along.
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is another name for this one.
    Alias(Name),
}

impl Outcome {
    fn answers(answers: Vec<Record>) -> Self {
        Self::Records {
            answers,
            additionals: Vec::new(),
        }
    }

    fn nothing() -> Self {
        Self::answers(Vec::new())
    }
}

impl Zone {
    /// The zone of a domain such as `cluster.local`.
    pub(crate) fn new(domain: &str) -> Result<Self, ProtoError> {
        let mut domain = Name::from_ascii(domain)?.to_lowercase();
        domain.set_fqdn(true);
        Ok(Self { domain })
    }

    /// What goes with negative answers.
    pub(crate) fn authority(&self) -> Record {
        let name = |label: &str| {
            self.domain
                .prepend_label(label)
                .unwrap_or_else(|_| self.domain.clone())
        };
        let primary = Name::from_ascii("ns")
            .and_then(|ns| ns.append_domain(&name("dns")))
            .unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(primary, name("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// Answers a question from what is known.
    pub(crate) fn look_up(&self, index: &Index, name: &Name, wanted: RecordType) -> Outcome {
        if !self.domain.zone_of(name) {
            return self.reverse(index, name, wanted);
        }
        let own = usize::from(name.num_labels()).saturating_sub(self.domain.num_labels().into());
        let labels: Option<Vec<String>> = name
            .iter()
            .take(own)
            .map(|label| Some(std::str::from_utf8(label).ok()?.to_ascii_lowercase()))
            .collect();
        let Some(labels) = labels else {
            return Outcome::NoName;
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let asked = Asked {
            zone: self,
            index,
            name,
            wanted,
        };
        match labels.as_slice() {
            [] => asked.apex(),
            ["dns-version"] => asked.version(),
            ["svc" | "pod"] | [_, "pod"] => Outcome::nothing(),
            [address, _, "pod"] => asked.pod(address),
            [namespace, "svc"] if index.has_namespace(namespace) => Outcome::nothing(),
            [service, namespace, "svc"] => {
                asked.service(&NamespacedName::new(*namespace, *service))
            }
            [host, service, namespace, "svc"] => {
                asked.host(host, &NamespacedName::new(*namespace, *service))
            }
            [port, protocol, service, namespace, "svc"] => {
                let key = NamespacedName::new(*namespace, *service);
                match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                    (Some(port), Some(protocol)) => asked.port(port, protocol, &key),
                    _ => Outcome::NoName,
                }
            }
            _ => Outcome::NoName,
        }
    }

    /// Names of addresses: ClusterIPs, and endpoints of headless Services.
    fn reverse(&self, index: &Index, name: &Name, wanted: RecordType) -> Outcome {
        let host = name
            .parse_arpa_name()
            .ok()
            .filter(|net| net.prefix_len() == net.max_prefix_len());
        let Some(ip) = host.map(|net| net.addr()) else {
            return Outcome::Foreign;
        };
        let mut names = Vec::new();
        if let Some(key) = index.service_at(ip) {
            names.extend(self.name_of(key, &[]));
        } else {
            for (key, host) in index.hosts_at(ip) {
                if index.service(key).is_some_and(ServiceFacts::is_headless) {
                    names.extend(self.name_of(key, &[host]));
                }
            }
        }
        if names.is_empty() {
            return Outcome::Foreign;
        }
        if wanted != RecordType::PTR {
            return Outcome::nothing();
        }
        let record = |target| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(target)));
        Outcome::answers(names.into_iter().map(record).collect())
    }

    /// The full name of a Service, or of something below it.
    fn name_of(&self, key: &NamespacedName, below: &[&str]) -> Option<Name> {
        let labels = below
            .iter()
            .copied()
            .chain([key.name.as_str(), &key.namespace, "svc"]);
        let name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
        name.append_domain(&self.domain).ok()
    }
}

struct Asked<'a> {
    zone: &'a Zone,
    index: &'a Index,
    name: &'a Name,
    wanted: RecordType,
}

impl Asked<'_> {
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    fn apex(&self) -> Outcome {
        let authority = self.zone.authority();
        match (self.wanted, &authority.data) {
            (RecordType::SOA, _) => Outcome::answers(vec![authority]),
            (RecordType::NS, RData::SOA(soa)) => {
                Outcome::answers(vec![self.record(RData::NS(NS(soa.mname.clone())))])
            }
            _ => Outcome::nothing(),
        }
    }

    fn version(&self) -> Outcome {
        if self.wanted != RecordType::TXT {
            return Outcome::nothing();
        }
        let text = TXT::new(vec![SPECIFICATION.to_owned()]);
        Outcome::answers(vec![self.record(RData::TXT(text))])
    }

    /// `1-2-3-4.<namespace>.pod`: the address is in the name.
    fn pod(&self, label: &str) -> Outcome {
        let v4 = label
            .replace('-', ".")
            .parse::<Ipv4Addr>()
            .map(IpAddr::from);
        let ip = v4.or_else(|_| {
            label
                .replace('-', ":")
                .parse::<Ipv6Addr>()
                .map(IpAddr::from)
        });
        match ip {
            Ok(ip) => Outcome::answers(self.addresses([ip])),
            Err(_) => Outcome::NoName,
        }
    }

    fn service(&self, key: &NamespacedName) -> Outcome {
        let Some(service) = self.index.service(key) else {
            return Outcome::NoName;
        };
        if let Some(target) = &service.external_name {
            return alias(target);
        }
        if self.wanted == RecordType::SRV {
            return self.ports(service, key, |_| true);
        }
        if !service.is_headless() {
            return Outcome::answers(self.addresses(service.cluster_ips.iter().copied()));
        }
        let hosts = self.index.slices(key).flat_map(|slice| &slice.hosts);
        let mut answers = self.addresses(hosts.map(|host| host.ip));
        // Clients take the first: spread them.
        fastrand::shuffle(&mut answers);
        Outcome::answers(answers)
    }

    fn host(&self, label: &str, key: &NamespacedName) -> Outcome {
        let Some(service) = self.index.service(key) else {
            return Outcome::NoName;
        };
        if let Some(protocol) = label.strip_prefix('_') {
            // `_tcp.<service>` is on the way to the names of ports.
            let known = service.ports.iter().any(|port| port.protocol == protocol);
            return if known {
                Outcome::nothing()
            } else {
                Outcome::NoName
            };
        }
        let hosts: Vec<IpAddr> = self
            .index
            .slices(key)
            .flat_map(|slice| &slice.hosts)
            .filter(|host| host.name == label)
            .map(|host| host.ip)
            .collect();
        if hosts.is_empty() {
            return Outcome::NoName;
        }
        Outcome::answers(self.addresses(hosts))
    }

    fn port(&self, name: &str, protocol: &str, key: &NamespacedName) -> Outcome {
        let Some(service) = self.index.service(key) else {
            return Outcome::NoName;
        };
        let fits = |port: &crate::index::PortFacts| port.name == name && port.protocol == protocol;
        let mut ports = service.ports.iter().chain(
            // Endpoints of headless Services may have ports the Service does not name.
            self.index
                .slices(key)
                .filter(|_| service.is_headless())
                .flat_map(|slice| &slice.ports),
        );
        if !ports.any(fits) {
            return Outcome::NoName;
        }
        if self.wanted != RecordType::SRV {
            return Outcome::nothing();
        }
        self.ports(service, key, fits)
    }

    /// SRV records with the addresses they lead to.
    fn ports(
        &self,
        service: &ServiceFacts,
        key: &NamespacedName,
        fits: impl Fn(&crate::index::PortFacts) -> bool,
    ) -> Outcome {
        let mut targets: Vec<(Name, u16, Vec<IpAddr>)> = Vec::new();
        if service.is_headless() {
            for slice in self.index.slices(key) {
                for port in slice.ports.iter().filter(|port| fits(port)) {
                    for host in &slice.hosts {
                        if let Some(name) = self.zone.name_of(key, &[&host.name]) {
                            targets.push((name, port.number, vec![host.ip]));
                        }
                    }
                }
            }
        } else {
            for port in service.ports.iter().filter(|port| fits(port)) {
                if let Some(name) = self.zone.name_of(key, &[]) {
                    targets.push((name, port.number, service.cluster_ips.clone()));
                }
            }
        }
        let weight = u16::try_from(100 / targets.len().max(1))
            .unwrap_or(0)
            .max(1);
        let mut answers = Vec::new();
        let mut additionals: Vec<Record> = Vec::new();
        for (target, port, ips) in targets {
            for ip in ips {
                let address = Record::from_rdata(target.clone(), TTL, address(ip));
                if !additionals.contains(&address) {
                    additionals.push(address);
                }
            }
            answers.push(self.record(RData::SRV(SRV::new(0, weight, port, target))));
        }
        Outcome::Records {
            answers,
            additionals,
        }
    }

    /// Records of the addresses of the wanted family, each once.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        for ip in ips {
            let fits = match self.wanted {
                RecordType::A => ip.is_ipv4(),
                RecordType::AAAA => ip.is_ipv6(),
                RecordType::ANY => true,
                _ => false,
            };
            let record = self.record(address(ip));
            if fits && !records.contains(&record) {
                records.push(record);
            }
        }
        records
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn alias(target: &str) -> Outcome {
    match Name::from_ascii(target) {
        Ok(mut name) => {
            name.set_fqdn(true);
            Outcome::Alias(name)
        }
        Err(_) => Outcome::nothing(),
    }
}

/// The record that says so.
pub(crate) fn alias_record(name: &Name, target: &Name) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())))
}

#[cfg(test)]
#[path = "zone_tests.rs"]
pub(crate) mod tests;
