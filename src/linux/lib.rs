//! Narrow interfaces to the Linux kernel; the only crate with unsafe code.
