//! Signal dispositions of this process.

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// Puts every disposition back to its default and unblocks every signal.
///
/// A program keeps the ignored signals of whoever executed it, and Rust's
/// runtime ignores `SIGPIPE`; without this, `yes | head` would not end in a
/// container.
pub fn reset() {
    for each in Signal::iterator() {
        if matches!(each, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default disposition runs no code of this process.
        // A signal that cannot be changed keeps the disposition it has.
        let _ = unsafe { signal(each, SigHandler::SigDfl) };
    }
    // Unblocking can only fail for an invalid `how`.
    let _ = SigSet::all().thread_unblock();
}

/// Sends a signal by number, real-time signals included. A negative `pid`
/// names a process group.
pub fn send(pid: i32, signal: i32) -> std::io::Result<()> {
    // SAFETY: `kill` takes two numbers and touches no memory of this process.
    match unsafe { nix::libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The number of a signal name, with or without `SIG`, or of a number;
/// `RTMIN+3` and `RTMAX-1` count. `None` for anything else.
pub fn number(name: &str) -> Option<i32> {
    let real_time = |base: i32, offset: &str| -> Option<i32> {
        let offset = if offset.is_empty() {
            0
        } else {
            offset.parse::<i32>().ok()?
        };
        let number = base + offset;
        (nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX())
            .contains(&number)
            .then_some(number)
    };
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        return real_time(nix::libc::SIGRTMIN(), offset);
    }
    if let Some(offset) = short.strip_prefix("RTMAX") {
        return real_time(nix::libc::SIGRTMAX(), offset);
    }
    format!("SIG{short}")
        .parse::<Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_numbers() {
        for (name, value) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(nix::libc::SIGRTMIN() + 3)),
            ("RTMAX", Some(64)),
            ("SIGNOPE", None),
            ("0", None),
            ("", None),
        ] {
            assert_eq!(number(name), value, "{name}");
        }
    }
}
