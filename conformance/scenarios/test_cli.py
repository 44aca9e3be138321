"""The karve command: what it says when something is wrong."""
import os, signal, socket, sqlite3, subprocess, unittest

from harness import KARVE, STATE, Node, kubectl, wait


def karve(*args, timeout=20, **kw):
    return subprocess.run([KARVE, *args], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **kw)


class Cli(unittest.TestCase):
    def check(self, args, status, *parts):
        out = karve(*args)
        self.assertEqual(out.returncode, status, out.stdout + out.stderr)
        for part in parts:
            self.assertIn(part, out.stderr)

    def test_wrong_flags(self):
        self.check(["server", "--no-such-flag"], 2, "--no-such-flag")
        self.check(["server", "--service-cidr", "10.43.0.0/99"], 2, "--service-cidr")
        self.check(["server", "--node-taint", "a=b:Never"], 2, "NoSchedule")
        self.check(["frobnicate"], 2, "frobnicate")

    def test_wrong_config_file(self):
        path = os.path.join(STATE, "bad.yaml")
        open(path, "w").write("cluster-cdir: 10.1.0.0/16\n")
        self.check(["server", "--config", path], 2, path, "cluster-cdir", 'did you mean "cluster-cidr"')
        self.check(["server", "--config", path + ".missing"], 2, path + ".missing")

    def test_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            self.check(["server", "--bind-address", "127.0.0.1", "--https-listen-port", port], 1, f"127.0.0.1:{port}", "in use", "--https-listen-port")

    def test_no_root(self):
        out = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", KARVE, "check"], capture_output=True, text=True)
        self.assertEqual(out.returncode, 1)
        self.assertIn("run karve as root", out.stdout)

    def test_unusable_database(self):
        folder = os.path.join(STATE, "baddb")
        os.makedirs(os.path.join(folder, "server", "db"))
        path = os.path.join(folder, "server", "db", "state.db")
        open(path, "w").write("this is no database, only text that is long enough to be read as a header of one ....\n" * 40)
        self.check(["server", "--disable-agent", "--data-dir", folder, "--https-listen-port", "7443",
                    "--write-kubeconfig", os.path.join(folder, "kubeconfig")], 1, path)

    def test_kubeconfig_and_access(self):
        node = Node("--disable-agent").start()
        try:
            self.assertEqual(os.stat("/etc/karve/karve.yaml").st_mode & 0o777, 0o600)
            self.assertEqual(kubectl("auth", "can-i", "*", "*"), "yes\n")
            server = kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
            curl = lambda path: subprocess.run(["curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", server + path],
                                               capture_output=True, text=True).stdout
            self.assertEqual([curl(p) for p in ("/api", "/api/v1/namespaces", "/healthz", "/livez", "/readyz", "/version")],
                             ["401", "401", "200", "200", "200", "200"])
            kubectl("create", "serviceaccount", "nobody")
            token = kubectl("create", "token", "nobody").strip()
            out = subprocess.run(["kubectl", "--token", token, "--server", server, "--insecure-skip-tls-verify", "--kubeconfig", "/dev/null",
                                  "get", "pods"], capture_output=True, text=True)
            self.assertIn('User "system:serviceaccount:default:nobody" cannot list resource "pods"', out.stderr)
        finally:
            node.stop()
        self.assertEqual(node.process.returncode, 0)
