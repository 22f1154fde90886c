"""Folders are checked before they are needed; files are written atomically."""

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
    recover_interrupted_write,
    replace_atomically,
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


def test_an_existing_folder_that_takes_no_file_is_named():
    """Even root cannot write into /proc."""
    with pytest.raises(StorageError, match=r"CACHE_DIR /proc cannot be written"):
        prepare_folder(Path("/proc"), "CACHE_DIR")


def test_a_folder_is_created_with_its_parents_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    prepare_folder(folder, "OUTPUT_DIR")
    prepare_folder(folder, "OUTPUT_DIR")
    assert folder.is_dir() and not list(folder.iterdir())


@pytest.mark.parametrize("refuses", [Path.is_dir, Path.is_file])
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EIO])
def test_a_folder_in_which_nothing_can_be_renamed_is_refused_at_once(
    tmp_path, monkeypatch, refuses, number
):
    """As mounted buckets do: some rename no folder, some no file either."""

    def refusing(rename):
        def renamed(source, target, **options):
            if refuses(Path(source)):
                raise OSError(number, os.strerror(number))
            return rename(source, target, **options)

        return renamed

    with monkeypatch.context() as bucket:
        for name in ("rename", "replace"):
            bucket.setattr(os, name, refusing(getattr(os, name)))
        with pytest.raises(StorageError, match=r"OUTPUT_DIR .* choose another folder"):
            prepare_folder(tmp_path / "bucket", "OUTPUT_DIR")
    assert not list((tmp_path / "bucket").iterdir())


def test_files_are_replaced_together_and_an_empty_one_removes_its_namesake(tmp_path):
    for name in ("a.csv", "b.csv", "old.csv", "record.json"):
        (tmp_path / name).write_text("old")
    with replace_atomically(tmp_path) as staging:
        for name in ("a.csv", "record.json", "new.csv"):
            (staging / name).write_text("new")
        (staging / "old.csv").touch()
        assert (tmp_path / "a.csv").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.csv": "new",
        "b.csv": "old",
        "new.csv": "new",
        "record.json": "new",
    }


def test_an_error_while_files_are_staged_leaves_the_old_ones(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(KeyError), replace_atomically(tmp_path) as staging:
        (staging / "a.csv").write_text("new")
        raise KeyError
    recover_interrupted_write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.csv": "old"
    }


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
    error = as_storage_error(tmp_path, OSError(number, "Read-only file system"))
    assert str(error).startswith(f"{tmp_path} {advice}")


def test_an_error_that_already_names_its_folder_is_not_wrapped_again(tmp_path):
    with (
        pytest.raises(StorageError, match=f"^{tmp_path} is full: free some space"),
        wrap_os_errors("/elsewhere"),
        wrap_os_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_when_a_file_is_written_atomically(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json.unfinished").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"^{tmp_path} is full"):
        write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


def test_missing_disk_space_is_given_in_gigabytes(tmp_path, monkeypatch):
    disk = SimpleNamespace(free=2.5e9)
    monkeypatch.setattr("cxr.storage.shutil.disk_usage", lambda folder: disk)
    check_free_space(tmp_path, 2.4e9)
    message = r"has 2\.5 GB of disk left, and 3\.1 GB are needed"
    with pytest.raises(StorageError, match=message):
        check_free_space(tmp_path, 3.1e9)


def test_a_file_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no space left")

    write_atomically(tmp_path / "a.json", "old")
    monkeypatch.setattr("pathlib.Path.replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    write_atomically(tmp_path / "a.txt", "a longer old text")
    write_atomically(str(tmp_path / "a.txt"), "±")
    assert (tmp_path / "a.txt").read_bytes() == "±".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


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
    """Start a process that takes the lock of a folder and prints "in".

    It holds the lock until it can read a line, or its input ends.
    """
    return subprocess.Popen(
        [sys.executable, "-c", WAIT, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_second_process_says_that_it_waits_until_the_first_has_finished(tmp_path):
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
def test_a_folder_without_locks_or_read_only_is_used_without_a_lock(
    tmp_path, monkeypatch, capsys, function, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as mounted, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of filelock
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
    """Set the time zone to one that is nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_time_is_utc(tokyo):
    utc = datetime.timezone.utc
    found = datetime.datetime.strptime(utc_now(), "%Y-%m-%dT%H:%M:%SZ")
    difference = datetime.datetime.now(utc) - found.replace(tzinfo=utc)
    assert abs(difference.total_seconds()) < 60
