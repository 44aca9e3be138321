//! Stands in for `karve shim` in tests of this crate.

fn main() -> std::process::ExitCode {
    containers::shim::main(std::env::args_os().skip(2))
}
