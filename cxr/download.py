"""How the data set gets from where it is published into a folder, whole or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from cxr.release import ChestXray, count_images, is_whole
from cxr.storage import (
    StorageError,
    as_storage_error,
    check_free_space,
    lock_folder,
    prepare_folder,
    wrap_os_errors,
)


class DownloadError(Exception):
    """A source did not give the data set; the message says why, in one line."""


class BadArchive(DownloadError):
    """What was downloaded is not the data set, or not whole."""


def size_of(file: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return file.stat().st_size if file.exists() else 0


def reachable(addresses: list, seconds: float = 8) -> list:
    """Return the addresses at which something answers within so many seconds, whatever the answer; all, if there is no curl."""
    if not shutil.which("curl"):
        return list(addresses)
    command = [
        "curl",
        "--silent",
        "--head",
        "--output",
        os.devnull,
        "--max-time",
        str(seconds),
    ]
    knocks = [subprocess.Popen([*command, address]) for address in addresses]
    return [
        address
        for address, knock in zip(addresses, knocks, strict=True)
        if knock.wait() == 0
    ]


def start_program(name: str, arguments: list) -> subprocess.Popen:
    """Start a program, the one beside this Python if there is one; raise DownloadError if that cannot be done."""
    command = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(
        name
    )
    if command is None:
        raise DownloadError(f"the {name} command is not installed")
    try:
        return subprocess.Popen(
            [command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except (
        OSError
    ) as error:  # in a folder that was moved, the Python that a script names is gone
        raise DownloadError(
            f"the {name} command cannot be run ({error.strerror})"
        ) from error


def show_progress(archive: Path, size: int) -> tqdm:
    """Return a progress bar for the bytes of `archive`, which will have about `size`."""
    return tqdm(
        initial=size_of(archive),
        total=size,
        unit="B",
        unit_scale=True,
        desc="Downloading",
        file=sys.stdout,
    )


def tell_reason(text: str) -> str:
    """Return a reason in one line, without anything as long as a key."""
    return re.sub(r"[\w-]{24,}", "…", text)[:150]


def download_with_kaggle(address: str, archive: Path, size: int, silence: float = 120):
    """Download, or go on, with the `kaggle` command and whatever credentials it finds or none; it finds address and name itself.

    It tries again by itself, but waits for a silent server for ever: after `silence` seconds without a byte it is ended.
    """
    process = start_program(
        "kaggle", ["datasets", "download", ChestXray.slug, "-p", str(archive.parent)]
    )
    said, errors, heard = (
        b"",
        f"silent for {silence} seconds".encode(),
        time.monotonic(),
    )
    with process, show_progress(archive, size) as bar:
        try:
            while process.returncode is None and time.monotonic() - heard < silence:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said, errors = process.communicate(timeout=0.2)
                grown = size_of(archive) - bar.n
                bar.update(grown)
                heard = time.monotonic() if grown else heard
        finally:
            process.kill()
    if process.returncode != 0:
        lines = [
            *said.decode(errors="replace").splitlines()[:1],
            *errors.decode(errors="replace").splitlines(),
        ]
        raise DownloadError(
            f"kaggle: {tell_reason(([line for line in lines if line.strip()] or ['it gave no reason'])[-1])}"
        )
    if is_part(archive):  # interrupted, it reports no failure
        raise DownloadError("kaggle: cut off; run this again to go on from there")


def run_curl(
    address: str, archive: Path, size: int, silence: int
) -> tuple[int, str, str]:
    """Append to `archive` what it lacks; return (exit code, "HTTP code, kind of content", the reason why it failed).

    What arrives goes through this process, so that a `curl` whose parent was killed ends as well.
    """
    arguments = [
        *("--fail", "--location", "--silent", "--show-error"),
        *("--continue-at", str(size_of(archive)), "--connect-timeout", str(silence)),
        *("--speed-limit", "1", "--speed-time", str(silence)),  # ends what is silent
        *("--write-out", "%{stderr}\n%{http_code} %{content_type}", address),
    ]
    with start_program("curl", arguments) as curl, show_progress(archive, size) as bar:
        assert curl.stdout and curl.stderr
        try:
            with wrap_os_errors(archive.parent), archive.open("ab") as file:
                while block := curl.stdout.read(1 << 16):
                    file.write(block)
                    bar.update(len(block))
            *lines, answer = curl.stderr.read().decode(errors="replace").split("\n")
        except BaseException:
            curl.kill()
            raise
    reasons = [line for line in lines if line.startswith("curl: ")]
    return (
        curl.returncode,
        answer,
        tell_reason(reasons[-1] if reasons else "curl: it gave no reason"),
    )


def download_with_curl(
    address: str, archive: Path, size: int, pauses=(2, 8, 30), silence: int = 60
):
    """Download with the `curl` command, going on from what is already in `archive`; raise DownloadError or StorageError.

    What another try may cure is tried again after each of the pauses (in seconds; progress of a megabyte starts them over).
    """
    # Not curl's own --retry, which begins each time where this call began: a broken connection would cost what has arrived.
    left = list(pauses)
    while not zipfile.is_zipfile(archive):
        before = size_of(archive)
        code, answer, reason = run_curl(address, archive, size, silence)
        if code == 0 or answer.startswith(
            "416"
        ):  # asked for bytes beyond the end: everything is here
            return check_archive(archive)
        if (
            code == 33
        ):  # "200 OK", though asked to go on: a page, for which the part stays, or the archive from its beginning
            if not re.search("zip|octet", answer):
                raise DownloadError("what arrived is no zip archive")
            print("The server cannot go on from the part that is here: starting over.")
            archive.unlink()
            continue
        left = list(pauses) if size_of(archive) > before + 1e6 else left
        again = not re.match("4(?!08|29)", answer)
        if not again or not left:
            raise DownloadError(
                f"{reason}{'; run this again to go on from there' if again else ''}"
            )
        print(f"{reason}: trying again in {left[0]} s.")
        time.sleep(left.pop(0))


def wait_for_others(archive: Path):
    """Return when `archive` does not grow: the downloader of a process that was killed may live on for a moment."""
    before = -1
    while archive.exists() and before != (before := size_of(archive)):
        time.sleep(2)


def is_part(archive: Path) -> bool:
    """Say whether a file begins as a zip archive but lacks its end."""
    if not archive.exists() or zipfile.is_zipfile(archive):
        return False
    with archive.open("rb") as file:
        return file.read(2) == b"PK"


def check_archive(archive: Path, sha256: str = ""):
    """Raise BadArchive unless the file is a zip archive that has its end and, if one is given, this SHA-256."""
    if not zipfile.is_zipfile(archive):
        raise BadArchive(
            f"what arrived is no {'whole ' if is_part(archive) else ''}zip archive"
        )
    with archive.open("rb") as file:
        digest = hashlib.sha256()
        while sha256 and (block := file.read(1 << 22)):
            digest.update(block)
    if sha256 not in ("", digest.hexdigest()):
        raise BadArchive("its SHA-256 is not that of the original")


def choose_members(source: zipfile.ZipFile, size: int) -> list:
    """Return [(member, path)] of the wanted tree in an open zip archive of `size` bytes; raise BadArchive if anything means harm."""
    # Not the nested copy chest_xray/chest_xray, nor what a Mac leaves behind.
    wanted = re.compile(
        r"chest_xray/((?:train|val|test)/(?:NORMAL|PNEUMONIA)/[^/.][^/]*\.(?i:jpe?g|png))"
    )
    for member in source.infolist():
        parts = member.orig_filename.replace("\\", "/").split("/")
        harms = {
            "a name that points outside the folder": ".." in parts
            or parts[0] == ""
            or parts[0].endswith(":"),
            "a symbolic link": stat.S_ISLNK(member.external_attr >> 16),
            "a file packed in an unusual way": member.compress_type
            not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            "a file out of proportion": member.file_size
            > 1e6 + 50 * member.compress_size,
        }
        for harm in (harm for harm, is_there in harms.items() if is_there):
            raise BadArchive(f"it holds {harm}, {member.orig_filename[:80]!r}")
    chosen = [
        (member, match[1])
        for member in source.infolist()
        if (match := wanted.fullmatch(member.filename))
    ]
    if sum(member.file_size for member, _ in chosen) > 1e6 + 20 * size:
        raise BadArchive("its files are out of proportion")
    return chosen


def extract_archive(archive: Path, folder: Path, expected: list):
    """Extract the wanted tree of the archive into `folder`, all or nothing; what is in `folder` already is kept aside.

    `expected`: a list of {"split/CLASS": count}, one of which must be met. Raises BadArchive if the archive is corrupt or
    holds something else, StorageError if it cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as source:
            for member, path in tqdm(
                choose_members(source, size_of(archive)),
                desc="Extracting",
                file=sys.stdout,
                mininterval=1,
            ):
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                with (
                    source.open(member) as content
                ):  # a byte more than announced: no more is unpacked, and the CRC is checked
                    (unfinished / path).write_bytes(content.read(member.file_size + 1))
        counts = count_images(unfinished)
        if counts not in expected:
            listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise BadArchive(
                f"it holds {sum(counts.values()):,} images of the wanted tree ({listed})"
            )
        if folder.exists():
            folder.rename(
                folder.with_name(f"{folder.name}.incomplete-{time.time_ns()}")
            )
        unfinished.rename(folder)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise BadArchive(f"it is corrupt ({error})") from error
    except OSError as error:
        corrupt = error.errno in (
            errno.EINVAL,
            errno.ENAMETOOLONG,
        )  # a place before the file's beginning, a name too long
        raise (
            BadArchive(f"it is corrupt ({error.strerror})")
            if corrupt
            else as_storage_error(folder.parent, error)
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def list_sources(folder: Path) -> list:
    """Return [(name, address, archive, function that fetches it)] in the order in which to try them; no address: it is the user's."""
    own = folder.with_name(f".{folder.name}.download")
    kaggle, mendeley = (
        own / f"{ChestXray.slug.split('/')[1]}.zip",
        own / "ChestXRay2017.zip",
    )
    lying = [
        folder.with_name(name) for name in (kaggle.name, mendeley.name, "archive.zip")
    ]
    return [
        *(
            (f"the archive {archive}", None, archive, None)
            for archive in lying
            if archive.is_file()
        ),
        ("the kaggle command", ChestXray.kaggle_address, kaggle, download_with_kaggle),
        (
            "Kaggle's public address",
            ChestXray.kaggle_address,
            kaggle,
            download_with_curl,
        ),
        (
            "the original at Mendeley",
            ChestXray.mendeley_address,
            mendeley,
            download_with_curl,
        ),
    ]


def get_from_source(
    folder: Path, online: list, address: str | None, archive: Path, fetch
):
    """Make `folder` from one source; raise DownloadError or StorageError. A bad archive is removed, unless it is the user's."""
    original = address == ChestXray.mendeley_address
    size = ChestXray.mendeley_bytes if original else ChestXray.kaggle_bytes
    missing = address and not zipfile.is_zipfile(archive)
    if missing and address not in online:
        raise DownloadError("cannot be reached from here")
    check_free_space(
        folder.parent,
        ChestXray.tree_bytes + max(0, size - size_of(archive)) * bool(missing),
    )
    try:
        if missing:
            archive.parent.mkdir(exist_ok=True)
            wait_for_others(archive)
            fetch(address, archive, size)
        check_archive(archive, ChestXray.mendeley_sha256 if original else "")
        extract_archive(archive, folder, [ChestXray.counts, ChestXray.mendeley_counts])
    except BadArchive as error:
        if address:
            archive.unlink(missing_ok=True)
        raise DownloadError(
            f"{error}; {'it was removed' if address else 'it was left where it is'}"
        ) from error


def download_data(folder: Path, keep_archive: bool = False, seconds: float = 8):
    """Make `folder` hold the whole data set, from the first source that gives it; do nothing if it does already.

    A download that was cut off is gone on with. The archive is removed in the end, or moved beside `folder` (`keep_archive`).
    `seconds`: how long to wait for a sign of life. Raises DownloadError if no source gives it, StorageError if it cannot be stored.
    """
    folder = Path(folder)
    if is_whole(folder):
        return
    online = reachable([ChestXray.kaggle_address, ChestXray.mendeley_address], seconds)
    if not online and not any(
        address is None or zipfile.is_zipfile(archive)
        for _, address, archive, _ in list_sources(folder)
    ):
        raise DownloadError("neither Kaggle nor Mendeley can be reached from here")
    prepare_folder(folder.parent, "The folder for the data,")
    with lock_folder(folder.parent, f"getting data into {folder.parent}"):
        if is_whole(folder):  # another process was faster
            return
        problem: Exception = DownloadError(
            "no source gave the data set (reasons above)"
        )
        for name, address, archive, fetch in list_sources(folder):
            try:
                get_from_source(folder, online, address, archive, fetch)
            except (DownloadError, OSError) as error:
                print(f"{name}: {error}.")
                problem = error if isinstance(error, StorageError) else problem
                continue
            if address and keep_archive:
                archive.replace(folder.with_name(archive.name))
            return shutil.rmtree(
                folder.with_name(f".{folder.name}.download"), ignore_errors=True
            )
        raise problem


def main():
    """Get the data from the command line."""
    import argparse

    parser = argparse.ArgumentParser(
        "download_data.sh",
        allow_abbrev=False,
        description=(
            "Download the data set paultimothymooney/chest-xray-pneumonia into DIR: the kaggle command, Kaggle's public address and Mendeley's "
            "(version 3: no val folder, other file names, other healthy films in test) are tried in turn, none needs an account. One that was "
            "cut off goes on. It takes about 4 GB of disk."
        ),
        epilog="Exit code: 0 only if DIR holds the whole, checked data set.",
    )
    parser.add_argument(
        "DIR",
        nargs="?",
        type=Path,
        default=Path("data/chest_xray"),
        help="default: %(default)s",
    )
    parser.add_argument(
        "--keep-archive",
        action="store_true",
        help="keep the zip beside DIR (2.5 GB), where the next download finds it",
    )
    options = parser.parse_args()
    folder = options.DIR.absolute()
    try:
        if is_whole(folder):
            return print(f"{folder} is complete: nothing to download.")
        download_data(folder, options.keep_archive)
    except (DownloadError, StorageError) as error:
        sys.exit(f"download_data.sh: {error}.")
    except KeyboardInterrupt:
        sys.exit("\ndownload_data.sh: interrupted; run it again to go on from there.")
    print(f"{folder}: {sum(count_images(folder).values()):,} images, checked.")


if __name__ == "__main__":
    main()
