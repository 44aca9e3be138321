//! The load generator of `scripts/bench api`.
//!
//! ```text
//! load address=127.0.0.1:6443 token=T create kind=pod namespace=bench clients=64 seconds=5
//! ```
//!
//! It speaks HTTP/1.1 over TLS by hand, on one thread, because it shares the
//! cores with the server it measures: what it costs itself is a few
//! microseconds a request. It verifies no certificate, and it links no crate
//! of the product. Every scenario ends by a count or by a time, checks each
//! answer's status, and prints one JSON object on a line.

#![forbid(unsafe_code)]

mod connection;
mod objects;
mod requests;
mod watches;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

/// Where requests go, and who sends them.
#[derive(Clone)]
pub(crate) struct Target {
    address: String,
    token: String,
    tls: tokio_rustls::TlsConnector,
}

/// `NAME=VALUE` words of the command line.
pub(crate) struct Arguments(HashMap<String, String>);

impl Arguments {
    /// A word, which must be there.
    pub(crate) fn text(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).map(String::as_str);
        value.with_context(|| format!("{name}=… is missing"))
    }

    /// A number, `default` if it is not there.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T> {
        match self.0.get(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .map_err(|_| anyhow::anyhow!("{name}={text} is not a number")),
        }
    }
}

fn main() -> Result<()> {
    let mut words = HashMap::new();
    let mut scenario = None;
    for word in std::env::args().skip(1) {
        match word.split_once('=') {
            Some((name, value)) => {
                words.insert(name.to_owned(), value.to_owned());
            }
            None => scenario = Some(word),
        }
    }
    let arguments = Arguments(words);
    let target = Target {
        address: arguments.text("address")?.to_owned(),
        token: arguments.text("token")?.to_owned(),
        tls: Arc::new(connection::trusting()?).into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let figures = runtime.block_on(async {
        match scenario.as_deref() {
            Some("create") => requests::create(&target, &arguments).await,
            Some("get") => requests::get(&target, &arguments).await,
            Some("renew") => requests::renew(&target, &arguments).await,
            Some("watch") => watches::watch(&target, &arguments).await,
            _ => bail!("name a scenario: create, get, renew or watch"),
        }
    })?;
    println!("{figures}");
    Ok(())
}
