//! Logs: one line an event on standard error, coloured on a terminal.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging; `verbosity` is how often `-v` was given.
pub(crate) fn start(verbosity: u8) {
    let (own, libraries) = match verbosity {
        0 => (Level::INFO, Level::WARN),
        1 => (Level::DEBUG, Level::INFO),
        _ => (Level::TRACE, Level::DEBUG),
    };
    let targets = Targets::new().with_default(own).with_targets(
        [
            "hyper",
            "hyper_util",
            "h2",
            "rustls",
            "tower",
            "kube",
            "kube_client",
            "kube_runtime",
            "libcontainer",
            "libcgroups",
            "oci_client",
            "reqwest",
            "netlink_proto",
            "hickory_proto",
        ]
        .map(|library| (library, libraries)),
    );
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(verbosity > 0);
    tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .init();
}
