"""Downloads by section 1 and by download_data.sh, with the real kaggle and curl.

The commands talk HTTPS with a server on this machine, see `fake_kaggle_server`.
"""

import hashlib
import io
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from fake_kaggle_server import COUNTS, MENDELEY_COUNTS, FakeKaggleServer, make_archive

from cxr.dataset import find_data, list_images
from cxr.download import (
    BadArchive,
    DownloadError,
    download_data,
    download_with_curl,
    download_with_kaggle,
    extract_archive,
    reachable_addresses,
)
from cxr.release import ChestXray, count_images
from cxr.storage import StorageError

SCRIPT = ROOT / "download_data.sh"


@pytest.fixture(scope="session")
def archives():
    return make_archive(COUNTS), make_archive(MENDELEY_COUNTS, copies=False)


@pytest.fixture(scope="session")
def server(archives, tmp_path_factory):
    return FakeKaggleServer(*archives, tmp_path_factory.mktemp("internet"))


@pytest.fixture
def internet(server, tmp_path, monkeypatch):
    """Lead this process and its children to the server that plays Kaggle."""
    for site in (server.command, server.web, server.mendeley):
        site.recover()
        site.ranges.clear()
    for name in [name for name in os.environ if name.startswith("KAGGLE")]:
        monkeypatch.delenv(name)
    for name, value in server.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        time, "sleep", lambda seconds, real=time.sleep: real(min(seconds, 0.2))
    )
    monkeypatch.setattr(ChestXray, "counts", COUNTS)
    monkeypatch.setattr(ChestXray, "mendeley_counts", MENDELEY_COUNTS)
    return server


def fail_everywhere(internet, **fault):
    """Let both addresses of Kaggle fail in this way; Mendeley has nothing."""
    for site in (internet.command, internet.web):
        for name, value in fault.items():
            setattr(site, name, value)
    internet.mendeley.status = 404


def recover(internet):
    internet.command.recover()
    internet.web.recover()


def run_script(folder, *options, **more):
    return subprocess.run(
        [SCRIPT, *options, folder], capture_output=True, text=True, check=False, **more
    )


def list_names(folder):
    """Return the names in a folder, without the lock."""
    return [path.name for path in folder.iterdir() if path.name != ".lock"]


def assert_whole(folder):
    """Assert the right number of images, none from the nested copy or the junk."""
    assert count_images(folder) in (COUNTS, MENDELEY_COUNTS)
    contents = {path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(contents) == 1 and contents.pop()[:2] == b"\xff\xd8"


def corrupt(body):
    # Inside an image, so its checksum fails.
    place = body.index(b"\xff\xd8", len(body) // 100) + 40
    return body[:place] + bytes([body[place] ^ 0xFF]) + body[place + 1 :]


def lose_bytes(body):
    # The end is there, but the positions in it count from the beginning.
    middle = len(body) // 2
    return body[:middle] + body[middle + 5000 :]


def drop_image(body):
    """Return the same archive without one image."""
    with (
        zipfile.ZipFile(io.BytesIO(body)) as old,
        zipfile.ZipFile(changed := io.BytesIO(), "w") as new,
    ):
        for member in old.infolist():
            if member.filename != "chest_xray/test/NORMAL/person3_virus_3.jpeg":
                new.writestr(member, old.read(member))
    return changed.getvalue()


# {fault: (attributes of the site, message of the kaggle command, message of curl)}
FAULTS = {
    "401": ({"status": 401}, "Authentication required", "401"),
    "429": ({"status": 429}, "429", "429"),
    "a page instead of a zip": (
        {"body": b"<html>please log in</html>"},
        "not a zip archive; it was removed",
        "not a zip archive",
    ),
    "hangs up each time": (
        {"cut": 500_000},
        "kaggle: ",
        r"closed with \d+ bytes remaining to read; run this again",
    ),
    "promises too little": (
        {"length": -1000},
        "kaggle: interrupted",
        "not a whole zip archive; it was removed",
    ),
    "corrupt": (
        {"body": corrupt},
        "corrupt .*CRC.*; it was removed",
        "corrupt .*; it was removed",
    ),
    "bytes lost on the way": (
        {"body": lose_bytes},
        "corrupt .*; it was removed",
        "corrupt .*; it was removed",
    ),
    "one image missing": (
        {"body": drop_image},
        "59 images.*; it was removed",
        "4 test/NORMAL.*; it was removed",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_each_failure_is_one_line_and_the_next_try_succeeds(
    internet, tmp_path, capsys, fault
):
    """By the script while Kaggle fails, then by the notebook when it works again."""
    attributes, kaggle_message, curl_message = FAULTS[fault]
    folder = tmp_path / "data/chest_xray"
    for name, value in attributes.items():
        if callable(value):
            fail_everywhere(internet, **{name: value(internet.web.whole)})
        else:
            fail_everywhere(internet, **{name: value})
    failed = run_script(folder)
    lines = [line.rsplit("\r", 1)[-1] for line in failed.stdout.splitlines()]
    expected = {
        "the kaggle command": kaggle_message,
        "Kaggle's public address": curl_message,
        "the original at Mendeley": "404",
    }
    for name, reason in expected.items():
        (line,) = (line for line in lines if line.startswith(f"{name}: "))
        assert re.search(reason, line), line
    assert failed.returncode == 1
    assert "no source provided the data set" in failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert list_names(folder.parent) == [".chest_xray.download"]
    recover(internet)
    assert find_data(tmp_path, "") == folder
    assert_whole(folder)
    assert list_names(folder.parent) == ["chest_xray"]
    if fault == "hangs up each time":
        assert internet.command.ranges[-1] != "bytes=0-", (
            "the second try must go on where the first one stopped"
        )


def test_the_script_gets_everything_and_does_nothing_the_second_time(
    internet, tmp_path
):
    folder = tmp_path / "data/chest_xray"
    internet.command.cut = None
    done = run_script(folder)
    assert done.returncode == 0 and "60 images, checked" in done.stdout, (
        done.stdout + done.stderr
    )
    assert_whole(folder)
    assert list_names(folder.parent) == ["chest_xray"] and internet.web.ranges == []
    internet.command.status = internet.web.status = internet.mendeley.status = 500
    again = run_script(folder)
    assert again.returncode == 0 and "complete" in again.stdout
    (folder / "train/NORMAL/person3_virus_3.jpeg").unlink()
    assert run_script(folder).returncode == 1, (
        "exit code 0 means that the folder is whole"
    )


@pytest.mark.long
def test_a_connection_that_breaks_once_is_taken_up_again_by_https(
    internet, tmp_path, monkeypatch
):
    internet.web.cut = 2_000_000
    archive = tmp_path / "chest-xray-pneumonia.zip"
    download_with_curl(ChestXray.kaggle_address, archive, len(internet.web.whole))
    assert archive.read_bytes() == internet.web.whole
    assert internet.web.ranges[:2] == [None, "bytes=2000000-"]


@pytest.mark.long
def test_a_server_that_promises_too_much_has_sent_all_the_same(internet, tmp_path):
    """The kaggle command and curl fail, but the archive is whole."""
    fail_everywhere(internet, length=1000)
    done = run_script(tmp_path / "chest_xray")
    assert done.returncode == 0 and "the kaggle command: kaggle: " in done.stdout
    assert_whole(tmp_path / "chest_xray")


@pytest.mark.long
def test_a_page_does_not_overwrite_the_part_that_is_here(internet, tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(internet.web.whole[:1000])
    internet.web.body = b"<html>too many requests</html>" * 100
    with pytest.raises(DownloadError):
        download_with_curl(ChestXray.kaggle_address, archive, len(internet.web.whole))
    assert archive.read_bytes()[:1000] == internet.web.whole[:1000]


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"])
def test_a_server_that_does_not_go_on_from_a_part(internet, tmp_path, kind):
    """It sends a page, which must not replace the part, or the archive again."""
    archive = tmp_path / "a.zip"
    archive.write_bytes(internet.web.whole[:1000])
    internet.web.resumes, internet.web.kind = False, kind
    if kind == "application/zip":
        download_with_curl(ChestXray.kaggle_address, archive, len(internet.web.whole))
        assert archive.read_bytes() == internet.web.whole
    else:
        with pytest.raises(
            DownloadError, match=r"^what arrived is not a zip archive$"
        ) as caught:
            download_with_curl(
                ChestXray.kaggle_address, archive, len(internet.web.whole)
            )
        # After a BadArchive the archive would be removed.
        assert not isinstance(caught.value, BadArchive)
        assert archive.read_bytes() == internet.web.whole[:1000]


@pytest.mark.long
def test_a_silent_server_is_left(internet, tmp_path, capsys):
    internet.web.pace = 1000  # silent for a minute after the first 64 kB
    with pytest.raises(
        DownloadError, match=r"curl: \(28\) .*; run this again to resume"
    ):
        download_with_curl(
            ChestXray.kaggle_address,
            tmp_path / "a.zip",
            1,
            pauses=(1,),
            stall_timeout=1,
        )
    assert capsys.readouterr().out.count("trying again in 1 s") == 1
    first, second = internet.web.ranges
    assert first is None
    assert re.fullmatch(r"bytes=[1-9]\d+-", second), "the second try resumes"


def test_a_kaggle_command_that_waits_forever_is_ended(internet, tmp_path):
    internet.command.pace = 1000
    with pytest.raises(DownloadError, match=r"^kaggle: silent for 2 seconds$"):
        download_with_kaggle(
            ChestXray.kaggle_address,
            tmp_path / "chest-xray-pneumonia.zip",
            1,
            stall_timeout=2,
        )


def test_a_kaggle_command_that_cannot_be_run_leads_to_the_next_source(
    internet, tmp_path, capsys, monkeypatch
):
    """As after the project was moved: the Python that the script names is gone."""
    (tmp_path / "kaggle").write_text("#!/gone/python\n")
    (tmp_path / "kaggle").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    download_data(tmp_path / "data/chest_xray")
    assert (
        "the kaggle command cannot be run (No such file or directory)."
        in capsys.readouterr().out
    )
    assert_whole(tmp_path / "data/chest_xray")


def test_without_curl_its_sources_fail_and_kaggle_is_still_tried(
    internet, tmp_path, capsys, monkeypatch
):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    internet.command.status = 500
    with pytest.raises(DownloadError, match="no source"):
        download_data(tmp_path / "data/chest_xray")
    printed = capsys.readouterr().out
    assert printed.count("the curl command is not installed") == 2
    assert "the kaggle command: kaggle: " in printed
    internet.command.recover()
    download_data(tmp_path / "data/chest_xray")
    assert_whole(tmp_path / "data/chest_xray")


def test_a_truncated_archive_of_the_user_is_reported_without_a_network_too(
    tmp_path, capsys, archives
):
    (tmp_path / "archive.zip").write_bytes(archives[0][:-1000])
    with pytest.raises(DownloadError, match="no source"):
        download_data(tmp_path / "chest_xray")
    message = "what arrived is not a whole zip archive; it was left"
    printed = capsys.readouterr().out
    assert f"the archive {tmp_path / 'archive.zip'}: {message}" in printed


@pytest.mark.long
def test_the_archive_is_kept_on_request_and_used_where_it_is(
    internet, tmp_path, capsys
):
    folder = tmp_path / "data/chest_xray"
    assert run_script(folder, "--keep-archive").returncode == 0
    assert set(list_names(folder.parent)) == {"chest_xray", "chest-xray-pneumonia.zip"}
    shutil.rmtree(folder)
    internet.command.status = internet.web.status = internet.mendeley.status = 500
    assert find_data(tmp_path, "") == folder
    assert_whole(folder)
    shutil.rmtree(folder)
    (folder.parent / "chest-xray-pneumonia.zip").write_bytes(
        corrupt(internet.web.whole)
    )
    with pytest.raises(DownloadError, match="no source"):
        download_data(folder)
    assert (
        "left where it is" in capsys.readouterr().out
        and (folder.parent / "chest-xray-pneumonia.zip").exists()
    )


@pytest.mark.long
def test_mendeley_is_the_last_source_and_has_no_val_folder(
    internet, tmp_path, capsys, monkeypatch
):
    internet.command.status = internet.web.status = 404
    monkeypatch.setattr(
        ChestXray,
        "mendeley_sha256",
        hashlib.sha256(internet.mendeley.whole).hexdigest(),
    )
    folder = find_data(tmp_path, "")
    assert_whole(folder)
    assert set(list_images(folder).folder) == {"train", "test"}
    assert "no val folder" in capsys.readouterr().out
    shutil.rmtree(folder)
    monkeypatch.setattr(ChestXray, "mendeley_sha256", "0" * 64)
    with pytest.raises(DownloadError, match="no source"):
        download_data(folder)
    assert (
        "SHA-256 is not that of the original; it was removed" in capsys.readouterr().out
    )


@pytest.mark.long
def test_a_refused_key_is_not_shown_and_the_public_address_needs_none(
    internet, tmp_path, monkeypatch
):
    key = "KGAT_0123456789abcdef0123456789abcdef"
    monkeypatch.setenv("KAGGLE_API_TOKEN", key)
    internet.command.status = 401
    done = run_script(tmp_path / "chest_xray")
    assert done.returncode == 0 and "the kaggle command: kaggle: " in done.stdout
    assert key not in done.stdout + done.stderr
    assert_whole(tmp_path / "chest_xray")


@pytest.mark.long
@pytest.mark.parametrize("limit", [1_000_000, 5_000])
def test_a_full_disk_is_reported_and_leaves_nothing_that_looks_whole(
    internet, tmp_path, limit
):
    """A limit to the size of files stands for the disk: below the archive, or tiny."""
    internet.mendeley.status = 404
    folder = tmp_path / "data/chest_xray"
    failed = run_script(
        folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (
        failed.returncode == 1
        and "is full: free some space" in failed.stderr
        and not folder.exists()
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match=f"{folder.parent}.* is full"):
            find_data(tmp_path, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    find_data(tmp_path, "")
    assert_whole(folder)


@pytest.mark.long
def test_a_disk_that_fills_while_extracting_keeps_the_archive_for_the_next_try(
    internet, tmp_path, monkeypatch
):
    folder = tmp_path / "chest_xray"
    written, write = [], Path.write_bytes

    def full(self, content):
        written.append(self)
        if len(written) > 20:
            raise OSError(28, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as small:
        small.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageError, match="is full"):
            download_data(folder)
    assert not folder.exists() and not list(tmp_path.glob("*unfinished*"))
    asked = len(internet.command.ranges)
    internet.command.status = internet.web.status = 500
    download_data(folder)
    assert_whole(folder)
    assert asked == len(internet.command.ranges)


def test_too_little_disk_space_is_reported_before_any_download(
    internet, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: usage._replace(free=3_000_000_000)
    )
    assert ChestXray.kaggle_bytes + ChestXray.tree_bytes > 3_000_000_000
    internet.mendeley.status = 404
    with pytest.raises(
        StorageError, match=r"3.0 GB of disk left, and 3.7 GB are needed"
    ):
        download_data(tmp_path / "chest_xray")
    assert internet.command.ranges == internet.web.ranges == []
    assert internet.mendeley.ranges, "there is enough space for the smaller original"


def test_a_folder_that_cannot_be_written_is_named(internet, tmp_path):
    (tmp_path / "file").write_text("in the way")
    failed = run_script(tmp_path / "file/chest_xray")
    assert (
        failed.returncode == 1
        and f"{tmp_path / 'file'} cannot be written" in failed.stderr
    )


def start_slow_download(internet, folder):
    """Return the script during a download, a good second before its end."""
    internet.command.pace = len(internet.command.whole) / 3
    process = subprocess.Popen(
        [SCRIPT, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    partial = folder.with_name(".chest_xray.download") / "chest-xray-pneumonia.zip"
    while not partial.exists() or partial.stat().st_size < 1_000_000:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    return process, partial


def test_an_interrupted_download_is_resumed(internet, tmp_path):
    """Ctrl-C, which reaches the kaggle command as well."""
    folder = tmp_path / "chest_xray"
    process, partial = start_slow_download(internet, folder)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "run it again to resume" in printed
    assert "Traceback" not in printed
    size = partial.stat().st_size
    assert 1_000_000 <= size < len(internet.command.whole) and not folder.exists()
    recover(internet)
    assert run_script(folder).returncode == 0
    assert_whole(folder)
    assert internet.command.ranges[-1] == f"bytes={size}-"


@pytest.mark.long
def test_after_a_kill_and_with_two_at_once_one_waits_for_the_other(internet, tmp_path):
    folder = tmp_path / "chest_xray"
    first, _ = start_slow_download(internet, folder)
    second = subprocess.Popen(
        [SCRIPT, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert "Another process is getting data" in second.stdout.readline()
    third = subprocess.Popen(
        [SCRIPT, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    first.kill()
    for process in (second, third):
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0, printed
    assert_whole(folder)
    assert sorted(list_names(tmp_path)) == ["chest_xray", "home"]


@pytest.mark.long
def test_two_downloads_at_once_fetch_only_once(internet, tmp_path):
    internet.command.pace = len(internet.command.whole) / 2
    pair = [
        subprocess.Popen(
            [SCRIPT, tmp_path / "chest_xray"], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    assert [process.wait(60) for process in pair] == [0, 0]
    # The command requests the archive once, and once more to resume at its end.
    assert len(internet.command.ranges) <= 2
    assert internet.web.ranges == []


def make_zip(folder, infos):
    """Return a zip with the class folders and `infos`: (name or ZipInfo, content)."""
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in ("train", "test"):
            for name in ("NORMAL", "PNEUMONIA"):
                archive.writestr(f"chest_xray/{entry}/{name}/a.jpeg", b"image")
        for info, content in infos:
            archive.writestr(info, content)
    return folder / "a.zip"


def symbolic_link():
    info = zipfile.ZipInfo("chest_xray/train/NORMAL/link.jpeg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def compressed_by_bzip2():
    info = zipfile.ZipInfo("chest_xray/train/NORMAL/b.jpeg")
    info.compress_type = zipfile.ZIP_BZIP2
    return info


HARMFUL = {
    "a way out": (
        [("chest_xray/train/NORMAL/../../../../escaped.jpeg", b"x")],
        "points outside",
    ),
    "a way out in the nested copy": (
        [("chest_xray/chest_xray/../../../escaped.jpeg", b"x")],
        "points outside",
    ),
    "an absolute name": ([("/tmp/escaped.jpeg", b"x")], "points outside"),
    "a name of another system": ([("..\\escaped.jpeg", b"x")], "points outside"),
    "a symbolic link": ([(symbolic_link(), b"/etc/passwd")], "symbolic link"),
    "a compression without limits": (
        [(compressed_by_bzip2(), b"x")],
        "unusual compression",
    ),
    "a bomb": (
        [("chest_xray/train/NORMAL/b.jpeg", bytes(100_000_000))],
        "out of proportion",
    ),
    "many small bombs": (
        [(f"chest_xray/train/NORMAL/{n}.jpeg", bytes(999_999)) for n in range(40)],
        "out of proportion",
    ),
}


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_an_archive_that_lost_bytes_is_corrupt_wherever_that_was(tmp_path, place):
    archive = make_zip(
        tmp_path,
        infos=[
            (f"chest_xray/train/NORMAL/{n}.jpeg", os.urandom(1000)) for n in range(100)
        ],
    )
    body = archive.read_bytes()
    archive.write_bytes(
        body[: int(place * len(body))] + body[int(place * len(body)) + 3000 :]
    )
    with pytest.raises(BadArchive, match="corrupt"):
        extract_archive(archive, tmp_path / "data", [COUNTS])
    assert list_names(tmp_path) == ["a.zip"]


def test_a_name_that_no_file_may_have_is_a_fault_of_the_archive(tmp_path):
    archive = make_zip(
        tmp_path, infos=[(f"chest_xray/train/NORMAL/{'long' * 80}.jpeg", b"x")]
    )
    with pytest.raises(BadArchive, match=r"corrupt .*name too long"):
        extract_archive(archive, tmp_path / "data", [COUNTS])


def test_no_more_is_extracted_than_an_archive_announces(tmp_path):
    """100 kB that become 100 MB, where the archive says 1,000 bytes."""
    archive = make_zip(
        tmp_path, infos=[("chest_xray/train/NORMAL/b.jpeg", bytes(100_000_000))]
    )
    body = archive.read_bytes()
    size = struct.pack("<L", 100_000_000)
    assert body.count(size) == 2  # before the image, and in the list at the end
    archive.write_bytes(body.replace(size, struct.pack("<L", 1000)))
    tracemalloc.start()
    try:
        with pytest.raises(BadArchive, match=r"corrupt .*CRC"):
            extract_archive(archive, tmp_path / "data", [COUNTS])
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_harmful_archive_is_refused_as_a_whole(tmp_path, kind):
    infos, message = HARMFUL[kind]
    archive = make_zip(tmp_path, infos=infos)
    with pytest.raises(BadArchive, match=message):
        extract_archive(archive, tmp_path / "deep/er/data", [COUNTS])
    assert list_names(tmp_path) == ["a.zip"] and not list(
        tmp_path.parent.rglob("escaped*")
    )


def test_an_incomplete_folder_is_renamed_and_kept(internet, tmp_path):
    (tmp_path / "chest_xray/train").mkdir(parents=True)
    (tmp_path / "chest_xray/train/mine.txt").write_text("keep me")
    download_data(tmp_path / "chest_xray")
    assert_whole(tmp_path / "chest_xray")
    assert [
        path.read_text()
        for path in tmp_path.glob("chest_xray.incomplete-*/train/mine.txt")
    ] == ["keep me"]


@pytest.mark.timeout(20)
def test_a_machine_with_no_way_out_is_recognized(internet, tmp_path, monkeypatch):
    # Takes connections and never answers, as if packets were dropped.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert (
            reachable_addresses(
                [ChestXray.kaggle_address, ChestXray.mendeley_address], timeout=1
            )
            == []
        )
    refused = run_script(tmp_path / "chest_xray")
    assert (
        refused.returncode == 1
        and "neither Kaggle nor Mendeley can be reached" in refused.stderr
    )
    assert list_names(tmp_path) == ["home"], "no folder is made in vain"


def test_a_refusal_is_an_answer(internet):
    internet.web.status = 403
    assert reachable_addresses([ChestXray.kaggle_address], timeout=5)


def test_a_whole_folder_is_recognized_without_reading_it(tmp_path, monkeypatch):
    """No file of it is opened, and the network is not used."""
    for entry, count in ChestXray.counts.items():
        (tmp_path / "chest_xray" / entry).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "chest_xray" / entry / f"{number}.jpeg").symlink_to(
                ROOT / "README.md"
            )
    opened = []
    monkeypatch.setattr(
        "builtins.open", lambda *arguments, **_: opened.append(arguments)
    )
    monkeypatch.setattr("cxr.download.reachable_addresses", None)
    download_data(tmp_path / "chest_xray")
    assert not opened


@pytest.mark.parametrize(
    "command",
    [[SCRIPT], [sys.executable, "-m", "cxr.download"]],
    ids=["script", "module"],
)
def test_usage_is_printed(tmp_path, command):
    done = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (
        done.returncode == 0
        and "usage" in done.stdout
        and "--keep-archive" in done.stdout
    )
    for wrong in (["a", "b"], ["--unknown"]):
        failed = subprocess.run(
            [*command, *wrong],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert failed.returncode == 2 and "usage" in failed.stderr.lower()


def test_the_download_imports_nothing_slow():
    print_names = "import cxr.download, sys; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-c", print_names], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "cxr.download" in names and not {
        "pandas",
        "keras",
        "tensorflow",
        "cv2",
        "matplotlib",
        "requests",
    } & set(names)


def test_a_folder_is_relative_to_the_user_and_the_default_to_the_repository(
    internet, tmp_path
):
    shutil.copytree(
        ROOT / "cxr",
        tmp_path / "copy/cxr",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    copy = Path(shutil.copy2(SCRIPT, tmp_path / "copy"))
    (tmp_path / "here").mkdir()
    fail_everywhere(internet, status=404)
    for options, place in (
        ([], "copy/data"),
        (["--keep-archive"], "copy/data"),
        (["mine/chest_xray"], "here/mine"),
    ):
        assert (
            subprocess.run(
                [copy, *options],
                capture_output=True,
                check=False,
                cwd=tmp_path / "here",
            ).returncode
            == 1
        )
        assert list_names(tmp_path / place) == [".chest_xray.download"]
        shutil.rmtree(tmp_path / place)
    assert not list((tmp_path / "here").iterdir())


def test_a_python_without_the_packages_leads_to_advice(tmp_path):
    # Python without the installed packages.
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    (tmp_path / "python").chmod(0o755)
    failed = subprocess.run(
        [SCRIPT, tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": str(tmp_path / "python")},
    )
    assert failed.returncode == 1 and failed.stdout == ""
    assert re.fullmatch(
        r"download_data.sh: ModuleNotFoundError: .*\. Run `make install` first.*\n",
        failed.stderr,
    )
