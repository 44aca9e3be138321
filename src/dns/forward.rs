//! Other servers: who they are, and asking them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const PORT: u16 = 53;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often every server is asked.
const ROUNDS: usize = 2;
const HEADER: usize = 12;

/// The servers that are asked about names outside the cluster.
#[derive(Debug)]
pub struct Upstreams {
    file: Option<PathBuf>,
    /// Our own addresses, which must not be asked.
    own: Vec<IpAddr>,
    known: Mutex<Known>,
    /// The server that answered last.
    preferred: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    /// These servers. Without any, names outside the cluster do not resolve.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self {
            file: None,
            own: Vec::new(),
            known: Mutex::new(Known {
                modified: None,
                servers,
            }),
            preferred: AtomicUsize::new(0),
        }
    }

    /// The name servers of a `resolv.conf`, which is read again when it has
    /// changed by the time of a question. `own` are addresses that lead back
    /// here: they are left out. Servers on loopback addresses are fine, this
    /// runs on the node itself.
    pub fn file(path: &Path, own: Vec<IpAddr>) -> Self {
        Self {
            file: Some(path.to_owned()),
            own,
            ..Self::fixed(Vec::new())
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock();
        if let Some(path) = &self.file {
            let modified = std::fs::metadata(path)
                .and_then(|data| data.modified())
                .ok();
            if modified.is_some() && modified != known.modified {
                match std::fs::read_to_string(path) {
                    Ok(text) => {
                        known.servers = name_servers(&text, &self.own);
                        known.modified = modified;
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "reading name servers");
                    }
                }
            }
        }
        known.servers.clone()
    }

    /// Asks one server after the other and returns the first answer, with the
    /// question's own id.
    pub(crate) async fn ask(&self, question: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let servers = self.servers();
        let mut failure = io::Error::other("no upstream name server is configured");
        let first = self.preferred.load(Ordering::Relaxed);
        for attempt in 0..servers.len() * ROUNDS {
            let at = (first + attempt) % servers.len();
            let asked = async {
                if tcp {
                    ask_tcp(servers[at], question).await
                } else {
                    ask_udp(servers[at], question).await
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failure)
    }
}

/// The `nameserver` lines of a `resolv.conf`.
fn name_servers(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
        .filter(|ip| !own.contains(ip))
        .map(|ip| SocketAddr::new(ip, PORT))
        .collect()
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A fresh port for each question: answers cannot be guessed.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let asked = with_id(question, fastrand::u16(..))?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&asked, &buffer[..length]) {
            buffer.truncate(length);
            return with_id(&buffer, id(question));
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let asked = with_id(question, fastrand::u16(..))?;
    write_framed(&mut stream, &asked).await?;
    let answer = read_framed(&mut stream).await?;
    if !answers(&asked, &answer) {
        return Err(io::Error::other(format!(
            "{server} answered another question"
        )));
    }
    with_id(&answer, id(question))
}

/// Reads a message with its length before it, as DNS does over TCP.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length before it.
pub(crate) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len())
        .map_err(|_| io::Error::other("a DNS message of more than 64 KiB"))?;
    stream
        .write_all(&[&length.to_be_bytes(), message].concat())
        .await
}

fn id(message: &[u8]) -> u16 {
    message
        .first_chunk::<2>()
        .map_or(0, |id| u16::from_be_bytes(*id))
}

fn with_id(message: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let mut copy = message.to_vec();
    let place = copy
        .get_mut(..2)
        .ok_or_else(|| io::Error::other("a DNS message of one byte"))?;
    place.copy_from_slice(&id.to_be_bytes());
    Ok(copy)
}

/// Whether `answer` answers `question`: same id, same question.
fn answers(question: &[u8], answer: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let section = question_end(question).and_then(|end| {
        let (asked, echoed) = (question.get(HEADER..end)?, answer.get(HEADER..end)?);
        Some(asked.eq_ignore_ascii_case(echoed))
    });
    is_response && id(question) == id(answer) && section == Some(true)
}

/// Where the only question of a message ends.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1 + 4).filter(|end| *end <= message.len()),
            length if length < 64 => at += 1 + length,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn reads_resolv_conf() {
        let text = "# x\nsearch a b\nnameserver 192.0.2.1\n nameserver\t::1 # c\n\
                    nameserver 10.43.0.10\nnameservers 1.1.1.1\nnameserver fe80::1%eth0\n";
        let found = name_servers(text, &["10.43.0.10".parse().unwrap()]);
        assert_eq!(
            found,
            ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]
        );
    }

    #[test]
    fn reads_the_file_again_when_it_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let upstreams = Upstreams::file(&path, vec![]);
        assert!(upstreams.servers().is_empty());
        for server in ["192.0.2.1", "192.0.2.2"] {
            std::fs::write(&path, format!("nameserver {server}\n")).unwrap();
            // Clocks of file systems are coarse.
            let later = SystemTime::now() + Duration::from_secs(server.len() as u64);
            let later = if server.ends_with('2') {
                later + Duration::from_secs(9)
            } else {
                later
            };
            std::fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(later)
                .unwrap();
            assert_eq!(upstreams.servers()[0].ip().to_string(), server);
        }
    }
}
