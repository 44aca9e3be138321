//! The `karve` command: arguments, configuration and the wiring of its parts.
//!
//! The only crate that knows every other one. `karve shim` is taken care of
//! before anything else happens, because the shim must stay single-threaded.

#![forbid(unsafe_code)]

mod args;
mod check;
mod config;
mod control;
mod credentials;
mod image;
mod logging;
mod node;
mod node_auth;
mod server;
mod sockets;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Runs the command with the process's arguments and returns its exit code:
/// 0 on success, 1 when something failed, 2 when the arguments are wrong.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|command| command == "shim") {
        return containers::shim::main(args.into_iter().skip(2));
    }
    let args = match config::merge(args) {
        Ok(args) => args,
        Err(error) => return fail(&error, 2),
    };
    let parsed = match args::Karve::try_parse_from(args) {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match parsed.command {
        args::Command::Server(server) => server::run(*server),
        args::Command::Image(command) => image::run(command),
        args::Command::Check => check::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(code)
}
