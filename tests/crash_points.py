"""What a folder holds if a process is killed at any change of a file in it.

And what happens if the disk is full from there on. An audit hook sees every change,
whichever function makes it: open for writing, rename, remove, mkdir, rmdir.
"""

import contextlib
import os
import resource
import shutil
import sys
from pathlib import Path

CHANGES = {
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
}
LOCK = ".lock"  # the file of `lock_folder`, which has no content
active = []


def audit(event, arguments):
    if not active or (event != "open" and event not in CHANGES):
        return
    folder, action = active[-1]
    if event == "open":
        _, mode, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not writes and not set(mode or "") & set("wax+"):
            return
    path = arguments[0]
    if event == "os.mkdir" and os.path.isdir(path):
        return  # nothing changes
    is_inside = False
    if isinstance(path, (str, os.PathLike)):
        is_inside = Path(path).is_relative_to(folder) and Path(path).name != LOCK
    # shutil.rmtree names files relative to an open folder.
    has_folder = arguments[-1] not in (-1, None)
    is_relative = has_folder and event in ("os.remove", "os.rmdir")
    if is_inside or is_relative:
        active.append((Path("/nowhere"), None))  # changes by the action do not count
        try:
            action(Path(path) if event == "open" else None)
        finally:
            active.pop()


sys.addaudithook(audit)


@contextlib.contextmanager
def watch(folder, action):
    """Call action(path) before each change of a file in the folder.

    `path` is that of a file that is opened for writing, else None.
    """
    active.append((Path(folder), action))
    try:
        yield
    finally:
        active.pop()


def read_files(folder):
    """Return {relative path: content, None for a folder} without the lock."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name != LOCK
    }


def restore(folder, files):
    """Make the folder hold what `read_files` returned, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def list_crash_states(folder, work, count=None):
    """Do the work; return what the folder held before each change.

    Each file that was being written appears also empty and cut in half. `count`: return
    at most so many states, evenly spread, with the first and the last.
    """
    states = []
    written = []

    def take(path):
        files = read_files(folder)
        for name in written:
            if content := files.get(name):
                states.append(files | {name: b""})
                states.append(files | {name: content[: len(content) // 2]})
        written[:] = [str(path.relative_to(folder))] if path else []
        states.append(files)

    with watch(folder, take):
        work()
    take(None)
    distinct = []
    for files in states:
        if files not in distinct:
            distinct.append(files)
    if count and len(distinct) > count:
        step = (len(distinct) - 1) / (count - 1)
        distinct = [distinct[round(number * step)] for number in range(count)]
    return distinct


class FillDisk:
    """Raises an error at change number `at`, counted from 0.

    Without an error, files cannot grow beyond 10 bytes from there on.
    """

    def __init__(self, at, error=None):
        self.at = at
        self.error = error
        self.count = 0

    def __call__(self, path):
        self.count += 1
        if self.count - 1 == self.at:
            if self.error:
                raise self.error
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))


@contextlib.contextmanager
def full_disk(folder, at, error=None):
    """Fill the disk at change number `at` of the work inside; yield the counter."""
    disk = FillDisk(at, error)
    try:
        with watch(folder, disk):
            yield disk
    finally:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
