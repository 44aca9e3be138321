//! A container from image to exit, and across restarts of the daemon.

use std::time::Duration;

use cri::{
    ContainerConfig, ContainerResources, ContainerRuntime, ContainerState, ContainerUser,
    ErrorKind, ImageService, Mount, SandboxState, SeccompProfile, SecurityContext,
};

use crate::support::{
    Node, busybox_layer, docker_archive, gzip, oci_archive, on_node, shell, until,
};

#[test]
fn runs_logs_and_exits() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("web-0").await;
        let script = "echo out; echo err >&2; hostname; cat /etc/hostname; pwd; echo $FROM_IMAGE $HOME; exit 7";
        let id = node.run(&sandbox, &shell(&image, script)).await;
        let (exit, oom) = node.exit(&id).await;
        assert_eq!((exit.code, exit.signal, oom), (7, 0, false));
        let mut log = node.log(&id).await;
        log.sort();
        assert_eq!(
            log,
            [
                "stderr F err",
                "stdout F /",
                "stdout F out",
                "stdout F web-0",
                "stdout F web-0",
                "stdout F yes /root"
            ]
        );
        let status = node.runtime.container_status(&id).await.unwrap();
        assert!(status.started_at >= status.created_at && status.finished_at >= status.started_at);
        assert_eq!(status.image_id, image);
        node.runtime.remove_container(&id).await.unwrap();
        let gone = node.runtime.container_status(&id).await.unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NotFound);
        assert!(status.log_path.exists());
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(std::fs::read_dir(node.path("run/pods")).unwrap().count(), 0);
        assert_eq!(
            std::fs::read_dir(node.path("data/pods")).unwrap().count(),
            0
        );
    });
}

#[test]
fn archives_of_every_kind_are_imported() {
    on_node(|node: Node| async move {
        let layers = [busybox_layer()];
        let docker = docker_archive("one:v1", &layers);
        let oci = oci_archive("registry.example/two:v2", &layers);
        let archives = [
            ("plain.tar", docker.clone()),
            ("gzip.tar.gz", gzip(&docker)),
            (
                "zstd.tar.zst",
                zstd::encode_all(docker.as_slice(), 1).unwrap(),
            ),
            ("oci.tar", oci),
        ];
        let mut ids = Vec::new();
        for (name, bytes) in archives {
            std::fs::write(node.path(name), bytes).unwrap();
            ids.push(
                node.runtime.import(&node.path(name)).await.unwrap()[0]
                    .id
                    .clone(),
            );
        }
        ids.dedup();
        assert_eq!(ids.len(), 1);
        let image = node.runtime.image_status("two").await.unwrap();
        assert_eq!(image, None);
        let image = node
            .runtime
            .image_status("registry.example/two:v2")
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            image.repo_tags,
            ["docker.io/library/one:v1", "registry.example/two:v2"]
        );
        assert_eq!(image.repo_digests.len(), 1);
        assert_eq!(
            node.runtime.image_status(&image.id).await.unwrap(),
            Some(image.clone())
        );
        assert_eq!(
            node.runtime
                .image_status(&image.repo_digests[0])
                .await
                .unwrap(),
            Some(image.clone())
        );
        assert!(node.runtime.image_fs_usage().await.unwrap().used_bytes > 100_000);
        node.runtime.remove_image("one:v1").await.unwrap();
        assert!(
            node.runtime
                .image_status(&image.id)
                .await
                .unwrap()
                .is_some()
        );
        node.runtime.remove_image(&image.id).await.unwrap();
        assert!(node.runtime.list_images().await.unwrap().is_empty());
        assert_eq!(
            std::fs::read_dir(node.path("data/images/layers"))
                .unwrap()
                .count(),
            0
        );
    });
}

#[test]
fn a_missing_command_is_named() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("missing").await;
        for (command, reason) in [
            ("foo", "exec: \"foo\": executable file not found in $PATH"),
            (
                "/no/foo",
                "exec: \"/no/foo\": stat /no/foo: no such file or directory",
            ),
            ("/bin/notexec", "exec: \"/bin/notexec\": permission denied"),
        ] {
            let config = ContainerConfig {
                command: vec![command.into()],
                ..shell(&image, "")
            };
            let id = node
                .runtime
                .create_container(&sandbox, &config)
                .await
                .unwrap();
            let error = node.runtime.start_container(&id).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::CannotRun, "{error}");
            assert!(error.message.ends_with(reason), "{error}");
            let status = node.runtime.container_status(&id).await.unwrap();
            let ContainerState::Exited { exit, message, .. } = status.state else {
                panic!("{:?}", status.state)
            };
            assert_eq!(exit.code, 128);
            assert!(message.ends_with(reason));
        }
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn stops_gracefully_then_not() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("stop").await;
        let polite = "trap 'echo bye; exit 3' TERM; echo up; while true; do sleep 0.1; done";
        let stubborn = "trap '' TERM; echo up; while true; do sleep 0.1; done";
        for (script, grace, code) in [(polite, 10, 3), (stubborn, 1, 137)] {
            let id = node.run(&sandbox, &shell(&image, script)).await;
            let log = node.runtime.container_status(&id).await.unwrap().log_path;
            until("the script is up", || {
                std::fs::read_to_string(&log).is_ok_and(|text| text.contains("up"))
            })
            .await;
            node.runtime
                .stop_container(&id, Duration::from_secs(grace))
                .await
                .unwrap();
            assert_eq!(node.exit(&id).await.0.code, code);
        }
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn a_restarted_daemon_takes_up_what_runs() {
    on_node(|mut node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("survivor").await;
        let long = node
            .run(
                &sandbox,
                &shell(&image, "echo one; sleep 1; echo two; sleep 1000"),
            )
            .await;
        let short = node.run(&sandbox, &shell(&image, "sleep 1; exit 5")).await;
        let before = node.runtime.container_status(&long).await.unwrap();
        node.runtime.close().await;
        // Both the exit and the output happen while no daemon runs.
        let exit_file = node
            .path("data/pods")
            .join(&sandbox.0)
            .join(&short.0)
            .join("exit.json");
        until("the shim notes the exit", || exit_file.exists()).await;
        node.restart().await;
        let after = node.runtime.container_status(&long).await.unwrap();
        assert_eq!(before, after);
        assert_eq!(node.exit(&short).await.0.code, 5);
        let log = after.log_path.clone();
        until("the log goes on", || {
            std::fs::read_to_string(&log).unwrap().contains("two")
        })
        .await;
        let echo = ["/bin/echo".to_owned(), "still here".to_owned()];
        let done = node
            .runtime
            .exec_sync(&long, &echo, Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(done.stdout, b"still here\n");
        let listed = node.runtime.list_pod_sandboxes().await.unwrap();
        assert_eq!(listed[0].state, SandboxState::Ready);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn a_dead_shim_ends_its_pod() {
    on_node(|mut node: Node| async move {
        let image = node.image().await;
        for restarted in [false, true] {
            let sandbox = node.sandbox("orphan").await;
            let id = node.run(&sandbox, &shell(&image, "sleep 1000")).await;
            let mut events = node.runtime.events();
            if restarted {
                node.runtime.close().await;
            }
            let pid =
                std::fs::read_to_string(node.path("run/pods").join(&sandbox.0).join("shim.pid"))
                    .unwrap();
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            if restarted {
                until("the shim is gone", || {
                    nix::sys::signal::kill(pid, None).is_err()
                })
                .await;
                node.restart().await;
            } else {
                let lost = async {
                    while events.recv().await.unwrap()
                        != cri::ContainerEvent::SandboxLost(sandbox.clone())
                    {}
                };
                tokio::time::timeout(crate::support::WAIT, lost)
                    .await
                    .unwrap();
            }
            assert_eq!(node.exit(&id).await.0.code, 255);
            let listed = node.runtime.list_pod_sandboxes().await.unwrap();
            assert_eq!(listed[0].state, SandboxState::NotReady);
            node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        }
    });
}

#[test]
fn limits_reach_the_kernel() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("limits").await;
        let mut config = shell(
            &image,
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
             /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max \
             /proc/self/oom_score_adj 2>/dev/null; \
             head -c 100m /dev/zero | tail -c 90m | wc -c",
        );
        config.resources = ContainerResources {
            memory_limit: Some(32 << 20),
            cpu_shares: Some(512),
            pids_limit: Some(50),
            oom_score_adj: Some(77),
            ..ContainerResources::default()
        };
        let id = node.run(&sandbox, &config).await;
        let (_, oom) = node.exit(&id).await;
        let log = node.log(&id).await.join("\n");
        assert!(
            log.contains("33554432") && log.contains("F 50") && log.contains("F 77"),
            "{log}"
        );
        assert!(oom, "the kernel killed for memory: {log}");

        let id = node.run(&sandbox, &shell(&image, "sleep 1000")).await;
        let stats = node.runtime.container_stats(&id).await.unwrap();
        assert!(stats.memory_usage > 0 && stats.pids >= 1, "{stats:?}");
        let more = ContainerResources {
            pids_limit: Some(99),
            ..ContainerResources::default()
        };
        node.runtime
            .update_container_resources(&id, &more)
            .await
            .unwrap();
        let config = node.runtime.container_status(&id).await.unwrap().config;
        assert_eq!(config.resources.pids_limit, Some(99));
        assert!(
            node.runtime
                .pod_sandbox_stats(&sandbox)
                .await
                .unwrap()
                .cgroup
                .pids
                >= 1
        );
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn security_settings_hold() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("security").await;
        let run = async |script: &str, security: SecurityContext| {
            let config = ContainerConfig {
                security,
                ..shell(&image, script)
            };
            let id = node.run(&sandbox, &config).await;
            node.exit(&id).await;
            node.log(&id)
                .await
                .join("\n")
                .replace("stdout F ", "")
                .replace("stderr F ", "")
        };
        let base = SecurityContext::default;
        let seccomp = SecurityContext {
            seccomp: SeccompProfile::RuntimeDefault,
            ..base()
        };

        let user = SecurityContext {
            run_as_user: Some(ContainerUser::Name("web".into())),
            supplemental_groups: vec![1234],
            ..base()
        };
        let out = run("id -u; id -G; echo to > /dev/stdout", user).await;
        assert_eq!(out, "33\n33 50 1234\nto");

        let out = run(
            "touch /x && echo wrote",
            SecurityContext {
                readonly_rootfs: true,
                ..base()
            },
        )
        .await;
        assert!(out.contains("Read-only file system"), "{out}");

        let out = run(
            "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '",
            base(),
        )
        .await;
        assert_eq!(out, "CapEff: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 0");

        let nnp = SecurityContext {
            no_new_privileges: true,
            drop_capabilities: vec!["ALL".into()],
            ..seccomp.clone()
        };
        let out = run(
            "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '",
            nnp,
        )
        .await;
        assert_eq!(out, "CapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2");

        let out = run("unshare -m true; (echo forked)", seccomp).await;
        assert!(
            out.contains("not permitted") && out.contains("forked"),
            "{out}"
        );

        let out = run(
            "ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic; \
             mknod /tmp/sda b 8 0; head -c 1 /tmp/sda; mount | grep -c ' /sys .*ro,'",
            base(),
        )
        .await;
        assert!(out.lines().any(|line| line == "0"), "{out}");
        assert!(out.contains("Read-only file system"), "{out}");
        assert!(
            out.contains("not permitted") || out.contains("ermission denied"),
            "{out}"
        );
        assert!(out.ends_with('1'), "{out}");

        let privileged = SecurityContext {
            privileged: true,
            ..base()
        };
        let out = run(
            "ls /dev/kmsg; unshare -m true && echo may; yes | head -n 1",
            privileged,
        )
        .await;
        assert_eq!(out, "/dev/kmsg\nmay\ny");
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn mounts_and_working_folder() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("mounts").await;
        std::fs::create_dir(node.path("volume")).unwrap();
        std::fs::write(node.path("hosts"), "127.0.0.1 me\n").unwrap();
        let mut config = shell(
            &image,
            "pwd; echo data > file; cat /etc/hosts; echo no > /ro/x; echo sum > /dev/shm/s; \
             cat /proc/mounts | grep -c mqueue",
        );
        config.working_dir = "/vol/a/b".into();
        let mount = |host: &str, to: &str, readonly| Mount {
            host_path: node.path(host),
            container_path: to.into(),
            readonly,
            ..Mount::default()
        };
        config.mounts = vec![
            mount("hosts", "/etc/hosts", false),
            mount("volume", "/vol", false),
            mount("volume", "/ro", true),
        ];
        let id = node.run(&sandbox, &config).await;
        node.exit(&id).await;
        let log = node.log(&id).await.join("\n");
        assert!(
            log.contains("F /vol/a/b") && log.contains("127.0.0.1 me"),
            "{log}"
        );
        assert!(
            log.contains("Read-only file system") && log.contains("F 1"),
            "{log}"
        );
        assert_eq!(
            std::fs::read_to_string(node.path("volume/a/b/file")).unwrap(),
            "data\n"
        );
        let (log, _) = node.script(&sandbox, &image, "cat /dev/shm/s").await;
        assert_eq!(log, ["stdout F sum"]);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}
