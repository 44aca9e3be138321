"""A registry that serves image archives (docker save) by the names they carry.

It speaks what a client needs to pull over plain HTTP: manifests by tag or
digest, and blobs.  Archives are read when they are asked for.
"""
import glob, hashlib, json, os, tarfile, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Archives:
    """Manifests and where blobs are, of every archive of a folder."""

    def __init__(self, folder):
        self.manifests = {}
        self.blobs = {}
        for path in sorted(glob.glob(f"{folder}/*.tar")):
            with tarfile.open(path) as tar:
                for image in json.load(tar.extractfile("manifest.json")):
                    self._add(path, tar, image)

    def _add(self, path, tar, image):
        config = tar.extractfile(image["Config"]).read()
        layers = json.loads(config)["rootfs"]["diff_ids"]
        for digest, member in zip(layers, image["Layers"]):
            self.blobs[digest] = (path, member)
        digest = "sha256:" + hashlib.sha256(config).hexdigest()
        self.blobs[digest] = (path, image["Config"])
        size = lambda member: tar.getmember(member).size
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size(member)}
                       for layer, member in zip(layers, image["Layers"])],
        }).encode()
        self.manifests["sha256:" + hashlib.sha256(manifest).hexdigest()] = manifest
        for name in image["RepoTags"]:
            _, _, rest = name.partition("/")
            repository, _, tag = rest.rpartition(":")
            self.manifests[f"{repository}:{tag}"] = manifest

    def manifest(self, repository, reference):
        return self.manifests.get(reference) or self.manifests.get(f"{repository}:{reference}")


def serve(folder):
    """Serves a folder's archives on a free port of loopback; returns the address."""
    archives = Archives(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0].removeprefix("/v2/")
            if "/manifests/" in path:
                manifest = archives.manifest(*path.rsplit("/manifests/", 1))
                if manifest:
                    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
                    return self.answer(200, MANIFEST, manifest, digest)
            elif "/blobs/" in path:
                digest = path.rsplit("/", 1)[1]
                if digest in archives.blobs:
                    archive, member = archives.blobs[digest]
                    with tarfile.open(archive) as tar:
                        return self.answer(200, "application/octet-stream", tar.extractfile(member).read(), digest)
            elif path in ("", "/v2"):
                return self.answer(200, "application/json", b"{}")
            self.answer(404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

        def answer(self, code, kind, body, digest=None):
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def mirror(folder, host="registry.k8s.io", path="/etc/karve/registries.yaml"):
    """Serves a folder and has karve pull what it would pull from `host` there."""
    address = serve(folder)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        json.dump({"mirrors": {host: {"endpoint": [address]}}}, out)
