"""What scenarios share: a node of their own, kubectl, waits with deadlines.

Run as `python3 -m harness SCENARIO_FILE` inside scripts/netns.
"""
import json, os, re, signal, subprocess, sys, time, unittest, urllib.request

KARVE = os.environ["KARVE"]
IMAGES = os.environ["KARVE_IMAGES"]
STATE = os.environ["KARVE_STATE"]
NODE_IP = os.environ["NODE_IP"]
FOLDERS = ["/var/lib/karve", "/run/karve", "/etc/karve", "/var/log/pods", "/var/log/containers"]


class Failed(AssertionError):
    """A command or wait that did not end as it should."""


def wait(what, check, timeout=30, every=0.05):
    """Waits until check() returns something true, and returns it."""
    end = time.monotonic() + timeout
    last = None
    while True:
        try:
            value = check()
            if value:
                return value
            last = value
        except (Failed, OSError, KeyError, IndexError, ValueError, subprocess.SubprocessError) as error:
            last = error
        if time.monotonic() > end:
            raise Failed(f"after {timeout} s still waiting for {what}; last: {str(last)[:2000]}")
        time.sleep(every)


def sh(*command, input=None, check=True, timeout=60, env=None):
    """Runs a command; returns its standard output, raises with both if it fails."""
    done = subprocess.run(command, input=input, text=True, capture_output=True, timeout=timeout, env=env,
                          stdin=subprocess.DEVNULL if input is None else None)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*args, **kw):
    return sh(os.environ.get("KUBECTL", "kubectl"), *args, **kw)


def get(*args):
    return json.loads(kubectl("get", *args, "-o", "json"))


def apply(*objects):
    return kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def http(url, timeout=5):
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


class Node:
    """One karve server with the default folders, all beneath STATE."""

    def __init__(self, *flags):
        self.flags = flags
        self.process = None
        self.log = os.path.join(STATE, "karve.log")

    def start(self, ready=True):
        out = open(self.log, "ab")
        self.process = subprocess.Popen([KARVE, "server", *self.flags], stdout=out, stderr=out,
                                        stdin=subprocess.DEVNULL, start_new_session=True)
        if ready:
            self.ready()
        return self

    def ready(self):
        def up():
            if self.process.poll() is not None:
                raise SystemExit(f"karve ended with {self.process.returncode}:\n{self.tail()}")
            return kubectl("get", "--raw", "/readyz") == "ok"
        wait("/readyz", up, 30)

    def node_ready(self):
        wait("the node to be Ready", lambda: any(
            c["type"] == "Ready" and c["status"] == "True"
            for n in get("nodes")["items"] for c in n["status"]["conditions"]), 30)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout=30):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout)

    def tail(self, lines=60):
        return "".join(open(self.log, errors="replace").readlines()[-lines:])


def prepare():
    """Empty state folders on the machine's own disk, bound to the default paths."""
    for path in FOLDERS:
        own = os.path.join(STATE, path.strip("/").replace("/", "-"))
        os.makedirs(own, exist_ok=True)
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "--bind", own, path], check=True)
    home = os.path.join(STATE, "home")
    os.makedirs(home, exist_ok=True)
    os.environ.update(HOME=home, KUBECONFIG="/etc/karve/karve.yaml")


class Result(unittest.TextTestResult):
    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        super().addSuccess(test)
        print(f"PASS {test.id()} ({time.monotonic() - self.began:.1f} s)", flush=True)

    def _said(self, word, test, err):
        print(f"{word} {test.id()}\n{self._exc_info_to_string(err, test)}", flush=True)

    def addError(self, test, err):
        super().addError(test, err)
        self._said("FAIL", test, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._said("FAIL", test, err)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        print(f"SKIP {test.id()}: {reason}", flush=True)


def main():
    path = sys.argv[1]
    sys.path.insert(0, os.path.dirname(path))
    prepare()
    loader = unittest.TestLoader()
    if "-k" in sys.argv:
        loader.testNamePatterns = [f"*{sys.argv[sys.argv.index('-k') + 1]}*"]
    suite = loader.loadTestsFromName(os.path.basename(path)[:-3])
    result = unittest.TextTestRunner(stream=open(os.devnull, "w"), resultclass=Result).run(suite)
    failed = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    if failed:
        log = os.path.join(STATE, "karve.log")
        if os.path.exists(log):
            print("---- the end of karve's log")
            print("".join(open(log, errors="replace").readlines()[-40:]))
    print(f"{max(result.testsRun - failed - skipped, 0)} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    # Under its own name, so that scenarios import this very module.
    sys.modules["harness"] = sys.modules["__main__"]
    sys.exit(main())
