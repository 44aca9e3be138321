"""`scripts/bench api`: the API server under load, beside kube-apiserver + etcd.

    scripts/bench api [--karve BINARY] [--apiserver KUBE_APISERVER --etcd ETCD] [--docs]

Starts the control plane alone (no node, no controllers, no scheduler), loads it
with conformance/load and reads what its processes took.  With upstream's
binaries given, the same is done to them in the same run, scenario by scenario
in turns; whoever is not being measured is stopped (SIGSTOP) meanwhile.  Both
speak TLS, both fsync before they answer, both know the client by a bearer
token.  The load shares the cores with the server; CPU seconds per request are
the server's own, so they say more than rates where others use the machine.
`--docs` writes the table and a plot to docs/benchmarks/.
"""
import argparse, datetime, json, os, shutil, signal, socket, ssl, statistics, subprocess, sys, tempfile, time, urllib.error, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
TOKEN = "bench-" + os.urandom(8).hex()
MIB = 1 << 20


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def write_bytes(pid):
    for line in open(f"/proc/{pid}/io"):
        if line.startswith("write_bytes:"):
            return int(line.split()[1])


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid):
    for line in open(f"/proc/{pid}/smaps_rollup"):
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024


class Server:
    """One side of the comparison: its processes, and how to start them again."""

    def __init__(self, a):
        self.a = a
        self.folder = tempfile.mkdtemp(prefix=f"karve-bench-{self.name}-", dir="/var/tmp")
        self.port = free_port()
        self.processes = []
        self.context = ssl._create_unverified_context()

    def spawn(self, command):
        log = open(os.path.join(self.folder, "log"), "ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **self.environment()})
        self.processes.append(process)
        return process

    def environment(self):
        return {}

    def start(self):
        """Starts it; seconds until /readyz answers 200."""
        began = time.monotonic()
        self.launch()
        while time.monotonic() - began < 120:
            if any(p.poll() is not None for p in self.processes):
                break
            try:
                if self.open("GET", "/readyz").status == 200:
                    return time.monotonic() - began
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.002)
        sys.exit(f"error: {self.name} did not become ready; see {self.folder}/log")

    def open(self, method, path, body=None):
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", json.dumps(body).encode() if body else None,
                                         {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}, method=method)
        return urllib.request.urlopen(request, context=self.context, timeout=30)

    def signal(self, number):
        for process in self.processes:
            process.send_signal(number)

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []

    def sum(self, what):
        return sum(what(p.pid) for p in self.processes)

    def load(self, scenario, **words):
        """Runs a scenario; its figures, and what the server took for each request."""
        before = self.sum(cpu_seconds), self.sum(write_bytes)
        command = [self.a.load, f"address=127.0.0.1:{self.port}", f"token={TOKEN}", scenario, *(f"{k}={v}" for k, v in words.items())]
        out = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        done = max(out.get("done", 0), 1)
        out["cpu_us"] = (self.sum(cpu_seconds) - before[0]) / done * 1e6
        out["written"] = (self.sum(write_bytes) - before[1]) / done
        if any(out.get("refused", {}).values()) and not self.a.overload:
            sys.exit(f"error: {self.name} refused some of {scenario} {words}: {out['refused']}")
        return out


class Karve(Server):
    name = "karve"

    def launch(self):
        if self.a.serve:
            return self.spawn([self.a.serve, str(self.port), TOKEN, f"{self.folder}/data"])
        self.spawn([self.a.karve, "server", f"--data-dir={self.folder}/data", f"--https-listen-port={self.port}",
                    "--bind-address=127.0.0.1", f"--write-kubeconfig={self.folder}/kubeconfig", f"--admin-token={TOKEN}",
                    "--disable-agent", "--disable-scheduler", "--disable-controller-manager", "--node-ip=127.0.0.1"])


class Upstream(Server):
    name = "upstream"

    def launch(self):
        if not hasattr(self, "etcd_port"):
            self.etcd_port, self.peer_port = free_port(), free_port()
            self.key = f"{self.folder}/sa.key"
            subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key], check=True)
            open(f"{self.folder}/tokens", "w").write(f"{TOKEN},admin,1,system:masters\n")
        etcd = f"http://127.0.0.1:{self.etcd_port}"
        self.spawn([self.a.etcd, "--data-dir", f"{self.folder}/etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
                    "--listen-peer-urls", f"http://127.0.0.1:{self.peer_port}", "--log-level=error", "--quota-backend-bytes=8589934592"])
        self.spawn([self.a.apiserver, f"--etcd-servers={etcd}", f"--cert-dir={self.folder}/certs", f"--secure-port={self.port}",
                    "--bind-address=127.0.0.1", "--service-cluster-ip-range=10.43.0.0/16", f"--service-account-key-file={self.key}",
                    f"--service-account-signing-key-file={self.key}", "--service-account-issuer=https://bench",
                    "--authorization-mode=RBAC", f"--token-auth-file={self.folder}/tokens"])


def fsync_ms(folder):
    """What making one page durable takes here, median."""
    took = []
    with open(os.path.join(folder, "fsync"), "wb") as f:
        f.write(bytes(4096 * 400))
        os.fsync(f.fileno())
        f.seek(0)
        for _ in range(300):
            f.write(b"x" * 4096)
            f.flush()
            began = time.perf_counter()
            os.fdatasync(f.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def prepare(server):
    for namespace in ("bench", "full", "fanout"):
        server.open("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            server.open("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise


def fan_out(server, a):
    """Memory a watch, and deliveries a second."""
    before = server.sum(rss)
    command = [a.load, f"address=127.0.0.1:{server.port}", f"token={TOKEN}", "watch", "namespace=fanout", f"prefix=w{os.getpid()}",
               f"watchers={a.watchers}", f"events={a.events}", "clients=4"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    run.stdout.readline()
    time.sleep(a.settle)
    idle = server.sum(rss)
    cpu = server.sum(cpu_seconds)
    run.stdin.write("go\n")
    run.stdin.flush()
    out = json.loads(run.stdout.readline())
    run.wait()
    if not out["complete"]:
        sys.exit(f"error: {server.name} did not tell every watcher: {out}")
    out["cpu_us"] = (server.sum(cpu_seconds) - cpu) / out["deliveries"] * 1e6
    out["watch_bytes"] = (idle - before) / a.watchers
    return out


def scenarios(a):
    """Names and what they do to a server, in order: later ones need what earlier ones left."""
    pods = "/api/v1/namespaces/full/pods"

    def filled(server):
        server.load("create", kind="pod", namespace="full", prefix="p", clients=64, count=a.pods)
        server.load("create", kind="configmap", namespace="full", prefix="c", clients=64, count=a.config_maps)
        server.load("get", path="/api/v1/namespaces/full/configmaps?limit=500", clients=1, count=1)
        server.load("get", path=pods, clients=1, count=1)
        time.sleep(a.settle)
        return {"rss": server.sum(rss)}

    def restart(server):
        took = []
        for _ in range(3):
            server.stop()
            took.append(server.start())
        return {"ready_ms": statistics.median(took) * 1000}

    def idle(server):
        return server.load("renew", namespace="bench", clients=1, rate=20, seconds=a.seconds)

    t = a.seconds
    return [
        ("create_cm_1", lambda s: s.load("create", kind="configmap", namespace="bench", prefix="one", clients=1, seconds=t)),
        ("create_cm_64", lambda s: s.load("create", kind="configmap", namespace="bench", prefix="many", clients=64, seconds=t)),
        ("create_pod_64", lambda s: s.load("create", kind="pod", namespace="bench", prefix="many", clients=64, seconds=t)),
        ("get_64", lambda s: s.load("get", path="/api/v1/namespaces/bench/pods/many-{}-0", names=64, clients=64, seconds=t)),
        ("lease", idle),
        ("loaded", filled),
        ("list", lambda s: s.load("get", path=pods, clients=1, count=7)),
        ("list_500", lambda s: s.load("get", path=pods + "?limit=500", clients=8, seconds=t)),
        ("fan_out", lambda s: fan_out(s, a)),
        ("restart", restart),
    ]


ROWS = [
    # label, scenario, field, unit, whether more is better, aim as a ratio
    ("create ConfigMap, 1 client", "create_cm_1", "rate", "/s", True, 1.5),
    ("create ConfigMap, 64 clients", "create_cm_64", "rate", "/s", True, 8),
    ("create Pod, 64 clients", "create_pod_64", "rate", "/s", True, 8),
    ("GET, 64 clients", "get_64", "rate", "/s", True, 8),
    ("LIST 10,000 pods", "list", "p50_ms", "ms", False, 10),
    ("LIST 10,000 pods, first byte", "list", "first_p50_ms", "ms", False, None),
    ("LIST limit=500, 8 clients", "list_500", "rate", "/s", True, 10),
    ("watch fan-out, 500 watchers", "fan_out", "rate", "/s", True, 10),
    ("memory an idle watch, its connection included", "fan_out", "watch_bytes", "KiB", False, None),
    ("RSS with 10,000 pods, 20,000 ConfigMaps", "loaded", "rss", "MiB", False, 10),
    ("restart to ready with 10,000 pods", "restart", "ready_ms", "ms", False, None),
    ("CPU a ConfigMap created, 64 clients", "create_cm_64", "cpu_us", "µs", False, None),
    ("CPU a Pod created, 64 clients", "create_pod_64", "cpu_us", "µs", False, None),
    ("CPU a GET", "get_64", "cpu_us", "µs", False, None),
    ("CPU a LIST limit=500", "list_500", "cpu_us", "µs", False, None),
    ("CPU a watch delivery", "fan_out", "cpu_us", "µs", False, None),
    ("written to the device a create, 1 client", "create_cm_1", "written", "KiB", False, None),
    ("written to the device a create, 64 clients", "create_cm_64", "written", "KiB", False, None),
    ("written to the device a lease renewed", "lease", "written", "KiB", False, None),
]


def shown(value, unit):
    if value is None:
        return ""
    value = value / {"KiB": 1024, "MiB": MIB}.get(unit, 1)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".replace(" /s", "/s")


def ratio(mine, theirs, more):
    if not mine or not theirs:
        return None
    return mine / theirs if more else theirs / mine


def table(figures):
    """Rows of text: label, Karve, upstream, ratio, aim."""
    mine, theirs = figures["karve"], figures.get("upstream", {})
    rows = []
    for label, scenario, field, unit, more, aim in ROWS:
        a, b = mine.get(scenario, {}).get(field), theirs.get(scenario, {}).get(field)
        times = ratio(a, b, more)
        rows.append((label, shown(a, unit), shown(b, unit), f"{times:.1f}x" if times else "", f"{aim}x" if aim else ""))
    return [row for row in rows if row[1] or row[2]]


def plot(figures, title):
    """Ratios as bars on a logarithmic scale, as SVG."""
    import math
    bars = []
    for label, scenario, field, _, more, aim in ROWS:
        times = ratio(figures["karve"].get(scenario, {}).get(field), figures["upstream"].get(scenario, {}).get(field), more)
        if times:
            bars.append((label, times, aim))
    width, left, step = 900, 330, 24
    longest = max(max(times, aim or 1) for _, times, aim in bars)
    scale = (width - left - 70) / max(math.log10(longest), 0.1)
    x = lambda value: left + max(math.log10(value), 0) * scale
    height = 70 + step * len(bars)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="#fff"/>', f'<text x="10" y="22" font-size="14" font-weight="bold">{title}</text>',
           '<text x="10" y="40" fill="#555">times better than kube-apiserver + etcd in the same run, logarithmic; the mark is the aim</text>']
    for power in range(int(math.log10(longest)) + 1):
        for part in (1, 2, 5):
            value = part * 10 ** power
            if value <= longest:
                out.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="50" y2="{height - 14}" stroke="#ddd"/>'
                           f'<text x="{x(value):.1f}" y="{height - 3}" text-anchor="middle" fill="#777" font-size="10">{value}x</text>')
    for n, (label, times, aim) in enumerate(bars):
        y = 54 + n * step
        out.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{label}</text>'
                   f'<rect x="{left}" y="{y + 2}" width="{max(x(times) - left, 1):.1f}" height="{step - 9}" fill="#2b6cb0"/>'
                   f'<text x="{x(times) + 5:.1f}" y="{y + 13}">{times:.1f}x</text>')
        if aim:
            out.append(f'<line x1="{x(aim):.1f}" x2="{x(aim):.1f}" y1="{y - 1}" y2="{y + step - 4}" stroke="#c05621" stroke-width="2"/>')
    return "\n".join(out + ["</svg>"]) + "\n"


def write_docs(figures, heading, rows):
    folder = os.path.join(ROOT, "docs", "benchmarks")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "api.md"), "w") as f:
        f.write("# The API under load\n\n" + heading + ".\nMeasured by `scripts/bench api`.\n\n")
        if "upstream" in figures:
            f.write("![ratios](api.svg)\n\n")
        f.write("| | Karve | kube-apiserver + etcd | ratio | aim |\n|---|---|---|---|---|\n")
        f.writelines("| " + " | ".join(row) + " |\n" for row in rows)
        f.write("\n" + notes(figures) + "\n")
    if "upstream" in figures:
        with open(os.path.join(folder, "api.svg"), "w") as f:
            f.write(plot(figures, heading))


def notes(figures):
    mine = figures["karve"]
    lines = []
    if "create_cm_1" in mine and "fsync_ms" in figures:
        extra = mine["create_cm_1"]["p50_ms"] - figures["fsync_ms"]
        lines.append(f"One client's create takes {mine['create_cm_1']['p50_ms']:.2f} ms (median), one page's fsync here "
                     f"{figures['fsync_ms']:.2f} ms: {extra:.2f} ms more.")
    if "lease" in mine:
        day = mine["lease"]["written"] * 8640
        lines.append(f"A day of one idle node is 8,640 lease renewals: {day / MIB:.0f} MiB written to the device.")
    return "\n".join(lines)


def main(argv):
    ap = argparse.ArgumentParser(prog="scripts/bench api", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--karve", help="the release binary; built when left out")
    ap.add_argument("--serve", help=argparse.SUPPRESS)
    ap.add_argument("--load", help="the load generator; built when left out")
    ap.add_argument("--apiserver", help="upstream's kube-apiserver")
    ap.add_argument("--etcd", help="etcd")
    ap.add_argument("--seconds", type=float, default=5, help="of load in each scenario")
    ap.add_argument("--settle", type=float, default=3, help="seconds before memory is read")
    ap.add_argument("--pods", type=int, default=10000)
    ap.add_argument("--config-maps", type=int, default=20000)
    ap.add_argument("--watchers", type=int, default=500)
    ap.add_argument("--events", type=int, default=400)
    ap.add_argument("--only", help="scenarios, separated by commas")
    ap.add_argument("--json", help="write all figures there")
    ap.add_argument("--docs", action="store_true", help="write the table and a plot to docs/benchmarks")
    a = ap.parse_args(argv)
    a.overload = False
    if not a.karve and not a.serve:
        a.karve = subprocess.run(["bash", "-c", f". {HERE}/lib.sh; need_build; build_release"], check=True, stdout=subprocess.PIPE,
                                 text=True).stdout.split()[-1]
    if not a.load:
        subprocess.run(["cargo", "build", "--release", "-p", "load"], check=True, cwd=ROOT)
        a.load = os.path.join(ROOT, "target/release/load")
    for name in ("karve", "serve", "load", "apiserver", "etcd"):
        if getattr(a, name):
            setattr(a, name, os.path.abspath(getattr(a, name)))
    servers = [Karve(a)] + ([Upstream(a)] if a.apiserver and a.etcd else [])
    figures = {server.name: {} for server in servers}
    figures["fsync_ms"] = fsync_ms(servers[0].folder)
    wanted = a.only.split(",") if a.only else None
    try:
        for server in servers:
            figures[server.name]["start"] = {"ready_ms": server.start() * 1000}
            prepare(server)
        for server in servers:
            server.signal(signal.SIGSTOP)
        for name, scenario in scenarios(a):
            if wanted and name not in wanted:
                continue
            for server in servers:
                server.signal(signal.SIGCONT)
                time.sleep(0.2)
                figures[server.name][name] = scenario(server)
                server.signal(signal.SIGSTOP)
                print(f"# {name} {server.name} {json.dumps(figures[server.name][name])}", file=sys.stderr)
    finally:
        for server in servers:
            server.stop()
            shutil.rmtree(server.folder, ignore_errors=True)
    date = datetime.datetime.now(datetime.timezone.utc).date()
    heading = f"{date}, {os.cpu_count()} cores shared with the load, Linux {os.uname().release.split('-')[0]}"
    rows = table(figures)
    widths = [max(len(row[n]) for row in rows) for n in range(5)]
    print(heading)
    for row in rows:
        print("  " + "  ".join(text.ljust(width) if n == 0 else text.rjust(width) for n, (text, width) in enumerate(zip(row, widths))).rstrip())
    print(notes(figures))
    if a.json:
        json.dump(figures, open(a.json, "w"), indent=1)
    if a.docs:
        write_docs(figures, heading, rows)
