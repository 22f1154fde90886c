"""What lies in a folder if a process is killed before any change of a file in it, and what happens if the disk is full from there on.

An audit hook sees every change whichever function makes it: `open` to write, rename, remove, mkdir, rmdir.
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
LOCK = ".lock"  # of `lock_folder`: no content
active = []


def hear(event, arguments):
    if not active or (event != "open" and event not in CHANGES):
        return
    folder, act = active[-1]
    if event == "open":
        _, mode, flags = arguments
        if not (
            set(mode or "") & set("wax+")
            or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            return
    path = arguments[0]
    if event == "os.mkdir" and os.path.isdir(path):
        return  # nothing changes
    inside = (
        isinstance(path, (str, os.PathLike))
        and Path(path).is_relative_to(folder)
        and Path(path).name != LOCK
    )
    relative = (
        event != "open"
        and arguments[-1] not in (-1, None)
        and event in ("os.remove", "os.rmdir")
    )  # by shutil.rmtree
    if inside or relative:
        active.append((Path("/nowhere"), None))  # what is done here is not seen
        try:
            act(Path(path) if event == "open" else None)
        finally:
            active.pop()


sys.addaudithook(hear)


@contextlib.contextmanager
def watch(folder, act):
    """Call act(path of a file that will be written, or None) before each change of a file in the folder."""
    active.append((Path(folder), act))
    try:
        yield
    finally:
        active.pop()


def look(folder):
    """Return {path in it: content, None for a folder}, but not the lock."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name != LOCK
    }


def restore(folder, files):
    """Have in the folder what `look` saw, and nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def list_cuts(folder, work, count=None):
    """Do the work; return what lay in the folder before each change, each file that was written also empty and in half.

    `count`: so many of these at most, evenly spread, with the first and the last.
    """
    seen, writing = [], []

    def note(path):
        files = look(folder)
        for written in writing:
            name = str(written.relative_to(folder))
            if files.get(name):
                seen.extend(
                    files | {name: files[name][:length]}
                    for length in (0, len(files[name]) // 2)
                )
        writing[:] = [path] if path else []
        seen.append(files)

    with watch(folder, note):
        work()
    note(None)
    found = [files for number, files in enumerate(seen) if files not in seen[:number]]
    if count and len(found) > count:
        found = [
            found[round(place * (len(found) - 1) / (count - 1))]
            for place in range(count)
        ]
    return found


class Refuse:
    """Raises an error at change number `at`, counted from 0; or, if none is given, lets files grow to 10 bytes at most from there on."""

    def __init__(self, at, error=None):
        self.at, self.error, self.count = at, error, 0

    def __call__(self, path):
        self.count += 1
        if self.count - 1 == self.at:
            if self.error:
                raise self.error
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))


@contextlib.contextmanager
def full_disk(folder, at, error=None):
    """The disk is full at change number `at` of the work; yields the counter."""
    refuse = Refuse(at, error)
    try:
        with watch(folder, refuse):
            yield refuse
    finally:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
