"""Stock kubectl, command by command, against real pods."""
import glob, json, os, re, subprocess, tempfile, unittest

from harness import IMAGES, Failed, Node, apply, get, http, kubectl, sh, wait

SHELL = {"image": "karve.test/busybox:1", "imagePullPolicy": "Never"}


def pod(name, command, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"run": name}},
            "spec": {"terminationGracePeriodSeconds": 1, "restartPolicy": "Never", **spec,
                     "containers": [{"name": "main", **SHELL, "command": ["sh", "-c", command]}]}}


def deployment(name, version="1"):
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
                     "template": {"metadata": {"labels": {"app": name}},
                                  "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                                      {"name": "web", "image": f"karve.test/web:{version}", "imagePullPolicy": "Never"}]}}}}


class Kubectl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node().start()
        cls.node.node_ready()
        sh(os.environ["KARVE"], "image", "import", *glob.glob(f"{IMAGES}/busybox*.tar"), *glob.glob(f"{IMAGES}/web*.tar"),
           timeout=120)
        apply(pod("shell", "echo first; echo second >&2; exec cat /dev/zero >/dev/null & wait; sleep 600"))
        kubectl("wait", "pod/shell", "--for=condition=Ready", "--timeout=30s")

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()

    def test_get_prints_tables_and_every_other_form(self):
        table = kubectl("get", "pods", "-l", "run=shell")
        self.assertRegex(table, r"NAME +READY +STATUS +RESTARTS +AGE\nshell +1/1 +Running +0 +")
        self.assertRegex(kubectl("get", "pods", "-o", "wide"), r"NOMINATED NODE +READINESS GATES")
        self.assertEqual(kubectl("get", "pod", "shell", "-o", "name"), "pod/shell\n")
        self.assertEqual(kubectl("get", "pod", "shell", "-o", "jsonpath={.status.phase}"), "Running")
        self.assertIn("phase: Running", kubectl("get", "pod", "shell", "-o", "yaml"))
        self.assertIn("shell", kubectl("get", "pods", "-A", "-o", "custom-columns=N:.metadata.name"))
        self.assertEqual(kubectl("get", "pods", "-l", "run=none", "-o", "name"), "")
        self.assertEqual(kubectl("get", "pods", "--field-selector=status.phase=Running,metadata.name=shell", "-o", "name"), "pod/shell\n")
        self.assertIn("kubernetes", kubectl("get", "all"))

    def test_describe(self):
        text = kubectl("describe", "pod", "shell")
        for part in ("Status: +Running", "Container ID:", "Successfully assigned default/shell", "Started"):
            self.assertRegex(text, part)
        self.assertIn("Allocatable", kubectl("describe", "node"))

    def test_logs(self):
        wait("both lines", lambda: kubectl("logs", "shell").splitlines() == ["first", "second"])
        self.assertEqual(kubectl("logs", "shell", "--tail=1"), "second\n")
        self.assertRegex(kubectl("logs", "shell", "--timestamps"), r"^\d{4}-\d\d-\d\dT[\d:.]+Z first")
        apply(pod("talker", "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"))
        wait("its container", lambda: get("pod", "talker")["status"]["containerStatuses"][0]["started"])
        self.assertEqual(kubectl("logs", "-f", "talker", timeout=20).splitlines(), [f"line {i}" for i in range(1, 6)])

    def test_exec(self):
        self.assertEqual(kubectl("exec", "shell", "--", "echo", "a", "b"), "a b\n")
        self.assertEqual(kubectl("exec", "-i", "shell", "--", "cat", input="through\n"), "through\n")
        with self.assertRaisesRegex(Failed, "ended with 7"):
            kubectl("exec", "shell", "--", "sh", "-c", "exit 7")
        with self.assertRaisesRegex(Failed, "executable file not found|no such file"):
            kubectl("exec", "shell", "--", "no-such-program")
        # A terminal, as a person has one.
        tty = sh("script", "-qec", "kubectl exec -it shell -- sh -c 'tty; stty size; echo done'", "/dev/null")
        self.assertIn("/dev/pts/", tty)
        self.assertIn("done", tty)

    def test_attach(self):
        echo = pod("echo", "while read l; do echo got $l; done")
        echo["spec"]["containers"][0].update(stdin=True, stdinOnce=True)
        apply(echo)
        kubectl("wait", "pod/echo", "--for=condition=Ready", "--timeout=20s")
        self.assertIn("got hello", kubectl("attach", "-i", "echo", input="hello\n"))
        wait("its end", lambda: get("pod", "echo")["status"]["phase"] == "Succeeded")

    def test_port_forward(self):
        apply(deployment("forwarded"))
        kubectl("rollout", "status", "deployment/forwarded", "--timeout=30s")
        forward = subprocess.Popen(["kubectl", "port-forward", "deployment/forwarded", ":8080"], stdout=subprocess.PIPE, text=True)
        try:
            port = re.search(r"127.0.0.1:(\d+)", forward.stdout.readline()).group(1)
            for _ in range(3):
                self.assertEqual(http(f"http://127.0.0.1:{port}/index.html"), "web 1\n")
        finally:
            forward.terminate()
            forward.wait()

    def test_cp(self):
        with tempfile.TemporaryDirectory() as folder:
            data = os.urandom(300_000)
            open(f"{folder}/up", "wb").write(data)
            kubectl("cp", f"{folder}/up", "shell:/tmp/up")
            kubectl("cp", "shell:/tmp/up", f"{folder}/down")
            self.assertEqual(open(f"{folder}/down", "rb").read(), data)

    def test_apply_is_three_way(self):
        cm = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "1", "b": "2"}}
        self.assertIn("created", apply(cm))
        kubectl("patch", "configmap", "cm", "--type=merge", "-p", '{"data":{"c":"3"}}')
        cm["data"] = {"a": "1", "b": "changed"}
        self.assertIn("configured", apply(cm))
        self.assertEqual(get("configmap", "cm")["data"], {"a": "1", "b": "changed", "c": "3"})
        self.assertIn("unchanged", apply(cm))
        self.assertIn("-  b: changed\n+  b: diff",
                      sh("kubectl", "diff", "-f", "-", input=json.dumps(cm).replace("changed", "diff"), check=False))
        d = deployment("threeway")
        apply(d)
        d["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "A", "value": "1"}]
        apply(d)
        del d["spec"]["template"]["spec"]["containers"][0]["env"]
        apply(d)
        self.assertNotIn("env", get("deployment", "threeway")["spec"]["template"]["spec"]["containers"][0])
        kubectl("delete", "deployment", "threeway")

    def test_create_edit_label_annotate(self):
        kubectl("create", "namespace", "team")
        kubectl("create", "-n", "team", "secret", "generic", "s", "--from-literal=k=v")
        self.assertEqual(get("-n", "team", "secret", "s")["data"], {"k": "dg=="})
        kubectl("label", "namespace", "team", "tier=front")
        kubectl("annotate", "namespace", "team", "note=hello")
        kubectl("edit", "namespace", "team", env=dict(os.environ, KUBE_EDITOR="sed -i s/hello/edited/"))
        meta = get("namespace", "team")["metadata"]
        self.assertEqual((meta["labels"]["tier"], meta["annotations"]["note"]), ("front", "edited"))
        self.assertIn("AlreadyExists", str(self.assertRaises(Failed, kubectl, "create", "namespace", "team") or "AlreadyExists"))
        wait("the default service account", lambda: get("-n", "team", "serviceaccount", "default"))
        kubectl("delete", "namespace", "team", timeout=60)
        with self.assertRaisesRegex(Failed, "NotFound"):
            kubectl("get", "namespace", "team")

    def test_rollouts(self):
        apply(deployment("rolling"))
        kubectl("rollout", "status", "deployment/rolling", "--timeout=30s")
        kubectl("scale", "deployment", "rolling", "--replicas=3")
        kubectl("rollout", "status", "deployment/rolling", "--timeout=30s")
        self.assertEqual(get("deployment", "rolling")["status"]["readyReplicas"], 3)
        kubectl("set", "image", "deployment/rolling", "web=karve.test/web:2")
        kubectl("rollout", "status", "deployment/rolling", "--timeout=60s", timeout=70)
        self.assertRegex(kubectl("rollout", "history", "deployment/rolling"), r"1 +<none>\n2 +<none>")
        kubectl("rollout", "undo", "deployment/rolling")
        kubectl("rollout", "status", "deployment/rolling", "--timeout=60s", timeout=70)
        self.assertEqual(get("deployment", "rolling")["spec"]["template"]["spec"]["containers"][0]["image"], "karve.test/web:1")
        kubectl("rollout", "restart", "deployment/rolling")
        kubectl("rollout", "status", "deployment/rolling", "--timeout=60s", timeout=70)
        kubectl("wait", "deployment/rolling", "--for=condition=Available", "--timeout=10s")
        kubectl("delete", "deployment", "rolling")
        wait("its pods to go", lambda: not get("pods", "-l", "app=rolling")["items"])

    def test_discovery(self):
        resources = kubectl("api-resources")
        for line in (r"pods +po +v1 +true +Pod", r"deployments +deploy +apps/v1 +true +Deployment"):
            self.assertRegex(resources, line)
        self.assertIn("apps/v1\n", kubectl("api-versions"))
        text = kubectl("explain", "pod.spec.containers.image")
        self.assertRegex(text, "FIELD: +image <string>")
        self.assertIn("image", text.split("DESCRIPTION:")[1].lower())
        self.assertIn("strategy", kubectl("explain", "deployment", "--recursive"))
        self.assertIn("is running at", kubectl("cluster-info"))
        self.assertRegex(kubectl("version"), r"Server Version:.*v1\.36\.")

    def test_events(self):
        events = kubectl("get", "events", "--field-selector=involvedObject.name=shell")
        for reason in ("Scheduled", "Pulled", "Created", "Started"):
            self.assertIn(reason, events)
        apply({**pod("toobig", "true"), "spec": {"containers": [{"name": "c", **SHELL, "resources": {"requests": {"cpu": "1000"}}}]}})
        wait("the scheduler's verdict", lambda: "0/1 nodes are available: 1 Insufficient cpu." in kubectl("describe", "pod", "toobig"))
        kubectl("delete", "pod", "toobig")

    def test_bad_input_is_named(self):
        for args, text, message in (
            (("create", "-f", "-"), '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Bad_Name"},"spec":{"containers":[]}}', "Bad_Name"),
            (("create", "-f", "-"), '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[]}}', "spec.containers: Required value"),
            (("create", "-f", "-"), '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"dta":{}}', 'unknown field "dta"'),
            (("get", "pod", "nobody"), None, 'pods "nobody" not found'),
            (("get", "nothings"), None, "doesn't have a resource type"),
        ):
            with self.assertRaisesRegex(Failed, re.escape(message)):
                kubectl(*args, input=text)
