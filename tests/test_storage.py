"""Folders are tried before they are needed; files are written whole or not at all."""

import datetime
import errno
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from cxr.storage import (
    StorageError,
    as_storage_error,
    check_free_space,
    lock_folder,
    mount_drive,
    prepare_folder,
    to_json,
    utc_now,
    wrap_os_errors,
    write_atomically,
)


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"OUTPUT_DIR .*file.* cannot be written"):
        prepare_folder(tmp_path / "file" / "outputs", "OUTPUT_DIR")
    with pytest.raises(OSError, match=r"GB of disk left"):
        prepare_folder(tmp_path, "OUTPUT_DIR", 1e18)


def test_a_folder_that_is_there_and_takes_no_file_is_named():
    """Root may write everywhere but here."""
    with pytest.raises(StorageError, match=r"CACHE_DIR /proc cannot be written"):
        prepare_folder(Path("/proc"), "CACHE_DIR")


def test_a_folder_is_made_with_those_above_it_and_left_empty(tmp_path):
    prepare_folder(tmp_path / "a" / "b", "OUTPUT_DIR")
    prepare_folder(tmp_path / "a" / "b", "OUTPUT_DIR")
    assert (tmp_path / "a" / "b").is_dir() and not list(
        (tmp_path / "a" / "b").iterdir()
    )


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "is full: free some space"),
        (errno.EDQUOT, "is full: free some space"),
        (
            errno.EROFS,
            "cannot be written (Read-only file system): choose another folder",
        ),
    ],
)
def test_a_full_disk_is_told_from_one_that_cannot_be_written(tmp_path, number, advice):
    assert str(
        as_storage_error(tmp_path, OSError(number, "Read-only file system"))
    ).startswith(f"{tmp_path} {advice}")


def test_an_error_that_names_its_folder_keeps_its_words(tmp_path):
    with (
        pytest.raises(StorageError, match=f"^{tmp_path} is full: free some space"),
        wrap_os_errors("/elsewhere"),
        wrap_os_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_by_the_file_that_is_written_whole(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json.unfinished").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"^{tmp_path} is full"):
        write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


def test_the_room_that_is_missing_is_told_in_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "cxr.storage.shutil.disk_usage", lambda folder: SimpleNamespace(free=2.5e9)
    )
    check_free_space(tmp_path, 2.4e9)
    with pytest.raises(
        StorageError, match=r"has 2\.5 GB of disk left, and 3\.1 GB are needed"
    ):
        check_free_space(tmp_path, 3.1e9)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.json", "old")
    monkeypatch.setattr(
        "pathlib.Path.replace",
        lambda *_: (_ for _ in ()).throw(OSError("no space left")),
    )
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    write_atomically(tmp_path / "a.txt", "a longer old text")
    write_atomically(str(tmp_path / "a.txt"), "±")
    assert (tmp_path / "a.txt").read_bytes() == "±".encode() and [
        path.name for path in tmp_path.iterdir()
    ] == ["a.txt"]


def test_json_is_strict_whatever_numpy_gives():
    content = {
        "a": np.float32(0.5),
        2: np.array([1, 2]),
        "c": (math.nan, math.inf, np.float64("-inf")),
        "d": [np.bool_(True), None, "é"],
        "e": {"f": np.array([[0.25, np.nan]])},
    }
    text = to_json(content)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": 0.5,
        "2": [1, 2],
        "c": [None, None, None],
        "d": [True, None, "é"],
        "e": {"f": [[0.25, None]]},
    }
    assert "é" in text


WAIT = """if True:
    import sys
    from pathlib import Path
    from cxr.storage import lock_folder
    with lock_folder(Path(sys.argv[1]), "loading"):
        print("in", flush=True)
        sys.stdin.readline()"""


def hold_elsewhere(folder):
    """A process that takes the lock of a folder, says so, and holds it until it may read a line or its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", WAIT, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_says_that_it_waits_and_goes_on_when_the_first_has_finished(
    tmp_path,
):
    with lock_folder(tmp_path, "downloading"):
        second = hold_elsewhere(tmp_path)
        assert (
            second.stdout.readline()
            == "Another process is loading: waiting until it has finished.\n"
        )
        assert second.poll() is None
    assert second.stdout.readline() == "in\n"
    assert second.communicate("\n")[0] == "" and second.returncode == 0


def test_a_lock_ends_with_the_process_that_held_it_however_that_ends(tmp_path, capsys):
    first = hold_elsewhere(tmp_path)
    assert first.stdout.readline() == "in\n"
    first.kill()
    first.communicate()
    with lock_folder(tmp_path, "loading"):
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("function", "number"),
    [
        ("fcntl.flock", errno.ENOLCK),
        ("fcntl.flock", errno.EOPNOTSUPP),
        ("fcntl.flock", errno.ENOSYS),
        ("os.open", errno.EROFS),
        ("os.open", errno.EACCES),
    ],
)
def test_a_folder_that_knows_no_locks_or_takes_no_file_is_used_without(
    tmp_path, monkeypatch, capsys, function, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as mounted, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # filelock says where it has to do with a file that is there or not
        mounted.setattr(function, refuse)
        for _ in range(2):
            with lock_folder(tmp_path, "loading"):
                assert capsys.readouterr().out == ""


def test_the_drive_is_mounted_in_colab_and_refused_elsewhere(monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    with pytest.raises(
        StorageError, match=r"SAVE_TO_DRIVE works in Colab only: .* OUTPUT_DIR"
    ):
        mount_drive()
    mounted, colab = [], ModuleType("google.colab")
    colab.drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    assert mount_drive().is_relative_to(mounted[0])


@pytest.fixture
def tokyo(monkeypatch):
    """A machine that is nine hours ahead."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_time_is_that_of_utc(tokyo):
    told = datetime.datetime.strptime(utc_now(), "%Y-%m-%dT%H:%M:%SZ").replace(
        tzinfo=datetime.timezone.utc
    )
    assert (
        abs((datetime.datetime.now(datetime.timezone.utc) - told).total_seconds()) < 60
    )
