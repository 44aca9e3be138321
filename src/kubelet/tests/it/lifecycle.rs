//! Pods from binding to nothing left.

use serde_json::{Value, json};

use crate::world::{World, path};

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let all = status["conditions"].as_array().unwrap();
    all.iter()
        .find(|condition| condition["type"] == kind)
        .unwrap()
}

#[tokio::test]
async fn runs_and_deletes() {
    let world = World::new().await;
    world.api.put(
        "/api/v1/namespaces/ns/configmaps/settings",
        json!({"metadata": {"name": "settings", "namespace": "ns"}, "data": {"color": "red"}}),
    );
    world.bind(
        "web",
        json!({"containers": [{"name": "c",
        "env": [{"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings",
            "key": "color"}}}, {"name": "IP", "valueFrom": {"fieldRef":
            {"fieldPath": "status.podIP"}}}],
        "volumeMounts": [{"name": "v", "mountPath": "/etc/settings"},
            {"name": "e", "mountPath": "/cache"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "settings"}},
            {"name": "e", "emptyDir": {}}]}),
    );
    let status = world.until_phase("web", "Running").await;
    assert_eq!(condition(&status, "Ready")["status"], "True");
    assert_eq!(
        condition(&status, "PodReadyToStartContainers")["status"],
        "True"
    );
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["observedGeneration"], 1);
    let container = &status["containerStatuses"][0];
    assert!(
        container["containerID"]
            .as_str()
            .unwrap()
            .starts_with("karve://")
    );
    assert_eq!(container["image"], "docker.io/library/present:latest");
    let config = world.runtime.config_of("c");
    let env = |name: &str| {
        config
            .envs
            .iter()
            .find(|(known, _)| known == name)
            .unwrap()
            .1
            .clone()
    };
    assert_eq!(env("COLOR"), "red");
    assert_eq!(env("IP"), status["podIP"].as_str().unwrap());
    let mount = |inside: &str| {
        let mut mounts = config.mounts.iter();
        mounts
            .find(|mount| mount.container_path.to_str() == Some(inside))
            .unwrap()
    };
    let read = |inside: &str, file: &str| {
        std::fs::read_to_string(mount(inside).host_path.join(file)).unwrap()
    };
    assert_eq!(read("/etc/settings", "color"), "red");
    assert!(
        std::fs::read_to_string(&mount("/etc/hosts").host_path)
            .unwrap()
            .contains("\tweb\n")
    );

    world.delete("web", 30);
    world.until_gone("web").await;
    assert!(world.runtime.is_empty(), "{:?}", world.runtime.log());
    assert!(!mount("/cache").host_path.exists());
    assert_eq!(world.events("Killing"), ["Stopping container c"]);
    assert_eq!(world.events("Created"), ["Container created"]);
    assert_eq!(
        world.events("Pulled"),
        ["Container image \"present\" already present on machine and can be accessed by the pod"]
    );
    world.stop().await;
}

#[tokio::test]
async fn initialises_in_order_and_ends() {
    let world = World::new().await;
    for name in ["i1", "i2", "job"] {
        world.runtime.exits_at_once(name, 0);
    }
    world.bind(
        "job",
        json!({"restartPolicy": "Never",
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"},
            {"name": "i2"}],
        "containers": [{"name": "job"}]}),
    );
    let status = world.until_phase("job", "Succeeded").await;
    assert_eq!(condition(&status, "Initialized")["reason"], "PodCompleted");
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["reason"], &ended["exitCode"]),
        (&json!("Completed"), &json!(0))
    );
    let log = world.runtime.log();
    let starts: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("start "))
        .collect();
    assert_eq!(starts, ["start i1", "start side", "start i2", "start job"]);
    world.delete("job", 30);
    world.until_gone("job").await;
    assert!(world.runtime.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn backs_off_from_crashes() {
    let world = World::new().await;
    world.runtime.exits_at_once("c", 3);
    world.bind("crash", json!({"containers": [{"name": "c"}]}));
    let status = world
        .until("crash", "a crash loop", |status| {
            let container = &status["containerStatuses"][0];
            (container["state"]["waiting"]["reason"] == "CrashLoopBackOff")
                .then(|| container.clone())
        })
        .await;
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(status["restartCount"], 1);
    assert_eq!(
        status["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=crash_ns(uid-crash)"
    );
    assert_eq!(
        world.api.get(&path("crash")).unwrap()["status"]["phase"],
        "Running"
    );
    world.until_event("BackOff").await;
    world.runtime.keeps_running("c");
    world.delete("crash", 0);
    world.until_gone("crash").await;
    world.stop().await;
}

#[tokio::test]
async fn says_why_an_image_is_not_there() {
    let world = World::new().await;
    world.bind(
        "lost",
        json!({"containers": [{"name": "c", "image": "missing"},
        {"name": "d", "image": "gone", "imagePullPolicy": "Never"},
        {"name": "e", "image": "Not An Image"}]}),
    );
    world
        .until("lost", "every reason", |status| {
            let reason = |index: usize| &status["containerStatuses"][index]["state"]["waiting"];
            (reason(0)["reason"] == "ImagePullBackOff"
                && reason(1)["reason"] == "ErrImageNeverPull"
                && reason(2)["reason"] == "InvalidImageName")
                .then_some(())
        })
        .await;
    let failed = world.events("Failed");
    assert!(failed.contains(&"Failed to pull image \"missing\": no such image: missing".into()));
    assert!(failed.contains(&"Error: ErrImagePull".into()), "{failed:?}");
    world.delete("lost", 30);
    world.until_gone("lost").await;
    world.stop().await;
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts() {
    let world = World::new().await;
    world.runtime.exec_answers(1);
    world.bind(
        "sick",
        json!({"containers": [{"name": "c", "livenessProbe":
        {"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    );
    world
        .until("sick", "a restart", |status| {
            (status["containerStatuses"][0]["restartCount"] == 1).then_some(())
        })
        .await;
    let killing = world.until_event("Killing").await;
    assert_eq!(
        killing,
        "Container c failed liveness probe, will be restarted"
    );
    assert_eq!(
        world.until_event("Unhealthy").await,
        "Liveness probe failed: "
    );
    world.delete("sick", 1);
    world.until_gone("sick").await;
    world.stop().await;
}

#[tokio::test]
async fn a_readiness_probe_decides_readiness() {
    let world = World::new().await;
    world.runtime.exec_answers(1);
    world.bind(
        "slow",
        json!({"containers": [{"name": "c", "readinessProbe":
        {"exec": {"command": ["check"]}, "periodSeconds": 1}}]}),
    );
    let status = world.until_phase("slow", "Running").await;
    assert_eq!(condition(&status, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(
        condition(&status, "Ready")["message"],
        "containers with unready status: [c]"
    );
    world.runtime.exec_answers(0);
    world
        .until("slow", "ready", |status| {
            (condition(status, "Ready")["status"] == "True").then_some(())
        })
        .await;
    world.delete("slow", 1);
    world.until_gone("slow").await;
    world.stop().await;
}

#[tokio::test]
async fn takes_over_what_runs() {
    let mut world = World::new().await;
    world.bind("web", json!({"containers": [{"name": "c"}]}));
    world.bind("orphan", json!({"containers": [{"name": "o"}]}));
    world.until_phase("web", "Running").await;
    world.until_phase("orphan", "Running").await;
    world.stop().await;
    world.api.remove(&path("orphan"));
    world.restart().await;
    world
        .api
        .until("the orphan is stopped", |_| {
            let log = world.runtime.log();
            world.api.put(
                "/api/v1/namespaces/ns/secrets/tick",
                json!({"metadata": {"name": "tick"}}),
            );
            log.contains(&"stopped o".to_owned()).then_some(())
        })
        .await;
    world.delete("web", 5);
    world.until_gone("web").await;
    let starts = world
        .runtime
        .log()
        .iter()
        .filter(|line| *line == "start c")
        .count();
    assert_eq!(starts, 1, "nothing was restarted");
    world.stop().await;
}

#[tokio::test]
async fn grace_can_be_shortened() {
    let world = World::new().await;
    world.runtime.ignores_signals("c");
    world.bind(
        "stubborn",
        json!({"containers": [{"name": "c", "lifecycle":
        {"preStop": {"exec": {"command": ["bye"]}}}}]}),
    );
    world.until_phase("stubborn", "Running").await;
    world.delete("stubborn", 600);
    world.until_event("Killing").await;
    world.delete("stubborn", 1);
    world.until_gone("stubborn").await;
    let log = world.runtime.log();
    assert_eq!(
        log.iter().filter(|line| *line == "exec c bye").count(),
        1,
        "{log:?}"
    );
    assert_eq!(world.events("Killing").len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn sidecars_outlive_the_containers() {
    let world = World::new().await;
    world.bind(
        "pair",
        json!({"initContainers": [{"name": "side", "restartPolicy": "Always"}],
        "containers": [{"name": "main"}]}),
    );
    world.until_phase("pair", "Running").await;
    world.delete("pair", 30);
    world.until_gone("pair").await;
    let log = world.runtime.log();
    let at = |what: &str| log.iter().position(|line| line == what).unwrap();
    assert!(at("stopped main") < at("stopped side"), "{log:?}");
    world.stop().await;
}

#[tokio::test]
async fn runs_out_of_time() {
    let world = World::new().await;
    world.bind(
        "late",
        json!({"activeDeadlineSeconds": 1, "containers": [{"name": "c"}]}),
    );
    let status = world.until_phase("late", "Failed").await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    world.delete("late", 1);
    world.until_gone("late").await;
    world.stop().await;
}

#[tokio::test]
async fn waits_for_what_it_mounts() {
    let world = World::new().await;
    world.bind(
        "early",
        json!({"containers": [{"name": "c", "volumeMounts":
        [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "late"}}]}),
    );
    let message = world.until_event("FailedMount").await;
    assert_eq!(
        message,
        "MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found"
    );
    let map = |value: &str| json!({"metadata": {"name": "late", "namespace": "ns"}, "data": {"k": value}});
    world
        .api
        .put("/api/v1/namespaces/ns/configmaps/late", map("1"));
    world.until_phase("early", "Running").await;
    let config = world.runtime.config_of("c");
    let dir = config.mounts[0].host_path.clone();
    assert_eq!(std::fs::read_to_string(dir.join("k")).unwrap(), "1");
    world
        .api
        .put("/api/v1/namespaces/ns/configmaps/late", map("2"));
    world
        .api
        .until("the file changes", |api| {
            api.put(
                "/api/v1/namespaces/ns/secrets/tick",
                json!({"metadata": {"name": "tick"}}),
            );
            (std::fs::read_to_string(dir.join("k")).unwrap() == "2").then_some(())
        })
        .await;
    world.runtime.end("c", 0);
    world
        .until("early", "a restart", |status| {
            (status["containerStatuses"][0]["restartCount"] == 1).then_some(())
        })
        .await;
    world.delete("early", 1);
    world.until_gone("early").await;
    world.stop().await;
}

#[tokio::test]
async fn limits_follow_the_spec() {
    let world = World::new().await;
    let container = |name: &str, cpu: &str, policy: &str| {
        json!({"name": name, "resources": {"requests": {"cpu": cpu}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]})
    };
    let both = |cpu: &str| {
        json!({"containers": [container("a", cpu, "NotRequired"),
            container("b", cpu, "RestartContainer")]})
    };
    world.bind("web", both("125m"));
    world.until_phase("web", "Running").await;
    let mut pod = world.api.get(&path("web")).unwrap();
    pod["metadata"]["generation"] = json!(2);
    for index in 0..2 {
        pod["spec"]["containers"][index]["resources"]["requests"]["cpu"] = json!("250m");
    }
    world.api.put(&path("web"), pod);
    let restarts =
        |status: &Value, index: usize| status["containerStatuses"][index]["restartCount"].as_i64();
    let status = world
        .until("web", "the resize is done", |status| {
            let open = status["conditions"].as_array()?;
            let open = open.iter().any(|c| c["type"] == "PodResizeInProgress");
            let done = !open && restarts(status, 1) == Some(1);
            done.then(|| status.clone())
        })
        .await;
    assert_eq!(status["observedGeneration"], 2);
    assert_eq!(restarts(&status, 0), Some(0));
    for index in 0..2 {
        let own = &status["containerStatuses"][index];
        assert_eq!(own["allocatedResources"]["cpu"], "250m");
    }
    let log = world.runtime.log();
    let changes: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("limit"))
        .collect();
    assert_eq!(changes, ["limit pod Some(512)", "limit a Some(256)"]);
    let starts = log.iter().filter(|line| *line == "start b").count();
    assert_eq!(starts, 2, "{log:?}");
    world.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let world = World::new().await;
    let on_port = json!({"containers": [{"name": "c",
        "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]}]});
    world.bind("first", on_port.clone());
    world.until_phase("first", "Running").await;
    world.bind("second", on_port.clone());
    let status = world.until_phase("second", "Failed").await;
    assert_eq!(status["reason"], "NodePorts");
    let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod \
               ports";
    assert_eq!(status["message"], format!("Pod was rejected: {why}"));
    assert_eq!(world.until_event("NodePorts").await, why);
    world.delete("first", 0);
    world.until_gone("first").await;
    world.bind("third", on_port);
    world.until_phase("third", "Running").await;
    world.stop().await;
}
