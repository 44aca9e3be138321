//! Helpers of this crate's tests.

/// Ends the test early, with a message, when it does not run as root.
macro_rules! skip_unless_root {
    () => {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: needs root for network namespaces");
            return;
        }
    };
}

pub(crate) use skip_unless_root;
