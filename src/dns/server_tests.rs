#![allow(clippy::unwrap_used, reason = "tests")]

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;

use super::*;
use crate::zone::tests::index;

/// A server that says every name is 192.0.2.7, over UDP with a truncated
/// answer for names that begin with `big`.
async fn upstream(tasks: &Supervisor) -> SocketAddr {
    let Sockets { udp, tcp } = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = udp.local_addr().unwrap();
    let answer = |bytes: &[u8], udp: bool| {
        let Incoming::Question(question) = parse(bytes) else {
            panic!("no question")
        };
        let name = question.query.name().clone();
        let big = udp && name.to_ascii().starts_with("big");
        let record = Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7)));
        let answers = vec![record; if big { 200 } else { 1 }];
        question.answer(
            Answer {
                answers,
                ..Answer::failure(ResponseCode::NoError)
            },
            udp,
        )
    };
    tasks.spawn("upstream", |_| async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, peer) = received.unwrap();
                    // What does not answer the question must be ignored.
                    let mut wrong = answer(&buffer[..length], true);
                    wrong[0] ^= 0xff;
                    udp.send_to(&wrong, peer).await.unwrap();
                    udp.send_to(&answer(&buffer[..length], true), peer).await.unwrap();
                }
                accepted = tcp.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    let message = read_framed(&mut stream).await.unwrap();
                    write_framed(&mut stream, &answer(&message, false)).await.unwrap();
                }
            }
        }
    });
    address
}

async fn start(tasks: &Supervisor, synced: bool) -> (SocketAddr, Arc<Resolver>) {
    let upstream = upstream(tasks).await;
    // The first server of the list never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = vec![silent.local_addr().unwrap(), upstream];
    tasks.spawn("silent upstream", |stop| async move {
        stop.triggered().await;
        drop(silent);
    });
    let resolver = Arc::new(Resolver::new("cluster.local", Upstreams::fixed(servers)).unwrap());
    *resolver.index.write() = index();
    resolver.synced.send_replace(synced);
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = sockets.local_addr().unwrap();
    serve(tasks, vec![sockets], &resolver);
    (address, resolver)
}

/// `NoError A 10.43.0.9`, `NXDomain`, …
async fn ask(server: SocketAddr, name: &str, wanted: RecordType, tcp: bool) -> String {
    let mut message = Message::query();
    message.metadata.id = 99;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), wanted));
    let question = message.to_vec().unwrap();
    let bytes = if tcp {
        let mut stream = TcpStream::connect(server).await.unwrap();
        write_framed(&mut stream, &question).await.unwrap();
        read_framed(&mut stream).await.unwrap()
    } else {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&question, server).await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = socket.recv(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    };
    let answer = Message::from_vec(&bytes).unwrap();
    assert_eq!(answer.metadata.id, 99);
    assert_eq!(answer.queries, message.queries);
    let negative = answer.answers.is_empty() && answer.metadata.authoritative;
    assert_eq!(
        negative,
        !answer.authorities.is_empty(),
        "negative answers carry the SOA"
    );
    let mut text = format!("{:?}", answer.metadata.response_code);
    if answer.metadata.truncation {
        text += " cut";
    }
    for record in &answer.answers {
        text += &format!(" {} {}", record.record_type(), record.data);
    }
    text
}

#[tokio::test]
async fn answers_over_both_transports() {
    let tasks = Supervisor::new(Shutdown::new());
    let (server, _) = start(&tasks, true).await;
    let svc = "default.svc.cluster.local.";
    for (name, wanted, answer) in [
        (format!("web.{svc}"), RecordType::A, "NoError A 10.43.0.9"),
        (format!("absent.{svc}"), RecordType::A, "NXDomain"),
        (format!("web.{svc}"), RecordType::MX, "NoError"),
        (
            "www.example.com.".into(),
            RecordType::A,
            "NoError A 192.0.2.7",
        ),
        (
            format!("ext.{svc}"),
            RecordType::CNAME,
            "NoError CNAME www.example.com.",
        ),
        (
            format!("ext.{svc}"),
            RecordType::A,
            "NoError CNAME www.example.com. A 192.0.2.7",
        ),
        (
            format!("loop.{svc}"),
            RecordType::A,
            "NoError CNAME web.default.svc.cluster.local. A 10.43.0.9",
        ),
    ] {
        for tcp in [false, true] {
            assert_eq!(
                ask(server, &name, wanted, tcp).await,
                answer,
                "{wanted} {name} {tcp}"
            );
        }
    }
    assert_eq!(
        ask(server, "big.example.com.", RecordType::A, false).await,
        "NoError cut"
    );
    let whole = ask(server, "big.example.com.", RecordType::A, true).await;
    assert_eq!(whole, "NoError A 192.0.2.7");
    tasks.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn holds_questions_until_services_are_known() {
    let tasks = Supervisor::new(Shutdown::new());
    let (server, resolver) = start(&tasks, false).await;
    let foreign = ask(server, "www.example.com.", RecordType::A, false).await;
    assert_eq!(foreign, "NoError A 192.0.2.7", "does not wait");
    let waiting = ask(
        server,
        "web.default.svc.cluster.local.",
        RecordType::A,
        false,
    );
    let (answer, ()) = tokio::join!(waiting, async {
        // Let the question arrive first; the outcome is the same either way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        resolver.synced.send_replace(true);
    });
    assert_eq!(answer, "NoError A 10.43.0.9");
    tasks.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn fails_fast_without_upstreams() {
    let tasks = Supervisor::new(Shutdown::new());
    let resolver = Arc::new(Resolver::new("cluster.local", Upstreams::fixed(vec![])).unwrap());
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = sockets.local_addr().unwrap();
    serve(&tasks, vec![sockets], &resolver);
    assert_eq!(
        ask(server, "www.example.com.", RecordType::A, false).await,
        "ServFail"
    );
    tasks.stop(Duration::from_secs(1)).await;
    assert!(Resolver::new("cluster..local", Upstreams::fixed(vec![])).is_err());
}
