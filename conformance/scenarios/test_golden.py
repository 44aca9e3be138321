"""Recorded answers of kube-apiserver v1.36, replayed: how many are exact only rises.

The recordings lie beside the repository (../shared/reference) or where
KARVE_REFERENCE says; without them this is skipped. `floors.json` holds, for
each group, how many cases must be exact; raise it when more are.
"""
import json, os, re, subprocess, sys, unittest

from harness import Node, kubectl

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.environ.get("KARVE_REFERENCE", os.path.join(HERE, "..", "..", "..", "shared", "reference"))
REPLAY = os.path.join(REFERENCE, "..", "tools", "replay.py")
FLOORS = json.load(open(os.path.join(HERE, "..", "golden", "floors.json")))


@unittest.skipUnless(os.path.isdir(os.path.join(REFERENCE, "golden")), f"no recordings at {REFERENCE}")
class Golden(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node("--disable-agent", "--disable-scheduler", "--disable-controller-manager", "--admin-token=golden").start()

    @classmethod
    def tearDownClass(cls):
        cls.node.stop()


def one(group, floor):
    def test(self):
        out = subprocess.run([sys.executable, REPLAY, "--server", "https://127.0.0.1:6443", "--token", "golden", "-v",
                              os.path.join(REFERENCE, "golden", f"{group}.jsonl")], capture_output=True, text=True, timeout=600)
        m = re.search(rf"^{group}.jsonl: (\d+)/(\d+)$", out.stdout, re.M)
        self.assertTrue(m, out.stdout[-2000:] + out.stderr)
        print(f"{group}: {m.group(1)} of {m.group(2)} exact, floor {floor}")
        if int(m.group(1)) < floor:
            self.fail(f"{m.group(1)} exact, the floor is {floor}\n" + out.stdout[-6000:])
    return test


for _group, _floor in FLOORS.items():
    setattr(Golden, f"test_{_group}", one(_group, _floor))
