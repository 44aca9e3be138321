//! Requests with an answer that ends: creates, reads, lease renewals.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::connection::Connection;
use crate::objects::Template;
use crate::{Arguments, Target};

/// What all clients of a scenario have seen.
#[derive(Default)]
struct Seen {
    /// Milliseconds each answer took to its end.
    whole: RefCell<Vec<f64>>,
    /// Milliseconds to the first byte of the body.
    first: RefCell<Vec<f64>>,
    bytes: Cell<u64>,
    /// Answers that were not a success, by status; 0 is a broken connection.
    refused: RefCell<std::collections::BTreeMap<u16, u64>>,
}

impl Seen {
    fn figures(&self, took: Duration) -> Value {
        let mut whole = self.whole.take();
        let mut first = self.first.take();
        whole.sort_by(f64::total_cmp);
        first.sort_by(f64::total_cmp);
        let done = whole.len();
        json!({
            "done": done,
            "seconds": took.as_secs_f64(),
            "rate": done as f64 / took.as_secs_f64(),
            "p50_ms": quantile(&whole, 0.5),
            "p99_ms": quantile(&whole, 0.99),
            "max_ms": quantile(&whole, 1.0),
            "first_p50_ms": quantile(&first, 0.5),
            "bytes": self.bytes.get() as f64 / (done.max(1)) as f64,
            "refused": self.refused.take().into_iter().map(|(code, count)| (code.to_string(), json!(count)))
                .collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// The value below which `part` of sorted values are.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    // A position in a list that fits memory.
    let at = (last as f64 * part).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}

/// Runs `clients` clients; each asks `request` for method, path and body of its
/// n-th request. Ends after `seconds=`, or once `count=` requests were answered;
/// `rate=` is how many a second all clients together begin at most.
async fn drive(
    target: &Target,
    arguments: &Arguments,
    request: impl Fn(u64, u64) -> (&'static str, String, Vec<u8>) + 'static,
) -> Result<Value> {
    let clients: u64 = arguments.number("clients", 1)?;
    let count: u64 = arguments.number("count", u64::MAX)?;
    let seconds: f64 = arguments.number("seconds", 3600.0)?;
    let rate: f64 = arguments.number("rate", 0.0)?;
    let (seen, request, given) = (
        Rc::new(Seen::default()),
        Rc::new(request),
        Rc::new(Cell::new(0)),
    );
    let mut open = Vec::new();
    for _ in 0..clients {
        open.push(Connection::open(target).await?);
    }
    let started = Instant::now();
    let until = started + Duration::from_secs_f64(seconds);
    let local = LocalSet::new();
    for (client, mut connection) in (0_u64..).zip(open) {
        let (seen, request, given) = (Rc::clone(&seen), Rc::clone(&request), Rc::clone(&given));
        let target = target.clone();
        local.spawn_local(async move {
            for n in 0.. {
                let mut begin = Instant::now();
                if rate > 0.0 {
                    // When it should begin: a server that is late delays none
                    // of those to come, and waiting for it counts.
                    begin = started + Duration::from_secs_f64((n * clients + client) as f64 / rate);
                    tokio::time::sleep_until(begin.into()).await;
                }
                if given.get() >= count || Instant::now() >= until {
                    return;
                }
                given.set(given.get() + 1);
                let (method, path, body) = request(client, n);
                let answer = connection.request(method, &path, &body, |_| {}).await;
                let ms = |at: Instant| at.saturating_duration_since(begin).as_secs_f64() * 1000.0;
                let refused = match answer {
                    Ok(answer) if answer.status < 300 => {
                        seen.whole.borrow_mut().push(ms(Instant::now()));
                        seen.first.borrow_mut().push(ms(answer.first));
                        seen.bytes.set(seen.bytes.get() + answer.bytes);
                        continue;
                    }
                    Ok(answer) => answer.status,
                    Err(_) => match Connection::open(&target).await {
                        Ok(again) => {
                            connection = again;
                            0
                        }
                        Err(_) => return,
                    },
                };
                *seen.refused.borrow_mut().entry(refused).or_insert(0) += 1;
            }
        });
    }
    local.await;
    Ok(seen.figures(started.elapsed()))
}

/// Creates objects: `kind=`, `namespace=`, `prefix=`.
pub(crate) async fn create(target: &Target, arguments: &Arguments) -> Result<Value> {
    let (template, resource) = Template::new(arguments.text("kind")?)?;
    let path = format!(
        "/api/v1/namespaces/{}/{resource}",
        arguments.text("namespace")?
    );
    let prefix = arguments.text("prefix")?.to_owned();
    drive(target, arguments, move |client, n| {
        let body = template.fill(&format!("{prefix}-{client}-{n}"));
        ("POST", path.clone(), body)
    })
    .await
}

/// Reads `path=`; `{}` in it becomes a number below `names=`.
pub(crate) async fn get(target: &Target, arguments: &Arguments) -> Result<Value> {
    let path = arguments.text("path")?.to_owned();
    let names: u64 = arguments.number("names", 1)?;
    drive(target, arguments, move |client, n| {
        let path = path.replace("{}", &((client * 7919 + n) % names).to_string());
        ("GET", path, Vec::new())
    })
    .await
}

/// Renews leases as kubelets do: each client changes the time of its own.
pub(crate) async fn renew(target: &Target, arguments: &Arguments) -> Result<Value> {
    let (template, resource) = Template::new("lease")?;
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/{resource}",
        arguments.text("namespace")?
    );
    let clients: u64 = arguments.number("clients", 1)?;
    let mut first = Connection::open(target).await?;
    for client in 0..clients {
        let lease = template.fill(&format!("node-{client}"));
        first.request("POST", &path, &lease, |_| {}).await?;
    }
    drive(target, arguments, move |client, n| {
        let time = format!(
            "2026-01-01T{:02}:{:02}:{:02}.{client:06}Z",
            n / 3600 % 24,
            n / 60 % 60,
            n % 60
        );
        let body = format!("{{\"spec\":{{\"renewTime\":\"{time}\"}}}}");
        ("PATCH", format!("{path}/node-{client}"), body.into_bytes())
    })
    .await
}
