//! Security settings of a container: the pod's, overridden by its own.

use cri::{ContainerUser, Image, SeccompProfile, SecurityContext};
use k8s_openapi::api::core::v1::{self, Container, Pod};
use std::path::Path;

use super::spec::{format_pod, spec};

/// Why a container may not run as it would, in upstream's words.
fn check_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image: &Image,
) -> Result<(), String> {
    let place = || {
        format!(
            "(pod: {:?}, container: {})",
            format_pod(pod),
            container.name
        )
    };
    match (user, image.uid) {
        (Some(0), _) => Err(format!(
            "container's runAsUser breaks non-root policy {}",
            place()
        )),
        (Some(_), _) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is \
             non-root {}",
            image.username,
            place()
        )),
        (None, Some(0)) | (None, None) => Err(format!(
            "container has runAsNonRoot and image will run as root {}",
            place()
        )),
        (None, Some(_)) => Ok(()),
    }
}

fn seccomp(profile: &v1::SeccompProfile, root: &Path) -> SeccompProfile {
    match profile.type_.as_str() {
        "RuntimeDefault" => SeccompProfile::RuntimeDefault,
        "Localhost" => SeccompProfile::Localhost(
            root.join(profile.localhost_profile.as_deref().unwrap_or_default()),
        ),
        _ => SeccompProfile::Unconfined,
    }
}

fn apparmor(profile: &v1::AppArmorProfile) -> Option<String> {
    match profile.type_.as_str() {
        "Unconfined" => Some("unconfined".into()),
        "Localhost" => profile.localhost_profile.clone(),
        _ => None,
    }
}

/// The effective settings; an error if `runAsNonRoot` cannot be kept.
/// `seccomp_root` is the folder localhost profiles are relative to.
pub(crate) fn effective(
    pod: &Pod,
    container: &Container,
    image: &Image,
    seccomp_root: &Path,
) -> Result<SecurityContext, String> {
    let empty_pod = v1::PodSecurityContext::default();
    let empty = v1::SecurityContext::default();
    let shared = spec(pod).security_context.as_ref().unwrap_or(&empty_pod);
    let own = container.security_context.as_ref().unwrap_or(&empty);

    let user = own.run_as_user.or(shared.run_as_user);
    if own
        .run_as_non_root
        .or(shared.run_as_non_root)
        .unwrap_or(false)
    {
        check_non_root(pod, container, user, image)?;
    }
    let run_as_user = match (user, image.uid) {
        (Some(uid), _) | (None, Some(uid)) => Some(ContainerUser::Uid(uid)),
        (None, None) if !image.username.is_empty() => {
            Some(ContainerUser::Name(image.username.clone()))
        }
        (None, None) => None,
    };
    let groups = shared
        .fs_group
        .iter()
        .chain(shared.supplemental_groups.iter().flatten());
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let bare = |names: Option<Vec<String>>| -> Vec<String> {
        let names = names.unwrap_or_default().into_iter();
        names
            .map(|name| name.strip_prefix("CAP_").map(Into::into).unwrap_or(name))
            .collect()
    };
    Ok(SecurityContext {
        run_as_user,
        run_as_group: own.run_as_group.or(shared.run_as_group),
        supplemental_groups: groups.copied().collect(),
        supplemental_groups_strict: shared.supplemental_groups_policy.as_deref() == Some("Strict"),
        privileged: own.privileged.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        add_capabilities: bare(capabilities.add),
        drop_capabilities: bare(capabilities.drop),
        seccomp: own
            .seccomp_profile
            .as_ref()
            .or(shared.seccomp_profile.as_ref())
            .map(|profile| seccomp(profile, seccomp_root))
            .unwrap_or_default(),
        apparmor_profile: own
            .app_armor_profile
            .as_ref()
            .or(shared.app_armor_profile.as_ref())
            .and_then(apparmor),
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn run(
        pod: Value,
        own: Value,
        uid: Option<i64>,
        username: &str,
    ) -> Result<SecurityContext, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "securityContext": pod}}))
        .unwrap();
        let container: Container =
            serde_json::from_value(json!({"name": "c", "securityContext": own})).unwrap();
        let image = Image {
            id: String::new(),
            repo_tags: vec![],
            repo_digests: vec![],
            size: 0,
            uid,
            username: username.into(),
            pinned: false,
        };
        effective(&pod, &container, &image, Path::new("/seccomp"))
    }

    #[test]
    fn container_overrides_pod() {
        let pod = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4],
            "seccompProfile": {"type": "RuntimeDefault"}});
        let own = json!({"runAsUser": 9, "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "CAP_SYS_TIME"], "drop": ["ALL"]}});
        let got = run(pod, own, None, "").unwrap();
        assert_eq!(got.run_as_user, Some(ContainerUser::Uid(9)));
        assert_eq!(got.run_as_group, Some(2));
        assert_eq!(got.supplemental_groups, [3, 4]);
        assert_eq!(got.seccomp, SeccompProfile::RuntimeDefault);
        assert_eq!(got.add_capabilities, ["NET_ADMIN", "SYS_TIME"]);
        assert!(got.no_new_privileges);
        assert_eq!(
            run(json!({}), json!({}), None, "www").unwrap().run_as_user,
            Some(ContainerUser::Name("www".into()))
        );
    }

    #[test]
    fn keeps_root_out() {
        let check = |pod: Value, own: Value, uid, username: &str, want: Option<&str>| {
            let got = run(pod, own, uid, username).err();
            assert_eq!(got.as_deref(), want);
        };
        let non_root = json!({"runAsNonRoot": true});
        check(non_root.clone(), json!({"runAsUser": 1}), Some(0), "", None);
        check(non_root.clone(), json!({}), Some(7), "", None);
        check(
            non_root.clone(),
            json!({"runAsNonRoot": false}),
            Some(0),
            "",
            None,
        );
        check(
            non_root.clone(),
            json!({"runAsUser": 0}),
            None,
            "",
            Some("container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)"),
        );
        check(
            non_root.clone(),
            json!({}),
            Some(0),
            "",
            Some(
                "container has runAsNonRoot and \
            image will run as root (pod: \"p_n(u)\", container: c)",
            ),
        );
        check(
            non_root,
            json!({}),
            None,
            "www",
            Some(
                "container has runAsNonRoot and image has \
            non-numeric user (www), cannot verify user is non-root (pod: \"p_n(u)\", container: c)",
            ),
        );
    }
}
