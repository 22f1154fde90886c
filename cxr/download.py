"""Downloading the data set into a folder, completely or not at all."""

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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
    """A source did not provide the data set; the message gives the reason in a line."""


class BadArchive(DownloadError):
    """The downloaded file is not the data set, or not all of it."""


class Source(NamedTuple):
    """A place to get the data set from."""

    name: str
    address: str | None  # None: the archive is the user's own
    archive: Path
    fetch: Callable[[str, Path, int], None] | None


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def reachable_addresses(addresses: Sequence[str], timeout: float = 8) -> list[str]:
    """Return the addresses that respond at all within `timeout` seconds.

    Any response counts, a refusal as well. Without curl all addresses are returned.
    """
    if not shutil.which("curl"):
        return list(addresses)
    command = ["curl", "--silent", "--head", "--output", os.devnull]
    command += ["--max-time", str(timeout)]
    requests = [subprocess.Popen([*command, address]) for address in addresses]
    return [
        address
        for address, request in zip(addresses, requests, strict=True)
        if request.wait() == 0
    ]


def start_program(name: str, arguments: list[str]) -> subprocess.Popen:
    """Start a program, preferably the one beside this Python.

    Raises
    ------
    DownloadError
        If the program is not installed or cannot be started.
    """
    beside_python = str(Path(sys.executable).parent)
    command = shutil.which(name, path=beside_python) or shutil.which(name)
    if command is None:
        raise DownloadError(f"the {name} command is not installed")
    try:
        return subprocess.Popen(
            [command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        # After an environment was moved, the Python that a script names is gone.
        raise DownloadError(
            f"the {name} command cannot be run ({error.strerror})"
        ) from error


def open_progress_bar(archive: Path, size: int) -> tqdm:
    """Return a progress bar for `archive`, which will have about `size` bytes."""
    return tqdm(
        initial=file_size(archive),
        total=size,
        unit="B",
        unit_scale=True,
        desc="Downloading",
        file=sys.stdout,
    )


def one_line_reason(text: str) -> str:
    """Return an error message in one line, without anything as long as a key."""
    return re.sub(r"[\w-]{24,}", "…", text)[:150]


def download_with_kaggle(
    address: str, archive: Path, size: int, stall_timeout: float = 120
) -> None:
    """Download with the `kaggle` command, or resume a download.

    The command uses the credentials that it finds, or none. It retries by itself, but
    would wait forever for a silent server.

    Parameters
    ----------
    address : str
        Not used: the command knows it.
    archive : Path
        Where the archive is stored; its name is chosen by the command.
    size : int
        Expected size in bytes.
    stall_timeout : float
        Seconds without a byte after which the command is ended.

    Raises
    ------
    DownloadError
    """
    arguments = ["datasets", "download", ChestXray.slug, "-p", str(archive.parent)]
    process = start_program("kaggle", arguments)
    output = b""
    errors = f"silent for {stall_timeout} seconds".encode()
    last_growth = time.monotonic()
    with process, open_progress_bar(archive, size) as progress:
        try:
            while (
                process.returncode is None
                and time.monotonic() - last_growth < stall_timeout
            ):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    output, errors = process.communicate(timeout=0.2)
                growth = file_size(archive) - progress.n
                progress.update(growth)
                if growth:
                    last_growth = time.monotonic()
        finally:
            process.kill()
    if process.returncode != 0:
        lines = output.decode(errors="replace").splitlines()[:1]
        lines += errors.decode(errors="replace").splitlines()
        reasons = [line for line in lines if line.strip()] or ["it gave no reason"]
        raise DownloadError(f"kaggle: {one_line_reason(reasons[-1])}")
    if is_partial_zip(archive):  # an interrupted command reports success
        raise DownloadError("kaggle: interrupted; run this again to resume")


def run_curl(
    address: str, archive: Path, size: int, stall_timeout: int
) -> tuple[int, str, str]:
    """Append to `archive` the bytes that are missing, with the `curl` command.

    The bytes pass through this process, so that curl ends when this process is killed.

    Returns
    -------
    exit_code : int
    response : str
        "HTTP status, content type".
    reason : str
        The error message of curl, if there is one.
    """
    arguments = [
        *("--fail", "--location", "--silent", "--show-error"),
        *("--continue-at", str(file_size(archive))),
        *("--connect-timeout", str(stall_timeout)),
        *("--speed-limit", "1", "--speed-time", str(stall_timeout)),
        *("--write-out", "%{stderr}\n%{http_code} %{content_type}", address),
    ]
    curl = start_program("curl", arguments)
    with curl, open_progress_bar(archive, size) as progress:
        assert curl.stdout and curl.stderr
        try:
            with wrap_os_errors(archive.parent), archive.open("ab") as file:
                while block := curl.stdout.read(1 << 16):
                    file.write(block)
                    progress.update(len(block))
            *lines, response = curl.stderr.read().decode(errors="replace").split("\n")
        except BaseException:
            curl.kill()
            raise
    errors = [line for line in lines if line.startswith("curl: ")]
    reason = errors[-1] if errors else "curl: it gave no reason"
    return curl.returncode, response, one_line_reason(reason)


def download_with_curl(
    address: str,
    archive: Path,
    size: int,
    pauses: Sequence[float] = (2, 8, 30),
    stall_timeout: int = 60,
) -> None:
    """Download with the `curl` command, resuming from what `archive` already holds.

    Failures that may be temporary are retried.

    Parameters
    ----------
    address : str
    archive : Path
    size : int
        Expected size in bytes.
    pauses : sequence of float
        Seconds to wait before each retry; after a megabyte of progress, the retries
        start over.
    stall_timeout : int
        Seconds without a byte after which a try fails.

    Raises
    ------
    DownloadError, StorageError
    """
    # curl's own --retry starts again at the byte where curl was started, so a broken
    # connection would lose what has arrived since.
    remaining_pauses = list(pauses)
    while not zipfile.is_zipfile(archive):
        size_before = file_size(archive)
        exit_code, response, reason = run_curl(address, archive, size, stall_timeout)
        # Status 416, "range not satisfiable": nothing is missing.
        if exit_code == 0 or response.startswith("416"):
            check_archive(archive)
            return
        if exit_code == 33:
            # The server does not resume: it sends a web page, for which the partial
            # archive must not be lost, or the archive from its beginning.
            if not re.search("zip|octet", response):
                raise DownloadError("what arrived is not a zip archive")
            print("The server does not support resuming: starting over.")
            archive.unlink()
            continue
        if file_size(archive) > size_before + 1e6:
            remaining_pauses = list(pauses)
        # Client errors are final, but for 408 (timeout) and 429 (too many requests).
        may_be_temporary = not re.match("4(?!08|29)", response)
        if not may_be_temporary:
            raise DownloadError(reason)
        if not remaining_pauses:
            raise DownloadError(f"{reason}; run this again to resume")
        pause = remaining_pauses.pop(0)
        print(f"{reason}: trying again in {pause} s.")
        time.sleep(pause)


def wait_until_stable(archive: Path) -> None:
    """Wait until a file stops growing.

    The download command of a process that was killed may live on for a moment.
    """
    previous_size = -1
    while archive.exists():
        size = file_size(archive)
        if size == previous_size:
            return
        previous_size = size
        time.sleep(2)


def is_partial_zip(archive: Path) -> bool:
    """Return whether a file begins as a zip archive but lacks its end."""
    if not archive.exists() or zipfile.is_zipfile(archive):
        return False
    with archive.open("rb") as file:
        return file.read(2) == b"PK"


def check_archive(archive: Path, sha256: str = "") -> None:
    """Check that a file is a zip archive with its end and, if given, this SHA-256.

    Raises
    ------
    BadArchive
    """
    if not zipfile.is_zipfile(archive):
        kind = "a whole zip archive" if is_partial_zip(archive) else "a zip archive"
        raise BadArchive(f"what arrived is not {kind}")
    if not sha256:
        return
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise BadArchive("its SHA-256 is not that of the original")


def check_member(member: zipfile.ZipInfo) -> None:
    """Raise BadArchive if an entry of an archive could do harm when it is extracted."""
    parts = member.orig_filename.replace("\\", "/").split("/")
    is_outside = ".." in parts or parts[0] == "" or parts[0].endswith(":")
    common_methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    harms = {
        "a name that points outside the folder": is_outside,
        "a symbolic link": stat.S_ISLNK(member.external_attr >> 16),
        "a file with an unusual compression": (
            member.compress_type not in common_methods
        ),
        "a file that is out of proportion": (
            member.file_size > 1e6 + 50 * member.compress_size
        ),
    }
    for harm, is_present in harms.items():
        if is_present:
            raise BadArchive(f"it holds {harm}, {member.orig_filename[:80]!r}")


def select_members(
    source: zipfile.ZipFile, archive_size: int
) -> list[tuple[zipfile.ZipInfo, str]]:
    """Return [(member, path to extract it to)] of the images in an open archive.

    Raises
    ------
    BadArchive
        If any member could do harm.
    """
    # Without the nested copy chest_xray/chest_xray and the files that macOS adds.
    image_path = re.compile(
        r"chest_xray/((?:train|val|test)/(?:NORMAL|PNEUMONIA)"
        r"/[^/.][^/]*\.(?i:jpe?g|png))"
    )
    members = source.infolist()
    for member in members:
        check_member(member)
    selected = [
        (member, match[1])
        for member in members
        if (match := image_path.fullmatch(member.filename))
    ]
    total = sum(member.file_size for member, _ in selected)
    if total > 1e6 + 20 * archive_size:
        raise BadArchive("its files are out of proportion")
    return selected


def extract_members(archive: Path, folder: Path) -> None:
    """Extract the images of an archive into a new folder."""
    with zipfile.ZipFile(archive) as source:
        members = select_members(source, file_size(archive))
        for member, path in tqdm(
            members, desc="Extracting", file=sys.stdout, mininterval=1
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with source.open(member) as content:
                # Reading one byte more than announced checks the CRC, and extracts no
                # more than was announced.
                (folder / path).write_bytes(content.read(member.file_size + 1))


def extract_archive(
    archive: Path, folder: Path, expected: Sequence[Mapping[str, int]]
) -> None:
    """Extract the images of an archive into `folder`, all of them or none.

    A folder that exists already is renamed and kept.

    Parameters
    ----------
    archive, folder : Path
    expected : sequence of {"split/CLASS": number of images}
        One of these must be met.

    Raises
    ------
    BadArchive
        If the archive is corrupt, or holds something else.
    StorageError
        If the images cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        extract_members(archive, unfinished)
        counts = count_images(unfinished)
        if counts not in expected:
            listed = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            raise BadArchive(
                f"it holds {sum(counts.values()):,} images of the data set ({listed})"
            )
        if folder.exists():
            aside = folder.with_name(f"{folder.name}.incomplete-{time.time_ns()}")
            folder.rename(aside)
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
        # A position before the beginning of the file, or a name that is too long.
        if error.errno in (errno.EINVAL, errno.ENAMETOOLONG):
            raise BadArchive(f"it is corrupt ({error.strerror})") from error
        raise as_storage_error(folder.parent, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def list_sources(folder: Path) -> list[Source]:
    """Return the sources in the order in which to try them.

    First come archives that the user has put beside `folder`.
    """
    downloads = folder.with_name(f".{folder.name}.download")
    kaggle_archive = downloads / f"{ChestXray.slug.split('/')[1]}.zip"
    mendeley_archive = downloads / "ChestXRay2017.zip"
    sources = []
    for name in (kaggle_archive.name, mendeley_archive.name, "archive.zip"):
        archive = folder.with_name(name)
        if archive.is_file():
            sources.append(Source(f"the archive {archive}", None, archive, None))
    sources += [
        Source(
            "the kaggle command",
            ChestXray.kaggle_address,
            kaggle_archive,
            download_with_kaggle,
        ),
        Source(
            "Kaggle's public address",
            ChestXray.kaggle_address,
            kaggle_archive,
            download_with_curl,
        ),
        Source(
            "the original at Mendeley",
            ChestXray.mendeley_address,
            mendeley_archive,
            download_with_curl,
        ),
    ]
    return sources


def fetch_from_source(folder: Path, source: Source, reachable: Sequence[str]) -> None:
    """Create `folder` from one source, whose address must be among `reachable`.

    A bad archive is removed, unless it is the user's own.

    Raises
    ------
    DownloadError, StorageError
    """
    archive = source.archive
    is_original = source.address == ChestXray.mendeley_address
    size = ChestXray.mendeley_bytes if is_original else ChestXray.kaggle_bytes
    must_fetch = source.address is not None and not zipfile.is_zipfile(archive)
    if must_fetch and source.address not in reachable:
        raise DownloadError("cannot be reached from here")
    missing_bytes = max(0, size - file_size(archive)) if must_fetch else 0
    check_free_space(folder.parent, ChestXray.tree_bytes + missing_bytes)
    try:
        if must_fetch:
            assert source.address and source.fetch
            archive.parent.mkdir(exist_ok=True)
            wait_until_stable(archive)
            had, since = file_size(archive), time.monotonic()
            source.fetch(source.address, archive, size)
            print(
                f"Downloaded {(file_size(archive) - had) / 1e6:,.0f} MB from "
                f"{source.name} in {(time.monotonic() - since) / 60:.1f} minutes."
            )
        check_archive(archive, ChestXray.mendeley_sha256 if is_original else "")
        extract_archive(archive, folder, [ChestXray.counts, ChestXray.mendeley_counts])
    except BadArchive as error:
        if source.address is None:
            raise DownloadError(f"{error}; it was left where it is") from error
        archive.unlink(missing_ok=True)
        raise DownloadError(f"{error}; it was removed") from error


def download_data(folder: Path, keep_archive: bool = False, timeout: float = 8) -> None:
    """Make `folder` hold the whole data set, from the first source that provides it.

    Nothing is done if it does already. An interrupted download is resumed.

    Parameters
    ----------
    folder : Path
    keep_archive : bool
        Whether to move the archive beside `folder` in the end, instead of removing it.
    timeout : float
        Seconds to wait for a response of the sources.

    Raises
    ------
    DownloadError
        If no source provides the data set.
    StorageError
        If it cannot be stored.
    """
    folder = Path(folder)
    if is_whole(folder):
        return
    reachable = reachable_addresses(
        [ChestXray.kaggle_address, ChestXray.mendeley_address], timeout
    )
    has_archive = any(
        source.address is None or zipfile.is_zipfile(source.archive)
        for source in list_sources(folder)
    )
    if not reachable and not has_archive:
        raise DownloadError("neither Kaggle nor Mendeley can be reached from here")
    prepare_folder(folder.parent, "The folder for the data,")
    with lock_folder(folder.parent, f"getting data into {folder.parent}"):
        if is_whole(folder):  # another process was faster
            return
        problem: Exception = DownloadError(
            "no source provided the data set (reasons above)"
        )
        for source in list_sources(folder):
            try:
                fetch_from_source(folder, source, reachable)
            except (DownloadError, OSError) as error:
                print(f"{source.name}: {error}.")
                if isinstance(error, StorageError):
                    problem = error
                continue
            if source.address and keep_archive:
                source.archive.replace(folder.with_name(source.archive.name))
            downloads = folder.with_name(f".{folder.name}.download")
            shutil.rmtree(downloads, ignore_errors=True)
            return
        raise problem


def main() -> None:
    """Download the data set from the command line."""
    import argparse

    parser = argparse.ArgumentParser(
        "download_data.sh",
        allow_abbrev=False,
        description=(
            "Download the data set paultimothymooney/chest-xray-pneumonia into DIR. "
            "These sources are tried in turn: the kaggle command, Kaggle's public "
            "address, and Mendeley (version 3: no val folder, other file names, other "
            "NORMAL test images). None of them needs an account. An interrupted "
            "download is resumed. About 4 GB of disk are needed."
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
            print(f"{folder} is complete: nothing to download.")
            return
        download_data(folder, options.keep_archive)
    except (DownloadError, StorageError) as error:
        sys.exit(f"download_data.sh: {error}.")
    except KeyboardInterrupt:
        sys.exit("\ndownload_data.sh: interrupted; run it again to resume.")
    print(f"{folder}: {sum(count_images(folder).values()):,} images, checked.")


if __name__ == "__main__":
    main()
