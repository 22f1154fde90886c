"""Getting the data: archives that are whole get in place, others never; a machine with no way out is recognised."""

import http.server
import io
import os
import socket
import subprocess
import threading
import zipfile

import pytest
from conftest import ROOT
from PIL import Image

COUNTS = {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in ("NORMAL", "PNEUMONIA")}


def make_archive(skip=0):
    """The bytes of a zip with the structure of the real one: the tree, a nested copy of it, and junk of a Mac."""
    picture = io.BytesIO()
    Image.effect_noise((60, 40), 40).save(picture, "JPEG")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for entry in COUNTS:
            for number in range(2):
                archive.writestr(f"chest_xray/{entry}/person{number}_virus_{number}.jpeg", picture.getvalue())
                archive.writestr(f"chest_xray/chest_xray/{entry}/person{number}_virus_{number}.jpeg", b"the nested copy")
                archive.writestr(f"chest_xray/__MACOSX/{entry}/._person{number}_virus_{number}.jpeg", b"junk")
            archive.writestr(f"chest_xray/{entry}/.DS_Store", b"junk")
            archive.writestr(f"chest_xray/{entry}/._person0_virus_0.jpeg", b"junk")
        archive.writestr("chest_xray/train/NORMAL/../../../../escaped.jpeg", b"junk")
    return content.getvalue()


@pytest.fixture
def server():
    """A web server on this machine; `server.body` is what it sends, `server.cut` after how many bytes it hangs up."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            owner = self.server
            owner.ranges.append(self.headers.get("Range"))
            start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
            if owner.status or start > len(owner.body):
                self.send_error(owner.status or 416)
                return
            rest = owner.body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: owner.cut])

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.body, httpd.cut, httpd.status, httpd.ranges = make_archive(), None, 0, []
    httpd.address = f"http://127.0.0.1:{httpd.server_port}/archive"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(notebook, server, tmp_path):
    server.cut = 1000
    with pytest.raises(notebook.DownloadError, match=r"1,000 of|connection failed"):
        notebook.download_archive(server.address, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    server.cut = None
    notebook.download_archive(server.address, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == server.body
    assert server.ranges[-1] == "bytes=1000-"


@pytest.mark.parametrize(("status", "body", "message"), [(404, None, "404"), (500, None, "500"), (0, b"<html>", "no zip archive")])
def test_what_is_no_archive_is_refused(notebook, server, tmp_path, status, body, message):
    server.status, server.body = status, body or server.body
    with pytest.raises(notebook.DownloadError, match=message):
        notebook.download_archive(server.address, tmp_path / "a.zip")
    assert not list(tmp_path.glob("a.zip"))


@pytest.fixture
def kaggle_server(server, monkeypatch, tmp_path):
    """The server in the part of Kaggle, as the real `kaggle` command sees it, with no credentials anywhere."""
    handler = server.RequestHandlerClass

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        metadata = self.path.endswith("GetDatasetMetadata")
        body = b'{"info":{"licenses":[{"name":"other"}]}}' if metadata else b'{"code":404,"message":"not found"}'
        found = metadata or not server.status
        self.send_response(200 if metadata else 302 if found else server.status)
        if found and not metadata:
            self.send_header("Location", "http://storage.test/archive.zip")
            body = b""
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    handler.do_POST = answer
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path / "home"), "KAGGLE_API_ENVIRONMENT": "LOCALHOST"}.items():
        monkeypatch.setenv(name, value)
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, server.address.removesuffix("/archive"))
    (tmp_path / "home").mkdir()
    return server


def test_the_real_kaggle_command_downloads_without_an_account(notebook, kaggle_server, tmp_path):
    notebook.download_with_kaggle(tmp_path / "a.zip", notebook.ChestXray.slug)
    assert (tmp_path / "a.zip").read_bytes() == kaggle_server.body
    kaggle_server.body = b"<html>not today</html>"
    with pytest.raises(notebook.DownloadError, match="no zip archive"):
        notebook.download_with_kaggle(tmp_path / "b.zip", notebook.ChestXray.slug)
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "home"}


def test_the_real_kaggle_command_failing_is_told_in_one_line(notebook, kaggle_server, tmp_path):
    kaggle_server.status = 404
    with pytest.raises(notebook.DownloadError, match="kaggle: not found"):
        notebook.download_with_kaggle(tmp_path / "a.zip", notebook.ChestXray.slug)
    assert not list(tmp_path.glob("*.zip"))


def test_the_next_source_is_tried_and_nothing_but_the_data_is_left(notebook, kaggle_server, tmp_path, monkeypatch, capsys):
    """The kaggle command finds nothing; Kaggle's public address gives the archive."""
    kaggle_server.status = 404
    monkeypatch.setattr(notebook.ChestXray, "kaggle_address", kaggle_server.address)
    monkeypatch.setattr(notebook.ChestXray, "counts", COUNTS)
    real = notebook.download_archive

    def recovered(address, archive):
        kaggle_server.status = 0
        real(address, archive)

    monkeypatch.setitem(notebook.download_data.__globals__, "download_archive", recovered)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/kaggle-archive.zip.part").write_bytes(kaggle_server.body[:500])
    notebook.download_data(tmp_path / "data/chest_xray", seconds=2)
    assert "the kaggle command: kaggle: not found" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["chest_xray"]
    assert notebook.count_images(tmp_path / "data/chest_xray") == COUNTS


def test_only_the_wanted_tree_is_extracted(notebook, tmp_path):
    (tmp_path / "a.zip").write_bytes(make_archive())
    notebook.extract_archive(tmp_path / "a.zip", tmp_path / "data", [COUNTS])
    assert notebook.count_images(tmp_path / "data") == COUNTS
    pictures = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(pictures) == 12 and all(Image.open(path).size == (60, 40) for path in pictures)
    assert not list(tmp_path.rglob("escaped*"))


def test_a_corrupt_archive_is_removed_and_leaves_nothing_behind(notebook, tmp_path):
    body = bytearray(make_archive())
    body[200] ^= 0xFF  # inside the first picture: its checksum fails
    (tmp_path / "a.zip").write_bytes(body)
    with pytest.raises(notebook.DownloadError, match="not whole"):
        notebook.extract_archive(tmp_path / "a.zip", tmp_path / "data", [COUNTS])
    assert not list(tmp_path.iterdir())


def test_an_archive_with_too_few_images_is_refused(notebook, tmp_path):
    (tmp_path / "a.zip").write_bytes(make_archive())
    with pytest.raises(notebook.DownloadError, match="12 images"):
        notebook.extract_archive(tmp_path / "a.zip", tmp_path / "data", [notebook.ChestXray.counts])
    assert not (tmp_path / "data").exists()


def test_an_incomplete_folder_is_kept_aside_when_the_whole_one_comes(notebook, tmp_path):
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/mine.txt").write_text("keep me")
    (tmp_path / "a.zip").write_bytes(make_archive())
    notebook.extract_archive(tmp_path / "a.zip", tmp_path / "data", [COUNTS])
    assert notebook.count_images(tmp_path / "data") == COUNTS
    assert [path.read_text() for path in tmp_path.glob("data.incomplete-*/train/mine.txt")] == ["keep me"]


def test_a_wrong_checksum_is_refused(notebook, tmp_path):
    (tmp_path / "a.zip").write_bytes(b"abc")
    notebook.verify_sha256(tmp_path / "a.zip", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(notebook.DownloadError, match="SHA-256"):
        notebook.verify_sha256(tmp_path / "a.zip", "0" * 64)
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.timeout(20)
def test_a_machine_with_no_way_out_is_recognised(notebook, server):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers: as if packets were dropped
        dropped = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        refused = "http://127.0.0.1:9/"
        assert notebook.reachable([dropped, server.address, refused], seconds=2) == [server.address]
    server.status = 403
    assert notebook.reachable([server.address], seconds=2) == [server.address], "a refusal is an answer"


def test_without_a_network_phantoms_are_drawn_once_and_found_again(notebook, tmp_path, capsys, monkeypatch):
    globals_of = notebook.find_data.__globals__
    draw = notebook.write_phantoms
    monkeypatch.setitem(globals_of, "write_phantoms", lambda folder: draw(folder, 4, 2, 2))
    folder = notebook.find_data(tmp_path, "")
    assert "No download" in capsys.readouterr().out and notebook.count_images(folder)["train/PNEUMONIA"] == 3
    monkeypatch.setitem(globals_of, "write_phantoms", None)
    assert notebook.find_data(tmp_path, "") == folder


def test_data_that_are_there_are_used_and_a_named_folder_wins(notebook, tiny, capsys):
    home = tiny.parent
    (home / "data").mkdir()
    tiny.rename(home / "data/chest_xray")
    assert notebook.find_data(home, "") == home / "data/chest_xray"
    assert "nothing to download" in capsys.readouterr().out
    assert notebook.find_data(home, "elsewhere") == home / "elsewhere"


def test_the_script_says_how_to_use_it_and_fails_without_a_network(tmp_path):
    script = ROOT / "download_data.sh"
    told = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "Usage" in told.stdout
    failed = subprocess.run([script, tmp_path / "chest_xray"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "can be reached" in failed.stderr and "Traceback" not in failed.stderr
    assert not (tmp_path / "chest_xray").exists()
    assert subprocess.run([script, "a", "b"], capture_output=True, check=False).returncode != 0
