"""Kaggle and Mendeley, played by a server on this machine: a proxy that answers for every host, over HTTP and HTTPS.

The real `kaggle` and `curl` commands run against it, with real certificates of a made-up
authority. Each of the three sites can be told to fail in its own way.
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

# A hundredth of the images of the real set, which `FakeKaggleServer.environment` has the children expect, too.
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
    """The bytes of a zip with the structure of the real one: the tree, a nested copy of it, and junk of a Mac."""
    picture, content = io.BytesIO(), io.BytesIO()
    Image.effect_noise((400, 300), 90).save(picture, "JPEG", quality=90)
    with zipfile.ZipFile(content, "w") as archive:
        for entry, count in counts.items():
            for number in range(count):
                name = f"person{number}_virus_{number}.jpeg"
                archive.writestr(f"chest_xray/{entry}/{name}", picture.getvalue())
                if copies:
                    archive.writestr(
                        f"chest_xray/chest_xray/{entry}/{name}", b"the nested copy"
                    )
                    archive.writestr(f"chest_xray/__MACOSX/{entry}/._{name}", b"junk")
            archive.writestr(f"chest_xray/{entry}/.DS_Store", b"junk")
            archive.writestr(f"chest_xray/{entry}/._person0_virus_0.jpeg", b"junk")
    return content.getvalue()


class Site:
    """What one site sends. `status`: an error instead; `cut`: hang up after so many bytes; `length`: added to the length that it
    promises; `pace`: bytes a second; `kind`: its Content-Type; `resumes`: whether it answers to a Range with that range;
    `ranges`: the Range headers that it was asked with."""

    def __init__(self, body):
        self.body, self.whole = body, body
        self.recover()
        self.ranges = []

    def recover(self):
        self.body, self.status, self.cut, self.length, self.pace = (
            self.whole,
            0,
            None,
            0,
            None,
        )
        self.kind, self.resumes = "application/zip", True


class Handler(http.server.BaseHTTPRequestHandler):
    """A proxy's side: absolute addresses over HTTP, or CONNECT and then anything over HTTPS."""

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
        body = json.dumps(
            {
                "code": status,
                "message": f"refused {status} {self.headers.get('Authorization', '')}",
            }
        ).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", len(body)),
            ("Retry-After", 0),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        """The calls of the kaggle command: metadata, then a redirection to the archive."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.command.status:
            return self.refuse(self.server.command.status)
        body = (
            b'{"info":{"licenses":[{"name":"other"}]}}'
            if self.path.endswith("GetDatasetMetadata")
            else b""
        )
        self.send_response(200 if body else 302)
        if not body:
            self.send_header("Location", "http://storage.test/archive.zip")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def find_site(self):
        command, mendeley = "storage.test" in self.path, "public-files" in self.path
        return (
            self.server.command
            if command
            else self.server.mendeley
            if mendeley
            else self.server.web
        )

    def do_HEAD(self):
        """The question whether anybody is there."""
        self.send_response(self.find_site().status or 200)
        self.end_headers()

    def do_GET(self):
        site, asked = self.find_site(), self.headers.get("Range")
        site.ranges.append(asked)
        if site.status:
            return self.refuse(site.status)
        asked = asked if site.resumes else None
        start = int((asked or "bytes=0-").split("=")[1].split("-")[0])
        if start and start >= len(site.body):
            return self.refuse(416)
        rest = site.body[start:]
        self.send_response(206 if asked else 200)
        for name, value in (
            ("Content-Length", len(rest) + site.length),
            ("Accept-Ranges", "bytes"),
            ("ETag", '"one"'),
            ("Content-Type", site.kind),
            ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ):
            self.send_header(name, str(value))
        if asked:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}"
            )
        self.end_headers()
        rest = rest[: site.cut]
        rest = rest[: max(0, len(rest) + site.length)] if site.length < 0 else rest
        try:
            for place in range(0, len(rest), 1 << 16):
                self.wfile.write(rest[place : place + (1 << 16)])
                sleep((1 << 16) / site.pace if site.pace else 0)
        except OSError:
            pass

    def log_message(self, *_):
        pass


class FakeKaggleServer(http.server.ThreadingHTTPServer):
    """`command`: what the kaggle command gets; `web`: Kaggle's public address; `mendeley`: Mendeley's."""

    daemon_threads = True

    def __init__(self, archive, original, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.authority, self.contexts, self.lock = trustme.CA(), {}, threading.Lock()
        self.certificate = folder / "authority.pem"
        self.authority.cert_pem.write_to_path(str(self.certificate))
        self.command, self.web, self.mendeley = (
            Site(archive),
            Site(archive),
            Site(original),
        )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def environment(self, home):
        """Variables that lead a process to this internet, with an empty home; what waits, waits a moment only."""
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
