"""Folders and files: tried before they are needed, locked, written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout


class StorageError(OSError):
    """A folder cannot be written, or has no room; the message says which, and what to do."""


def as_storage_error(folder: Path, error: OSError) -> StorageError:
    """Return a StorageError for an OSError that came up while writing into `folder`; one that says it already stays as it is."""
    if isinstance(error, StorageError):
        return error
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return StorageError(
        f"{Path(folder).resolve()} "
        + (
            "is full: free some space and run this again"
            if full
            else f"cannot be written ({error.strerror or error}): choose another folder"
        )
    )


@contextlib.contextmanager
def wrap_os_errors(folder: Path):
    """Raise StorageError, with the name of the folder, for an OSError that comes up inside."""
    try:
        yield
    except OSError as error:
        raise as_storage_error(folder, error) from error


def check_free_space(folder: Path, size: float):
    """Raise StorageError unless the disk of `folder` has `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            f"{Path(folder).resolve()} has {free / 1e9:.1f} GB of disk left, and {size / 1e9:.1f} GB are needed: "
            "free some space and run this again"
        )


def prepare_folder(folder: Path, name: str, size: float = 0):
    """Create a folder to write into; raise StorageError, with its name, if it cannot be written or has no `size` bytes left."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"ok")
    except OSError as error:
        raise StorageError(f"{name} {as_storage_error(folder, error)}") from error
    check_free_space(folder, size)


@contextlib.contextmanager
def lock_folder(folder: Path, task: str):
    """Let one process at a time work in `folder`; others wait, and say so once.

    A process that ends, however it does, holds no lock any longer. The hidden file `.lock` stays.
    """
    lock = FileLock(Path(folder) / ".lock", thread_local=False)
    try:
        # Some mounted folders know no locks, and some take no file: work goes on without one.
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
    """Return the folder for this notebook on the user's Google Drive, mounted if need be; raise StorageError outside Colab."""
    try:
        from google.colab import drive
    except ModuleNotFoundError:
        raise StorageError(
            "SAVE_TO_DRIVE works in Colab only: set it to False and name a folder in OUTPUT_DIR"
        ) from None
    drive.mount("/content/drive")
    return Path("/content/drive/MyDrive/chest-xray-pneumonia")


def write_atomically(path: Path, text: str):
    """Write a text file so that it is there completely or not at all; raises StorageError."""
    unfinished = Path(path).with_name(Path(path).name + ".unfinished")
    with wrap_os_errors(unfinished.parent):
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


@contextlib.contextmanager
def replace_atomically(folder: Path):
    """Yield a folder for files that belong together: in the end all come into `folder` (an empty one removes its namesake), or none.

    Whatever cuts this off, `recover_interrupted_write` completes it or undoes it. Raises StorageError.
    """
    unfinished = folder / "together.unfinished"
    with wrap_os_errors(folder):
        recover_interrupted_write(folder)
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(
            folder / "together"
        )  # at this instant the new files begin to count
        recover_interrupted_write(folder)


def recover_interrupted_write(folder: Path):
    """Complete what `replace_atomically` had begun when it was cut off, or undo it; in between there is no record (.json) of the files."""
    shutil.rmtree(folder / "together.unfinished", ignore_errors=True)
    files = sorted(folder.glob("together/*"), key=lambda path: path.suffix == ".json")
    for path in files[-1:]:  # the record goes first and comes last
        (folder / path.name).unlink(missing_ok=True)
    for path in files:
        if path.stat().st_size:
            path.replace(folder / path.name)
        else:
            (folder / path.name).unlink(missing_ok=True)
            path.unlink()
    if (folder / "together").exists():
        (folder / "together").rmdir()


def short_hash(content: bytes) -> str:
    """Return sixteen characters that tell one content from another."""
    return hashlib.sha256(content).hexdigest()[:16]


def to_json(content) -> str:
    """Return strict JSON: NaN and infinity become null."""

    def clean(value):
        if isinstance(value, dict):
            return {str(key): clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, np.ndarray)):
            return [clean(item) for item in value]
        value = value.item() if isinstance(value, np.generic) else value
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return json.dumps(clean(content), indent=1, ensure_ascii=False)


def utc_now() -> str:
    """Return the time, in UTC, as text that sorts."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
