"""Kaggle and Mendeley, played by a proxy on this machine that answers for every host.

The real `kaggle` and `curl` commands run against it, over HTTP and HTTPS, with real
certificates of an invented authority. Each of the three sites can be made to fail.
"""

import http.server
import io
import json
import ssl
import threading
import zipfile
from time import sleep

import trustme
from PIL import Image

# A hundredth of the images of the real set. `FakeKaggleServer.environment` makes the
# child processes expect these, too.
COUNTS = {
    "train/NORMAL": 12,
    "train/PNEUMONIA": 30,
    "val/NORMAL": 2,
    "val/PNEUMONIA": 2,
    "test/NORMAL": 5,
    "test/PNEUMONIA": 9,
}
MENDELEY_COUNTS = {
    "train/NORMAL": 13,
    "train/PNEUMONIA": 31,
    "test/NORMAL": 5,
    "test/PNEUMONIA": 9,
}
EXPECT = f"""
import time
real = time.sleep
time.sleep = lambda seconds: real(min(seconds, 0.2))
try:
    from cxr.release import ChestXray
    ChestXray.counts, ChestXray.mendeley_counts = {COUNTS}, {MENDELEY_COUNTS}
except ImportError:
    pass  # another program
"""


def make_archive(counts, copies=True):
    """Return a zip like the real one: images, a nested copy, and files of macOS."""
    image = io.BytesIO()
    Image.effect_noise((400, 300), 90).save(image, "JPEG", quality=90)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for entry, count in counts.items():
            for number in range(count):
                name = f"person{number}_virus_{number}.jpeg"
                archive.writestr(f"chest_xray/{entry}/{name}", image.getvalue())
                if copies:
                    archive.writestr(
                        f"chest_xray/chest_xray/{entry}/{name}", b"the nested copy"
                    )
                    archive.writestr(f"chest_xray/__MACOSX/{entry}/._{name}", b"junk")
            archive.writestr(f"chest_xray/{entry}/.DS_Store", b"junk")
            archive.writestr(f"chest_xray/{entry}/._person0_virus_0.jpeg", b"junk")
    return content.getvalue()


class Site:
    """What one site sends.

    Attributes
    ----------
    body : bytes
        The archive, or what is sent instead.
    status : int
        HTTP status of an error that is sent instead, 0 for none.
    cut : int or None
        Number of bytes after which the connection is closed.
    length : int
        Added to the length that is announced.
    pace : float or None
        Bytes per second.
    kind : str
        Content type.
    resumes : bool
        Whether a Range header is respected.
    ranges : list
        The Range headers of all requests.
    """

    def __init__(self, body):
        self.whole = body
        self.ranges = []
        self.recover()

    def recover(self):
        self.body = self.whole
        self.status = 0
        self.cut = None
        self.length = 0
        self.pace = None
        self.kind = "application/zip"
        self.resumes = True


class Handler(http.server.BaseHTTPRequestHandler):
    """Requests to a proxy: absolute addresses, or CONNECT and then HTTPS."""

    def do_CONNECT(self):
        host = self.path.split(":")[0]
        self.send_response(200)
        self.end_headers()
        with self.server.lock:
            if host not in self.server.contexts:
                self.server.contexts[host] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self.server.authority.issue_cert(host).configure_cert(
                    self.server.contexts[host]
                )
        try:
            with self.server.contexts[host].wrap_socket(
                self.connection, server_side=True
            ) as secure:
                type(self)(secure, self.client_address, self.server)
        except (OSError, ValueError):
            pass  # the client hung up

    def refuse(self, status):
        message = f"refused {status} {self.headers.get('Authorization', '')}"
        body = json.dumps({"code": status, "message": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        """Serve the kaggle command: metadata, then a redirection to the archive."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.command.status:
            return self.refuse(self.server.command.status)
        body = b""
        if self.path.endswith("GetDatasetMetadata"):
            body = b'{"info":{"licenses":[{"name":"other"}]}}'
        self.send_response(200 if body else 302)
        if not body:
            self.send_header("Location", "http://storage.test/archive.zip")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def find_site(self):
        if "storage.test" in self.path:
            return self.server.command
        if "public-files" in self.path:
            return self.server.mendeley
        return self.server.web

    def do_HEAD(self):
        """Serve the check whether the site is reachable."""
        self.send_response(self.find_site().status or 200)
        self.end_headers()

    def do_GET(self):
        site = self.find_site()
        requested_range = self.headers.get("Range")
        site.ranges.append(requested_range)
        if site.status:
            return self.refuse(site.status)
        if not site.resumes:
            requested_range = None
        start = int((requested_range or "bytes=0-").split("=")[1].split("-")[0])
        total = len(site.body)
        if start and start >= total:
            return self.refuse(416)
        rest = site.body[start:]
        self.send_response(206 if requested_range else 200)
        self.send_header("Content-Length", str(len(rest) + site.length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Type", site.kind)
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if requested_range:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        rest = rest[: site.cut]
        if site.length < 0:
            rest = rest[: max(0, len(rest) + site.length)]
        try:
            for place in range(0, len(rest), 1 << 16):
                self.wfile.write(rest[place : place + (1 << 16)])
                sleep((1 << 16) / site.pace if site.pace else 0)
        except OSError:
            pass

    def log_message(self, *_):
        pass


class FakeKaggleServer(http.server.ThreadingHTTPServer):
    """The server, with its sites.

    `command` serves the kaggle command, `web` Kaggle's public address, `mendeley`
    Mendeley's.
    """

    daemon_threads = True

    def __init__(self, archive, original, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.authority = trustme.CA()
        self.contexts = {}
        self.lock = threading.Lock()
        self.certificate = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(self.certificate))
        self.command = Site(archive)
        self.web = Site(archive)
        self.mendeley = Site(original)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def environment(self, home):
        """Return variables that lead a process here and shorten its waits."""
        (home / "site").mkdir(parents=True)
        (home / "site/sitecustomize.py").write_text(EXPECT)
        proxy = f"http://127.0.0.1:{self.server_port}"
        return {
            "HTTP_PROXY": proxy,
            "http_proxy": proxy,
            "HTTPS_PROXY": proxy,
            "https_proxy": proxy,
            "NO_PROXY": "",
            "no_proxy": "",
            "SSL_CERT_FILE": str(self.certificate),
            "CURL_CA_BUNDLE": str(self.certificate),
            "HOME": str(home),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "PYTHONPATH": str(home / "site"),
        }
