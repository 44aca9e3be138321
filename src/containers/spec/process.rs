//! The process of a container and those exec'd beside it.

use std::path::Path;

use cri::ContainerConfig;
use serde_json::{Value, json};

use super::user::User;
use super::{Input, capabilities};
use crate::error::invalid;
use crate::image::config::RunConfig;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The OCI process object of a container.
pub(super) fn process(input: &Input<'_>, user: &User) -> cri::Result<Value> {
    let config = input.config;
    let security = &config.security;
    let args = args(config, input.image)?;
    let capabilities = capabilities::of(security)?;
    let cwd = match [
        config.working_dir.as_str(),
        input.image.working_dir.as_str(),
    ]
    .into_iter()
    .find(|dir| !dir.is_empty())
    {
        Some(dir) => Path::new("/").join(linux::beneath::normalise(Path::new(dir))),
        None => Path::new("/").to_owned(),
    };
    let mut process = json!({
        "terminal": config.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": args,
        "env": environment(config, input.image, input.hostname, user),
        "cwd": cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": [],
            "ambient": [],
        },
        // The shim's own must not be inherited.
        "oomScoreAdj": config.resources.oom_score_adj.unwrap_or(0).clamp(-1000, 1000),
    });
    if security.no_new_privileges {
        // Left out otherwise: libcontainer loads seccomp filters late, when the
        // right to is gone, as soon as this is present at all.
        process["noNewPrivileges"] = true.into();
    }
    if let Some(profile) = &security.apparmor_profile
        && !security.privileged
        && profile != "unconfined"
        && Path::new("/sys/kernel/security/apparmor").exists()
    {
        process["apparmorProfile"] = profile.as_str().into();
    }
    Ok(process)
}

/// The process object of an exec, from the one of the container.
pub(crate) fn exec_process(container: &Value, command: &[String], tty: bool) -> Value {
    let mut process = container.clone();
    process["args"] = json!(command);
    process["terminal"] = tty.into();
    if tty
        && let Some(env) = process["env"].as_array_mut()
        && !env
            .iter()
            .any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
    {
        env.push("TERM=xterm".into());
    }
    process
}

fn args(config: &ContainerConfig, image: &RunConfig) -> cri::Result<Vec<String>> {
    let (head, tail) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (&config.command, &config.args),
        (true, false) => (&image.entrypoint, &config.args),
        (true, true) => (&image.entrypoint, &image.cmd),
    };
    let args: Vec<String> = head.iter().chain(tail).cloned().collect();
    if args.is_empty() {
        return Err(invalid("no command specified"));
    }
    match args.iter().find(|arg| arg.contains('\0')) {
        Some(_) => Err(invalid("an argument contains a zero byte")),
        None => Ok(args),
    }
}

/// Later settings replace earlier ones of the same name, in place.
fn environment(
    config: &ContainerConfig,
    image: &RunConfig,
    hostname: &str,
    user: &User,
) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: String| {
        let name = entry.split('=').next().unwrap_or_default();
        let same = |old: &String| old.split('=').next().unwrap_or_default() == name;
        match env.iter().position(same) {
            Some(at) => env[at] = entry,
            None => env.push(entry),
        }
    };
    set(PATH.to_owned());
    set(format!("HOSTNAME={hostname}"));
    set(format!("HOME={}", user.home));
    if config.tty {
        set("TERM=xterm".to_owned());
    }
    image.env.iter().cloned().for_each(&mut set);
    config
        .envs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .for_each(&mut set);
    env.retain(|entry| !entry.contains('\0'));
    env
}

/// The signal that stops a container.
pub(crate) fn stop_signal(config: &ContainerConfig, image: &RunConfig) -> cri::Result<i32> {
    let name = config
        .stop_signal
        .as_deref()
        .or(Some(image.stop_signal.as_str()))
        .filter(|name| !name.is_empty())
        .unwrap_or("SIGTERM");
    linux::signals::number(name).ok_or_else(|| invalid(format!("unknown stop signal {name:?}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn command_and_args_replace_the_images() {
        for (command, arguments, entrypoint, cmd, expected) in [
            ("", "", "e1 e2", "c", "e1 e2 c"),
            ("", "a", "e", "c", "e a"),
            ("k", "", "e", "c", "k"),
            ("k", "a b", "e", "c", "k a b"),
            ("", "", "", "c", "c"),
        ] {
            let config = ContainerConfig {
                command: words(command),
                args: words(arguments),
                ..ContainerConfig::default()
            };
            let image = RunConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..RunConfig::default()
            };
            assert_eq!(args(&config, &image).unwrap(), words(expected));
        }
        let nothing = args(&ContainerConfig::default(), &RunConfig::default());
        assert_eq!(nothing.unwrap_err().message, "no command specified");
    }

    #[test]
    fn environment_is_layered() {
        let config = ContainerConfig {
            envs: vec![("A".into(), "own".into()), ("B".into(), "x=y".into())],
            ..ContainerConfig::default()
        };
        let image = RunConfig {
            env: vec!["PATH=/bin".into(), "A=image".into()],
            ..RunConfig::default()
        };
        let user = User {
            home: "/root".into(),
            ..User::default()
        };
        assert_eq!(
            environment(&config, &image, "pod", &user),
            ["PATH=/bin", "HOSTNAME=pod", "HOME=/root", "A=own", "B=x=y"]
        );
    }
}
