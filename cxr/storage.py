"""Folders and files: checked before they are needed, locked, written atomically."""

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout


class StorageError(OSError):
    """A folder cannot be written or is full; the message says what to do."""


def as_storage_error(folder: str | Path, error: OSError) -> StorageError:
    """Return a StorageError for an OSError that was raised while writing into `folder`.

    An error that is a StorageError already is returned unchanged.
    """
    if isinstance(error, StorageError):
        return error
    folder = Path(folder).resolve()
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"{folder} is full: free some space and run this again")
    reason = error.strerror or error
    return StorageError(f"{folder} cannot be written ({reason}): choose another folder")


@contextlib.contextmanager
def wrap_os_errors(folder: str | Path) -> Iterator[None]:
    """Turn an OSError raised inside into a StorageError that names the folder."""
    try:
        yield
    except OSError as error:
        raise as_storage_error(folder, error) from error


def check_free_space(folder: Path, size: float) -> None:
    """Raise StorageError unless the disk of `folder` has `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            f"{Path(folder).resolve()} has {free / 1e9:.1f} GB of disk left, and "
            f"{size / 1e9:.1f} GB are needed: free some space and run this again"
        )


def prepare_folder(folder: Path, name: str, size: float = 0) -> None:
    """Create a folder and try there everything that is done in it later.

    A mounted bucket may accept files and yet refuse to rename a folder, which would
    otherwise show at the end of a training.

    Parameters
    ----------
    folder : Path
    name : str
        What the message calls the folder, such as "OUTPUT_DIR".
    size : float
        Bytes that must be left on its disk.

    Raises
    ------
    StorageError
        The folder cannot be written, files or folders in it cannot be renamed, or its
        disk is too full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".probe", dir=folder) as probe:
            old_file = Path(probe) / "staging.unfinished/old"
            new_file = Path(probe) / "staging.unfinished/new"
            old_file.parent.mkdir()
            old_file.write_bytes(b"old")
            new_file.write_bytes(b"new")
            new_file.replace(old_file)
            old_file.parent.rename(Path(probe) / "staging")
    except OSError as error:
        raise StorageError(f"{name} {as_storage_error(folder, error)}") from error
    check_free_space(folder, size)


@contextlib.contextmanager
def lock_folder(folder: str | Path, task: str) -> Iterator[None]:
    """Let one process at a time work in a folder; the others wait, and say so once.

    The lock ends with the process that holds it, however that ends. The hidden file
    `.lock` stays.

    Parameters
    ----------
    folder : str or Path
    task : str
        What this process does; others print "Another process is {task}".
    """
    lock = FileLock(Path(folder) / ".lock", thread_local=False)
    try:
        # Some mounted folders support no locks or are read-only: go on without one.
        with contextlib.suppress(OSError, NotImplementedError):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(
                    f"Another process is {task}: waiting until it has finished.",
                    flush=True,
                )
                lock.acquire()
        yield
    finally:
        lock.release()


def mount_drive() -> Path:
    """Mount the user's Google Drive; return the folder of this notebook on it.

    Raises StorageError outside Colab.
    """
    try:
        from google.colab import drive
    except ModuleNotFoundError:
        raise StorageError(
            "SAVE_TO_DRIVE works in Colab only: "
            "set it to False and name a folder in OUTPUT_DIR"
        ) from None
    drive.mount("/content/drive")
    return Path("/content/drive/MyDrive/chest-xray-pneumonia")


def write_atomically(path: str | Path, text: str) -> None:
    """Write a text file completely or not at all; raise StorageError."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".unfinished")
    with wrap_os_errors(path.parent):
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


@contextlib.contextmanager
def replace_atomically(folder: Path) -> Iterator[Path]:
    """Replace several files of a folder: all of them or none.

    At whatever instant the process is killed, `recover_interrupted_write` completes the
    replacement or undoes it.

    Parameters
    ----------
    folder : Path

    Yields
    ------
    Path
        A staging folder. At the end, each file in it replaces the file of that name in
        `folder`; an empty file removes it. One file, the record, ends in ".json".

    Raises
    ------
    StorageError
    """
    unfinished = folder / "staging.unfinished"
    with wrap_os_errors(folder):
        recover_interrupted_write(folder)
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(folder / "staging")  # from here on the new files count
        recover_interrupted_write(folder)


def recover_interrupted_write(folder: Path) -> None:
    """Complete an interrupted `replace_atomically`, or undo it.

    While the files are replaced, the folder has no record (.json): it is removed first
    and put in place last.
    """
    shutil.rmtree(folder / "staging.unfinished", ignore_errors=True)
    staging = folder / "staging"
    files = sorted(staging.glob("*"), key=lambda path: path.suffix == ".json")
    for record in files[-1:]:
        (folder / record.name).unlink(missing_ok=True)
    for path in files:
        if path.stat().st_size:
            path.replace(folder / path.name)
        else:
            (folder / path.name).unlink(missing_ok=True)
            path.unlink()
    if staging.exists():
        staging.rmdir()


def short_hash(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 digest."""
    return hashlib.sha256(content).hexdigest()[:16]


def to_json(content: Any) -> str:
    """Return strict JSON: NumPy values become plain ones, NaN and infinity null."""

    def to_plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): to_plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, np.ndarray)):
            return [to_plain(item) for item in value]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not np.isfinite(value):
            return None
        return value

    return json.dumps(to_plain(content), indent=1, ensure_ascii=False)


def utc_now() -> str:
    """Return the current time in UTC as text that sorts: 2026-01-02T03:04:05Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
