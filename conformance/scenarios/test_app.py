"""A real application of three tiers: it comes up, answers, rolls without a
failed request, outlives a killed daemon, and leaves nothing behind."""
import glob, os, subprocess, threading, time, unittest

from harness import IMAGES, NODE_IP, Failed, Node, apply, get, http, kubectl, sh, wait


def deployment(name, image, port, env=(), replicas=1, probe="/", **container):
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": name, "image": image, "imagePullPolicy": "Never", "ports": [{"containerPort": port}],
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
                    "readinessProbe": ({"httpGet": {"path": probe, "port": port}} if probe else {"tcpSocket": {"port": port}})
                    | {"periodSeconds": 1},
                    "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                    **container}]}}}}


def service(name, port, target, **spec):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}], **spec}}


APP = [
    deployment("redis", "karve.test/redis:1", 6379, probe=None),
    service("redis", 6379, 6379),
    deployment("web", "karve.test/web:1", 8080, replicas=2),
    service("web", 8080, 8080),
    deployment("nginx", "karve.test/nginx:1", 80, replicas=2, probe="/version"),
    service("nginx", 80, 80, type="NodePort"),
]


def leftovers(uids):
    """What pods of these uids could leave on a node, by kind."""
    found = {}
    processes = []
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            command = open(f"{folder}/cmdline", "rb").read().split(b"\0")
        except OSError:
            continue
        text = b" ".join(command).decode(errors="replace")
        if " shim " in f" {text} " or "nginx" in text or "httpd" in text or "redis-server" in text:
            processes.append(text)
    found["processes"] = processes
    found["mounts"] = [l.split()[4] for l in open("/proc/self/mountinfo")
                       if "/containers/" in l or "/kubelet/pods/" in l or "/run/karve/" in l.split()[4] and "netns" in l]
    links = sh("ip", "-o", "link", "show", "type", "veth")
    found["links"] = [l for l in links.splitlines() if "node0" not in l and "sink0" not in l]
    found["cgroups"] = [p for p in glob.glob("/sys/fs/cgroup/**/pod*", recursive=True) if any(uid in p for uid in uids)]
    return {k: v for k, v in found.items() if v}


class App(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node().start()
        cls.node.node_ready()
        sh(os.environ["KARVE"], "image", "import", *sorted(glob.glob(f"{IMAGES}/*.tar")), timeout=120)
        apply(*APP)
        for name in ("redis", "web", "nginx"):
            kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s", timeout=70)

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def test_1_answers_by_cluster_ip_node_port_and_dns(self):
        svc = get("service", "nginx")
        ip, port = svc["spec"]["clusterIP"], svc["spec"]["ports"][0]["nodePort"]
        wait("the ClusterIP", lambda: http(f"http://{ip}/version") == "1\n")
        self.assertEqual(http(f"http://{NODE_IP}:{port}/version"), "1\n")
        pod, count = wait("a visit", lambda: http(f"http://{NODE_IP}:{port}/cgi-bin/visits").split())
        self.assertTrue(pod.startswith("web-"), pod)
        self.assertGreater(int(count), 0)
        kubectl("run", "client", "--image=karve.test/busybox:1", "--image-pull-policy=Never", "--restart=Never",
                "--command", "--", "sleep", "600")
        kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=30s")
        for name in ("nginx", "nginx.default", "nginx.default.svc.cluster.local"):
            self.assertEqual(kubectl("exec", "client", "--", "wget", "-qO-", f"http://{name}/version"), "1\n")

    def test_2_a_killed_daemon_disturbs_nobody(self):
        before = {p["metadata"]["name"]: (p["status"]["podIP"], p["status"]["containerStatuses"][0]["containerID"],
                                          p["status"]["containerStatuses"][0]["restartCount"])
                  for p in get("pods")["items"]}
        ip = get("service", "nginx")["spec"]["clusterIP"]
        kubectl("create", "configmap", "acknowledged", "--from-literal=a=b")
        with Load(f"http://{ip}/version") as load:
            self.node.kill()
            load.for_seconds(1)
            self.node.start()
            self.node.node_ready()
            load.for_seconds(1)
        self.assertEqual(load.failures, [], f"of {load.requests} requests")
        self.assertEqual(get("configmap", "acknowledged")["data"], {"a": "b"})
        after = lambda: {p["metadata"]["name"]: (p["status"]["podIP"], p["status"]["containerStatuses"][0]["containerID"],
                                                 p["status"]["containerStatuses"][0]["restartCount"])
                         for p in get("pods")["items"]}
        self.assertEqual(after(), before)
        wait("exec to work again", lambda: kubectl("exec", "client", "--", "echo", "back") == "back\n")

    def test_3_rolls_without_a_failed_request(self):
        ip = get("service", "nginx")["spec"]["clusterIP"]
        with Load(f"http://{ip}/version") as load:
            kubectl("set", "image", "deployment/nginx", "nginx=karve.test/nginx:2")
            kubectl("rollout", "status", "deployment/nginx", "--timeout=60s", timeout=70)
            wait("the new version alone", lambda: all(http(f"http://{ip}/version") == "2\n" for _ in range(10)))
        self.assertEqual(load.failures, [], f"of {load.requests} requests")
        self.assertIn("2\n", load.seen)

    def test_4_goes_away_without_a_trace(self):
        uids = [p["metadata"]["uid"] for p in get("pods")["items"]]
        self.assertGreater(len(uids), 4)
        kubectl("delete", "pod", "client", "--now")
        kubectl("delete", "deployment,service", "redis", "web", "nginx", "--cascade=foreground", timeout=60)
        wait("the pods to be gone", lambda: not get("pods")["items"])
        wait("nothing to be left", lambda: not leftovers(uids) or (_ for _ in ()).throw(Failed(str(leftovers(uids)))), 15)
        rules = sh("nft", "list", "ruleset", check=False)
        self.assertNotIn("default/nginx", rules)
        self.assertEqual(glob.glob("/var/log/pods/*"), [])
        self.assertEqual(glob.glob("/var/lib/karve/agent/kubelet/pods/*"), [])


class Load:
    """Requests one after the other, as fast as they are answered."""

    def __init__(self, url):
        self.url, self.requests, self.failures, self.seen = url, 0, [], set()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.is_set():
            self.requests += 1
            try:
                self.seen.add(http(self.url))
            except OSError as error:
                self.failures.append(f"{time.monotonic():.3f} {error}")
            self.over.wait(0.005)

    def for_seconds(self, seconds):
        end = self.requests, time.monotonic() + seconds
        wait("requests to go on", lambda: time.monotonic() > end[1] and self.requests > end[0], seconds + 30)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
