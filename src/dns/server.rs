//! Sockets, and what happens to a question.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Shutdown, Supervisor};
use client::{Change, Informer, Informers, Watched};
use hickory_proto::ProtoError;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::forward::{Upstreams, read_framed, write_framed};
use crate::index::Index;
use crate::message::{Answer, Incoming, Question, parse};
use crate::zone::{Outcome, Zone, alias_record};

/// Questions under way at once; what comes beyond is refused at once.
const MAX_QUESTIONS: usize = 1024;
/// TCP connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long questions about the cluster wait for the first list of Services.
const WAIT_FOR_LIST: Duration = Duration::from_secs(4);
/// Longest chain of aliases followed.
const MAX_ALIASES: usize = 8;

/// What the server needs.
#[derive(Debug)]
pub struct Config {
    /// Where it is asked.
    pub sockets: Vec<Sockets>,
    /// The cluster domain, such as `cluster.local`.
    pub cluster_domain: String,
    /// Who knows the rest.
    pub upstreams: Upstreams,
}

/// One address, over both transports.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both; port 0 takes one that is free in both.
    pub async fn bind(address: SocketAddr) -> Result<Self, Error> {
        let failed = |source| Error::Bind { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let bound = tcp.local_addr().map_err(failed)?;
        let udp = UdpSocket::bind(bound).await.map_err(failed)?;
        Ok(Self { udp, tcp })
    }

    /// The address both are bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not of this node.
    #[error("listening for DNS at {address}; another server may have the port: see `ss -lntup`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The cluster domain is no domain name.
    #[error("cluster domain {domain:?} is no domain name; use one like cluster.local")]
    Domain {
        /// What was given.
        domain: String,
        /// Why it is none.
        #[source]
        source: ProtoError,
    },
}

/// Cluster DNS of one node.
pub struct Dns {
    sockets: Vec<Sockets>,
    resolver: Arc<Resolver>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

/// Answers questions, wherever they come from.
struct Resolver {
    zone: Zone,
    upstreams: Upstreams,
    index: RwLock<Index>,
    synced: watch::Sender<bool>,
    questions: Arc<Semaphore>,
}

impl Dns {
    /// A server that has not read from its sockets yet.
    pub fn new(config: Config, informers: &Informers) -> Result<Self, Error> {
        let resolver = Resolver::new(&config.cluster_domain, config.upstreams)?;
        Ok(Self {
            sockets: config.sockets,
            resolver: Arc::new(resolver),
            services: informers.of(),
            slices: informers.of(),
        })
    }

    /// Answers until told to stop.
    pub async fn run(self, stop: Shutdown) {
        let tasks = Supervisor::new(stop.clone());
        let Self {
            sockets,
            resolver,
            services,
            slices,
        } = self;
        let synced = (services.clone(), slices.clone(), resolver.clone());
        follow(
            &tasks,
            "dns services",
            services,
            resolver.clone(),
            |index, change| match change {
                Ok(service) => index.put_service(service),
                Err(service) => index.remove_service(service),
            },
        );
        follow(
            &tasks,
            "dns endpoints",
            slices,
            resolver.clone(),
            |index, change| match change {
                Ok(slice) => index.put_slice(slice),
                Err(slice) => index.remove_slice(slice),
            },
        );
        tasks.spawn("dns first list", |stop| async move {
            let (services, slices, resolver) = synced;
            let lists = async {
                services.synced().await;
                slices.synced().await;
            };
            if stop.guard(lists).await.is_some() {
                let mut index = resolver.index.write();
                services
                    .list()
                    .iter()
                    .for_each(|service| index.put_service(service));
                slices
                    .list()
                    .iter()
                    .for_each(|slice| index.put_slice(slice));
                resolver.synced.send_replace(true);
            }
        });
        serve(&tasks, sockets, &resolver);
        stop.triggered().await;
        tasks.stop(Duration::from_secs(2)).await;
    }
}

fn serve(tasks: &Supervisor, sockets: Vec<Sockets>, resolver: &Arc<Resolver>) {
    for Sockets { udp, tcp } in sockets {
        let both = (resolver.clone(), resolver.clone());
        tasks.spawn("dns udp", |stop| serve_udp(udp, both.0, stop));
        tasks.spawn("dns tcp", |stop| serve_tcp(tcp, both.1, stop));
    }
}

/// Keeps the index in step with one kind: `Ok` is there, `Err` is gone.
fn follow<K: Watched>(
    tasks: &Supervisor,
    name: &str,
    informer: Informer<K>,
    resolver: Arc<Resolver>,
    apply: impl Fn(&mut Index, Result<&K, &K>) + Send + 'static,
) {
    let mut changes = informer.subscribe();
    tasks.spawn(name, |stop| async move {
        // For resyncs: what was put and not yet removed.
        let mut known: std::collections::HashMap<client::NamespacedName, Arc<K>> =
            std::collections::HashMap::new();
        while let Some(Some(change)) = stop.guard(changes.next()).await {
            let mut index = resolver.index.write();
            match change {
                Change::Applied { new, .. } => {
                    let old = known.insert(client::NamespacedName::of(&*new), new.clone());
                    // Its name in the index may follow from what changed.
                    if let Some(old) = old {
                        apply(&mut index, Err(&old));
                    }
                    apply(&mut index, Ok(&new));
                }
                Change::Deleted(old) => {
                    let key = client::NamespacedName::of(&*old);
                    apply(&mut index, Err(known.remove(&key).as_ref().unwrap_or(&old)));
                }
                Change::Resync => {
                    for old in known.values() {
                        apply(&mut index, Err(old));
                    }
                    known.clear();
                    for new in informer.list() {
                        apply(&mut index, Ok(&new));
                        known.insert(client::NamespacedName::of(&*new), new);
                    }
                }
            }
        }
    });
}

async fn serve_udp(socket: UdpSocket, resolver: Arc<Resolver>, stop: Shutdown) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let mut waiting = JoinSet::new();
    loop {
        let received = tokio::select! {
            () = stop.triggered() => return,
            Some(_) = waiting.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        // Errors here are of earlier answers: a client that is gone.
        let Ok((length, peer)) = received else {
            continue;
        };
        match resolver.receive(&buffer[..length], true) {
            Step::Ignore => {}
            Step::Answer(answer) => {
                let _ = socket.send_to(&answer, peer).await;
            }
            Step::Later(pending) => {
                let (socket, resolver) = (socket.clone(), resolver.clone());
                waiting.spawn(async move {
                    let answer = resolver.finish(pending).await;
                    let _ = socket.send_to(&answer, peer).await;
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, resolver: Arc<Resolver>, stop: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= MAX_CONNECTIONS;
        let accepted = tokio::select! {
            () = stop.triggered() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if !full => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, resolver.clone()));
            }
            Err(error) => {
                // Out of descriptors: wait for connections to end, or a moment.
                tracing::warn!(%error, "accepting a DNS connection");
                tokio::select! {
                    () = stop.triggered() => return,
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, resolver: Arc<Resolver>) {
    while let Ok(Ok(message)) = timeout(IDLE, read_framed(&mut stream)).await {
        let answer = match resolver.receive(&message, false) {
            Step::Ignore => return,
            Step::Answer(answer) => answer,
            Step::Later(pending) => resolver.finish(pending).await,
        };
        if !matches!(
            timeout(IDLE, write_framed(&mut stream, &answer)).await,
            Ok(Ok(()))
        ) {
            return;
        }
    }
}

/// What to do with a message.
enum Step {
    Ignore,
    Answer(Vec<u8>),
    Later(Pending),
}

/// A question that takes others to answer, or time.
struct Pending {
    question: Question,
    /// As it came.
    message: Vec<u8>,
    udp: bool,
    _slot: tokio::sync::OwnedSemaphorePermit,
}

impl Resolver {
    fn new(domain: &str, upstreams: Upstreams) -> Result<Self, Error> {
        let zone = Zone::new(domain).map_err(|source| Error::Domain {
            domain: domain.to_owned(),
            source,
        })?;
        Ok(Self {
            zone,
            upstreams,
            index: RwLock::default(),
            synced: watch::Sender::new(false),
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        })
    }

    /// Answers at once what can be.
    fn receive(&self, message: &[u8], udp: bool) -> Step {
        let question = match parse(message) {
            Incoming::Noise => return Step::Ignore,
            Incoming::Refused(answer) => return Step::Answer(answer),
            Incoming::Question(question) => question,
        };
        if *self.synced.borrow() {
            let (name, wanted) = (question.query.name(), question.query.query_type());
            match self.zone.look_up(&self.index.read(), name, wanted) {
                Outcome::Foreign | Outcome::Alias(_) => {}
                outcome => {
                    return Step::Answer(question.answer(self.say(outcome, Vec::new()), udp));
                }
            }
        }
        match self.questions.clone().try_acquire_owned() {
            Ok(slot) => Step::Later(Pending {
                question,
                message: message.to_vec(),
                udp,
                _slot: slot,
            }),
            Err(_) => Step::Answer(question.answer(Answer::failure(ResponseCode::ServFail), udp)),
        }
    }

    async fn finish(&self, pending: Pending) -> Vec<u8> {
        let Pending {
            question,
            message,
            udp,
            _slot,
        } = pending;
        let (first, wanted) = (question.query.name().clone(), question.query.query_type());
        let mut name = first.clone();
        let mut aliases: Vec<Record> = Vec::new();
        for _ in 0..MAX_ALIASES {
            let mut outcome = self.look_up(&name, wanted);
            if !matches!(outcome, Outcome::Foreign) && !self.is_synced().await {
                break;
            }
            if !matches!(outcome, Outcome::Foreign) {
                outcome = self.look_up(&name, wanted);
            }
            match outcome {
                Outcome::Foreign if aliases.is_empty() => {
                    return match self.upstreams.ask(&message, !udp).await {
                        Ok(answer) => answer,
                        Err(error) => {
                            tracing::debug!(%name, %error, "asking upstream name servers");
                            question.answer(Answer::failure(ResponseCode::ServFail), udp)
                        }
                    };
                }
                Outcome::Foreign => {
                    aliases.extend(self.resolve(&name, wanted).await);
                    return question.answer(self.say(records(aliases), Vec::new()), udp);
                }
                Outcome::Alias(target) => {
                    aliases.push(alias_record(&name, &target));
                    if wanted == RecordType::CNAME {
                        return question.answer(self.say(records(aliases), Vec::new()), udp);
                    }
                    name = target;
                }
                outcome => return question.answer(self.say(outcome, aliases), udp),
            }
        }
        question.answer(Answer::failure(ResponseCode::ServFail), udp)
    }

    fn look_up(&self, name: &Name, wanted: RecordType) -> Outcome {
        self.zone.look_up(&self.index.read(), name, wanted)
    }

    async fn is_synced(&self) -> bool {
        let mut synced = self.synced.subscribe();
        matches!(
            timeout(WAIT_FOR_LIST, synced.wait_for(|synced| *synced)).await,
            Ok(Ok(_))
        )
    }

    /// What others say about the target of an alias; nothing if they do not.
    async fn resolve(&self, name: &Name, wanted: RecordType) -> Vec<Record> {
        let mut message = Message::query();
        message.metadata.id = fastrand::u16(..);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), wanted));
        let Ok(bytes) = message.to_vec() else {
            return Vec::new();
        };
        match self.upstreams.ask(&bytes, false).await {
            Ok(answer) => Message::from_vec(&answer).map_or(Vec::new(), |answer| answer.answers),
            Err(error) => {
                tracing::debug!(%name, %error, "asking upstream name servers");
                Vec::new()
            }
        }
    }

    /// What the zone says, behind the aliases that led there.
    fn say(&self, outcome: Outcome, mut answers: Vec<Record>) -> Answer {
        let (code, additionals, found) = match outcome {
            Outcome::Records {
                answers: found,
                additionals,
            } => (ResponseCode::NoError, additionals, found),
            _ => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
        };
        let negative = found.is_empty();
        answers.extend(found);
        let authorities = if negative {
            vec![self.zone.authority()]
        } else {
            Vec::new()
        };
        Answer {
            code,
            authoritative: true,
            answers,
            authorities,
            additionals,
        }
    }
}

fn records(answers: Vec<Record>) -> Outcome {
    Outcome::Records {
        answers,
        additionals: Vec::new(),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
