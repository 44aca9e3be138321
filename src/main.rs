//! Karve: Kubernetes as one small static binary. Everything is in `cmd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cmd::run(std::env::args_os())
}
