//! Options of containers that run on Windows.

use serde_json::Value;

use crate::kinds::value::{indexed, invalid};
use crate::{FieldError, Path, names};

/// Longest credential specification, in KiB.
const CREDENTIALS_KIB: usize = 64;
/// Length that a user's domain stays under.
const DOMAIN_MAX: usize = 256;
/// Longest name of a user.
const USER_MAX: usize = 104;

/// `validateWindowsSecurityContextOptions` of a security context.
pub(super) fn options(context: &Value, at: &Path, errors: &mut Vec<FieldError>) {
    let (options, at) = (&context["windowsOptions"], at.child("windowsOptions"));
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        let at = at.child("gmsaCredentialSpecName");
        errors.extend(invalid(&at, name, names::dns_subdomain(name)));
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let at = at.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                spec,
                "gmsaCredentialSpec cannot be an empty string",
            ));
        } else if spec.len() > CREDENTIALS_KIB * 1024 {
            errors.push(FieldError::invalid(
                &at,
                spec,
                format!("gmsaCredentialSpec size must be under {CREDENTIALS_KIB} KiB"),
            ));
        }
    }
    if let Some(user) = options["runAsUserName"].as_str() {
        let at = at.child("runAsUserName");
        errors.extend(invalid(&at, user, user_name(user)));
    }
}

/// `validateWindowsHostProcessPod`: containers that are processes of the host
/// share a pod with no others, and the host's network.
pub(super) fn host_processes(spec: &Value, path: &Path, errors: &mut Vec<FieldError>) {
    let own = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let pod = own(spec);
    let (mut count, mut processes) = (0, 0);
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in indexed(spec, kind, path) {
            count += 1;
            let set = own(container);
            if let (Some(pod), Some(set)) = (pod, set)
                && pod != set
            {
                let at = at.child("securityContext").child("windowsOptions");
                errors.push(FieldError::invalid(
                    &at.child("hostProcess"),
                    set,
                    format!(
                        "pod hostProcess value must be identical if both are specified, was {pod}"
                    ),
                ));
            }
            processes += u32::from(set.or(pod) == Some(true));
        }
    }
    if processes == 0 {
        return;
    }
    if processes != count {
        errors.push(FieldError::invalid(
            path,
            "",
            "If pod contains any hostProcess containers then all containers must be HostProcess containers",
        ));
    }
    if spec["hostNetwork"] != true {
        errors.push(FieldError::invalid(
            &path.child("hostNetwork"),
            false,
            "hostNetwork must be true if pod contains any hostProcess containers",
        ));
    }
}

/// What is wrong with `user` or `domain\user`.
fn user_name(full: &str) -> Vec<String> {
    let wrong = |why: &str| format!("runAsUserName{why}");
    if full.is_empty() {
        return vec![wrong(" cannot be an empty string")];
    }
    if full.bytes().any(|byte| byte.is_ascii_control()) {
        return vec![wrong(" cannot contain control characters")];
    }
    if full.matches('\\').count() > 1 {
        return vec![wrong(" cannot contain more than one backslash")];
    }
    let (domain, user) = match full.split_once('\\') {
        Some((domain, user)) => (Some(domain), user),
        None => (None, full),
    };
    let mut out = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_MAX {
            out.push(wrong(&format!(
                "'s Domain length must be under {DOMAIN_MAX} characters"
            )));
        }
        if !net_bios(domain) && !dns(domain) {
            out.push(wrong(
                "'s Domain doesn't match the NetBios nor the DNS format",
            ));
        }
    }
    if user.is_empty() {
        out.push(wrong("'s User cannot be empty"));
    } else if user.len() > USER_MAX {
        out.push(wrong(&format!(
            "'s User length must not be longer than {USER_MAX} characters"
        )));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        out.push(wrong("'s User cannot contain only periods or spaces"));
    }
    if user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        out.push(wrong(
            "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        ));
    }
    out
}

fn net_bios(domain: &str) -> bool {
    let count = domain.chars().count();
    (1..=15).contains(&count)
        && !domain.starts_with('.')
        && !domain.contains(|c| "\\/:*?\"<>|".contains(c))
}

fn dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user: &str, expected: &[&str]) {
        assert_eq!(user_name(user), expected, "{user:?}");
    }

    #[test]
    fn users() {
        check("Administrator", &[]);
        check("NT AUTHORITY\\Local Service", &[]);
        check("corp.example.com\\a", &[]);
        check("", &["runAsUserName cannot be an empty string"]);
        check(
            "a\\b\\c",
            &["runAsUserName cannot contain more than one backslash"],
        );
        check(
            "\\a",
            &["runAsUserName's Domain doesn't match the NetBios nor the DNS format"],
        );
        check(
            ". .",
            &["runAsUserName's User cannot contain only periods or spaces"],
        );
        check(
            "a/b",
            &["runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"],
        );
    }
}
