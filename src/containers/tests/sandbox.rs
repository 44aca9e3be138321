//! Namespaces of sandboxes.

use cri::{
    ContainerConfig, ContainerRuntime, DnsConfig, ErrorKind, NamespaceMode, PodSandboxConfig,
};

use crate::support::{Node, on_node, shell, until};

#[test]
fn namespaces_are_the_pods_own() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let config = PodSandboxConfig {
            dns: DnsConfig {
                servers: vec!["10.43.0.10".into()],
                searches: vec!["svc.cluster.local".into()],
                options: vec!["ndots:5".into()],
            },
            sysctls: [(
                "net.ipv4.ip_local_port_range".to_owned(),
                "2000 3000".to_owned(),
            )]
            .into(),
            ..node.pod("alone")
        };
        let status = node.runtime.run_pod_sandbox(&config).await.unwrap();
        let netns = status.netns.clone().unwrap();
        assert!(netns.exists());
        let script = "ip -o link | grep -c .; ip -o addr show lo | grep -c 127.0.0.1; \
                      cat /proc/sys/net/ipv4/ip_local_port_range | tr '\\t' ' '; \
                      cat /etc/resolv.conf; ps | grep -c sh; readlink /proc/self/ns/ipc";
        let (first, code) = node.script(&status.id, &image, script).await;
        assert_eq!(code, 0, "{first:?}");
        assert!(
            first.contains(&"stdout F 2000 3000".to_owned()),
            "{first:?}"
        );
        assert!(
            first.contains(&"stdout F nameserver 10.43.0.10".to_owned()),
            "{first:?}"
        );
        let host_ipc = std::fs::read_link("/proc/self/ns/ipc").unwrap();
        let ipc = first
            .last()
            .unwrap()
            .strip_prefix("stdout F ")
            .unwrap()
            .to_owned();
        assert_ne!(host_ipc.to_str().unwrap(), ipc);
        let (second, _) = node
            .script(&status.id, &image, "readlink /proc/self/ns/ipc")
            .await;
        assert_eq!(second, [format!("stdout F {ipc}")]);
        node.runtime.stop_pod_sandbox(&status.id).await.unwrap();
        assert!(!netns.exists());
        node.runtime.remove_pod_sandbox(&status.id).await.unwrap();

        let wrong = PodSandboxConfig {
            sysctls: [("vm.swappiness".to_owned(), "1".to_owned())].into(),
            ..node.pod("wrong")
        };
        let error = node.runtime.run_pod_sandbox(&wrong).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(node.runtime.list_pod_sandboxes().await.unwrap().is_empty());
    });
}

#[test]
fn the_nodes_namespaces_can_be_used() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let config = PodSandboxConfig {
            network: NamespaceMode::Node,
            pid: NamespaceMode::Node,
            ipc: NamespaceMode::Node,
            hostname: String::new(),
            ..node.pod("host")
        };
        let status = node.runtime.run_pod_sandbox(&config).await.unwrap();
        assert_eq!(status.netns, None);
        let script = "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done";
        let (log, _) = node.script(&status.id, &image, script).await;
        let own: Vec<String> = ["net", "pid", "ipc", "uts"]
            .map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap())
            .iter()
            .map(|link| format!("stdout F {}", link.to_str().unwrap()))
            .collect();
        assert_eq!(log, own);
        // Nothing ends a child of the node's PID namespace but its cgroup.
        let id = node
            .run(&status.id, &shell(&image, "sleep 1234 & sleep 1"))
            .await;
        node.exit(&id).await;
        node.runtime.remove_pod_sandbox(&status.id).await.unwrap();
    });
}

#[test]
fn processes_can_be_shared() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let shared = PodSandboxConfig {
            pid: NamespaceMode::Pod,
            ..node.pod("shared")
        };
        let sandbox = node.runtime.run_pod_sandbox(&shared).await.unwrap().id;
        node.run(&sandbox, &shell(&image, "sleep 4321; true")).await;
        let (log, _) = node
            .script(&sandbox, &image, "ps | grep -c '[s]leep 4321'; echo $$")
            .await;
        assert_ne!(log[0], "stdout F 0");
        assert_ne!(log[1], "stdout F 1");
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();

        let sandbox = node.sandbox("target").await;
        let main = node.run(&sandbox, &shell(&image, "sleep 4321")).await;
        let debug = ContainerConfig {
            pid: Some(NamespaceMode::Target(main)),
            ..shell(&image, "ps | grep -c '[s]leep 4321'")
        };
        let id = node.run(&sandbox, &debug).await;
        node.exit(&id).await;
        assert_ne!(node.log(&id).await, ["stdout F 0"]);
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    });
}

#[test]
fn leftovers_of_a_crash_are_cleared() {
    on_node(|mut node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("crashed").await;
        node.run(&sandbox, &shell(&image, "sleep 1000")).await;
        let kept = node.sandbox("kept").await;
        let created = node
            .runtime
            .create_container(&kept, &shell(&image, "true"))
            .await
            .unwrap();
        node.runtime.close().await;
        // As if the daemon had died before the sandbox was complete.
        let file = node.path("data/pods").join(&sandbox.0).join("sandbox.json");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(
            &file,
            text.replace("\"complete\":true", "\"complete\":false"),
        )
        .unwrap();
        std::fs::create_dir(node.path("run/pods/stray")).unwrap();
        std::fs::create_dir(node.path("data/pods/stray")).unwrap();
        std::fs::create_dir(node.path("data/pods").join(&kept.0).join("half-made")).unwrap();
        node.restart().await;
        let listed = node.runtime.list_pod_sandboxes().await.unwrap();
        assert_eq!(listed.iter().map(|s| &s.id).collect::<Vec<_>>(), [&kept]);
        for folder in ["run/pods", "data/pods"] {
            assert_eq!(
                std::fs::read_dir(node.path(folder)).unwrap().count(),
                1,
                "{folder}"
            );
        }
        node.runtime.start_container(&created).await.unwrap();
        assert_eq!(node.exit(&created).await.0.code, 0);
        node.runtime.remove_pod_sandbox(&kept).await.unwrap();
    });
}

#[test]
fn the_shim_stays_small_and_leaves() {
    on_node(|node: Node| async move {
        let image = node.image().await;
        let sandbox = node.sandbox("small").await;
        let id = node
            .run(
                &sandbox,
                &shell(&image, "yes | head -c 1000000; sleep 1000"),
            )
            .await;
        for _ in 0..20 {
            let command = ["/bin/true".to_owned()];
            let wait = std::time::Duration::from_secs(10);
            node.runtime.exec_sync(&id, &command, wait).await.unwrap();
        }
        let pid = std::fs::read_to_string(node.path("run/pods").join(&sandbox.0).join("shim.pid"));
        let pid = pid.unwrap();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let kib: u64 = rollup
            .lines()
            .filter(|line| line.starts_with("Private_Dirty:"))
            .map(|line| {
                line.split_whitespace()
                    .nth(1)
                    .unwrap()
                    .parse::<u64>()
                    .unwrap()
            })
            .sum();
        println!("the shim's own memory: {kib} KiB");
        assert!(kib < 3 << 10, "{rollup}");
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count();
        assert!(open < 20, "{open} descriptors are open");
        node.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{pid}/cmdline"));
        until("the shim ends", || {
            std::fs::read(&process).unwrap_or_default().is_empty()
        })
        .await;
    });
}
