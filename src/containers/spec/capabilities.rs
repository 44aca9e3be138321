//! Capability sets.

use cri::SecurityContext;

use crate::error::invalid;

/// Every capability, by number.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// What a container has unless told otherwise.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities of a container, with `CAP_`, in the order of their numbers.
pub(super) fn of(security: &SecurityContext) -> cri::Result<Vec<String>> {
    let known = known();
    if security.privileged {
        return Ok(known.iter().map(|name| format!("CAP_{name}")).collect());
    }
    let add = names(&security.add_capabilities)?;
    let drop = names(&security.drop_capabilities)?;
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    Ok(known
        .iter()
        .filter(|name| {
            let listed = |list: &[String]| list.iter().any(|own| own == **name);
            let by_default = DEFAULT.contains(name) && !all(&drop);
            // Adding by name wins over dropping all, dropping by name over adding all.
            (by_default || all(&add)) && !listed(&drop)
                || listed(&add) && !listed(&drop)
                || listed(&add) && all(&drop)
        })
        .map(|name| format!("CAP_{name}"))
        .collect())
}

/// Those this kernel has and this process may hand on.
fn known() -> Vec<&'static str> {
    let bounding = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(u64::MAX);
    let held = |number: usize| bounding & (1 << number) != 0;
    ALL.iter()
        .enumerate()
        .filter(|(number, _)| held(*number))
        .map(|(_, name)| *name)
        .collect()
}

fn names(list: &[String]) -> cri::Result<Vec<String>> {
    list.iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
            if short == "ALL" || ALL.contains(&short.as_str()) {
                Ok(short)
            } else {
                Err(invalid(format!("unknown capability {name:?}")))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn check(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        of(&SecurityContext {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..SecurityContext::default()
        })
        .unwrap()
    }

    #[test]
    fn added_and_dropped() {
        assert_eq!(
            check(&[], &[]).len(),
            known().iter().filter(|n| DEFAULT.contains(n)).count()
        );
        assert_eq!(check(&[], &["ALL"]), Vec::<String>::new());
        assert_eq!(
            check(&["NET_BIND_SERVICE"], &["ALL"]),
            ["CAP_NET_BIND_SERVICE"]
        );
        assert_eq!(check(&["ALL"], &[]).len(), known().len());
        assert!(!check(&["ALL"], &["SYS_ADMIN"]).contains(&"CAP_SYS_ADMIN".to_owned()));
        assert!(!check(&[], &["CAP_chown"]).contains(&"CAP_CHOWN".to_owned()));
        let unknown = SecurityContext {
            add_capabilities: vec!["FLY".into()],
            ..SecurityContext::default()
        };
        assert!(of(&unknown).is_err());
    }
}
