//! One writer's changes told to many watchers.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::connection::Connection;
use crate::objects::Template;
use crate::{Arguments, Target};

/// How long the last event may take to reach the last watcher.
const PATIENCE: Duration = Duration::from_secs(120);

/// Opens `watchers=` watches on the ConfigMaps of `namespace=`, each on a
/// connection of its own, says `{"open":N}` and waits for a line on standard
/// input. Then creates `events=` objects with `clients=` writers and waits
/// until every watcher was told of each.
pub(crate) async fn watch(target: &Target, arguments: &Arguments) -> Result<Value> {
    let (template, resource) = Template::new("configmap")?;
    let path = format!(
        "/api/v1/namespaces/{}/{resource}",
        arguments.text("namespace")?
    );
    let prefix = arguments.text("prefix")?.to_owned();
    let watchers: u64 = arguments.number("watchers", 500)?;
    let events: u64 = arguments.number("events", 400)?;
    let clients: u64 = arguments.number("clients", 4)?;
    let version = version(target, &path).await?;
    let local = LocalSet::new();
    let told = Rc::new(Cell::new(0_u64));
    let (news, wanted) = (Rc::new(Notify::new()), watchers * events);
    for _ in 0..watchers {
        let mut connection = Connection::open(target).await?;
        let query = format!("{path}?watch=1&resourceVersion={version}");
        connection.send("GET", &query, b"").await?;
        let status = connection.begin().await?;
        if status != 200 {
            bail!("a watch was answered with {status}");
        }
        let (told, news) = (Rc::clone(&told), Rc::clone(&news));
        local.spawn_local(async move {
            let mut left = 0;
            while let Ok(lines) = connection.lines(&mut left).await {
                told.set(told.get() + lines);
                if told.get() >= wanted {
                    news.notify_one();
                }
            }
        });
    }
    println!("{}", json!({ "open": watchers }));
    let mut line = String::new();
    tokio::io::BufReader::new(tokio::io::stdin())
        .read_line(&mut line)
        .await?;
    let started = Instant::now();
    for client in 0..clients {
        let mut connection = Connection::open(target).await?;
        let (path, prefix, template) = (path.clone(), prefix.clone(), template.clone());
        local.spawn_local(async move {
            for n in (client..events).step_by(usize::try_from(clients).unwrap_or(1)) {
                let body = template.fill(&format!("{prefix}-{n}"));
                let answer = connection.request("POST", &path, &body, |_| {}).await;
                if !matches!(answer, Ok(answer) if answer.status == 201) {
                    eprintln!("a create failed");
                }
            }
        });
    }
    let all = local.run_until(async {
        tokio::time::timeout(PATIENCE, news.notified())
            .await
            .is_ok()
    });
    let complete = all.await;
    let seconds = started.elapsed().as_secs_f64();
    Ok(json!({
        "watchers": watchers,
        "events": events,
        "complete": complete,
        "deliveries": told.get(),
        "seconds": seconds,
        "rate": told.get() as f64 / seconds,
    }))
}

/// The version of a list, to watch from.
async fn version(target: &Target, path: &str) -> Result<String> {
    let mut connection = Connection::open(target).await?;
    let mut text = Vec::new();
    connection
        .request("GET", &format!("{path}?limit=1"), b"", |part| {
            text.extend_from_slice(part)
        })
        .await?;
    let list: Value = serde_json::from_slice(&text)?;
    Ok(list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or("0")
        .to_owned())
}
