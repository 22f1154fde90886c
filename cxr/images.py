"""Radiographs as arrays: one film read, a folder loaded, and what was read kept in a cache."""

import contextlib
import hashlib
import inspect
import io
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from cxr.storage import (
    StorageError,
    check_free_space,
    lock_folder,
    prepare_folder,
    wrap_os_errors,
)

STDERR_LOCK = threading.RLock()


def read_bytes(path: str | Path) -> bytes:
    """Return what a file holds; raise ValueError if that is nothing, or only points to the picture."""
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ValueError("the file is empty")
    if data.startswith((b"version https://git-lfs", b"/annex/objects/")):
        raise ValueError(
            "a pointer in place of the picture, which `git lfs pull` (or `git annex get`) fetches"
        )
    return data


def format_read_error(error: Exception, path: str | Path) -> str:
    """Return in one line why a file could not be read."""
    if os.path.islink(path) and not os.path.exists(path):
        return "a broken link: what it points to is not there (`git annex get` or `dvc pull` may fetch it)"
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a known kind"
    if isinstance(error, MemoryError):
        return "MemoryError: there is too little memory to decode it"
    text = (
        re.sub(r" ?<[^<>]* at 0x\w+>", "", str(error)).strip() or type(error).__name__
    )
    return text.splitlines()[0][:120]


def detect_format(data: bytes) -> str:
    """Return in words what data are that are no picture, or one of a kind that Pillow does not read; "" if that is unknown."""
    start = data[:512].lstrip().lower()
    found = {
        "a DICOM file": data[128:132] == b"DICM"
        or data[:2] in (b"\2\0", b"\x08\0"),  # with its preamble or without
        "a HEIC or AVIF picture": data[4:8] == b"ftyp"
        and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif"),
        "a NIfTI file": data[344:348] in (b"n+1\0", b"ni1\0"),
        "a NRRD file": data.startswith(b"NRRD"),
        "a NumPy array": data.startswith(b"\x93NUMPY"),
        "a PDF file": start.startswith(b"%pdf"),
        "a zip archive": data.startswith(b"PK\3\4"),
        "a gzip archive (a compressed NIfTI file, for example)": data.startswith(
            b"\x1f\x8b"
        ),
        "a web page": start.startswith((b"<!doctype html", b"<html")),
        "an SVG drawing": start.startswith(b"<svg")
        or (start.startswith(b"<?xml") and b"<svg" in start),
    }
    return next((name for name, holds in found.items() if holds), "")


def read_jpeg_header(data: bytes) -> tuple[int, int, bool] | None:
    """Return (width, height, whether it is in color) of a gray or color JPEG of 8 bits, None of other data.

    See ISO/IEC 10918-1, annex B; this is 20 × as fast as Pillow.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 < len(data) and data[at] == 0xFF:
        marker, length, bits, height, width, channels = struct.unpack_from(
            ">xBHBHHB", data, at
        )
        if 0xC0 <= marker <= 0xC2:
            return (
                (width, height, channels == 3)
                if bits == 8 and channels in (1, 3) and width and height
                else None
            )
        at += 2 + length
    return None


def decode_with_pillow(stored: Image.Image) -> np.ndarray:
    """Decode any picture that Pillow has opened (PNG, palette, RGBA, CMYK, 10 to 16 bits, rotated …); return uint8 (height, width)."""
    deep = any(";16" in str(tile) for tile in getattr(stored, "tile", ()))
    stored.load()  # raises OSError if the data end too early
    picture = ImageOps.exif_transpose(stored)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(
                f"pixel values of mode {picture.mode} out of the range 0 to 65,535"
            )
        white = next(
            2**bits - 1 for bits in (8, 10, 12, 14, 16) if values.max() < 2**bits
        )  # 12 bits are often stored in 16
        inverted = (
            getattr(stored, "tag_v2", {}).get(262) == 0
        )  # TIFF's "minimum is white", which Pillow minds up to 8 bits only
        return np.round(
            (white - values if inverted else values) * (255 / white)
        ).astype(np.uint8)
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA"):
        picture = Image.alpha_composite(
            Image.new("RGBA", picture.size, "black"), picture.convert("RGBA")
        )
    gray = np.asarray(picture.convert("L"))
    if deep and gray.max() < 64:  # of each 16 bits Pillow keeps the upper 8
        raise ValueError(
            "a color picture of 16 bits that uses only the darkest quarter of them: save it as gray levels"
        )
    return gray


@contextlib.contextmanager
def capture_decoder_messages():
    """Give, while it lasts, the number of a file that holds what goes to stderr: there only libjpeg says that data are damaged."""
    with STDERR_LOCK, tempfile.TemporaryFile() as heard:
        stderr = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            yield heard.fileno()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            heard.seek(0)
            os.write(2, b"".join(line for line in heard if b" JPEG " not in line))


class FileInfo(NamedTuple):
    """What an image file says about itself: everything that later sections ask of it."""

    width: int  # of the upright image, in pixels
    height: int
    bytes: int  # size of the file
    color: bool  # whether it stores colors, even if all of them are gray


def decode(data: bytes, size: int) -> tuple[np.ndarray, int, FileInfo]:
    """Return (gray levels, uint8 (rows, columns); `by`; about the file): a picture, reduced `by` 1, 2, 4 or 8 while it is decoded."""
    # OpenCV 4 returns half a picture, and no error, where a JPEG is cut off: only one with an end marker goes to it.
    header = (
        read_jpeg_header(data) if data[-64:].rstrip(b"\0")[-2:] == b"\xff\xd9" else None
    )
    if header is None:
        try:
            stored = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            if found := detect_format(data):
                raise ValueError(
                    f"{found}, not an image that can be read here: convert it to PNG"
                ) from None
            raise
        with stored:
            color = Image.getmodebase(stored.mode) != "L"
            gray = decode_with_pillow(stored)
            if stored.format in (
                "JPEG",
                "MPO",
            ):  # Pillow hides what libjpeg says, see `capture_decoder_messages`
                cv2.imdecode(
                    np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8
                )
        return gray, 1, FileInfo(gray.shape[1], gray.shape[0], len(data), color)
    width, height, color = header
    reduced = {
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    }
    may_turn = b"\xff\xe1" in data  # an APP1 segment, where EXIF data lie
    for by in (8, 4, 2, 1):
        columns, rows = -(-width // by), -(-height // by)
        if by == 1:
            break
        if min(width, height) < by * size:
            continue
        # After turning, an edge that was rounded up may lie on any side.
        if may_turn and (width % by or height % by):
            continue
        if columns != rows or width == height:
            break
    decoded = cv2.imdecode(
        np.frombuffer(data, np.uint8), reduced.get(by, cv2.IMREAD_GRAYSCALE)
    )
    if decoded is None:
        raise ValueError("the JPEG data cannot be decoded")
    if decoded.shape != (rows, columns):  # turned upright, as its EXIF data say
        width, height = height, width
    return decoded, by, FileInfo(width, height, len(data), color)


def shrink(
    gray: np.ndarray, by: int, extent: tuple[int, int], wide: int, high: int
) -> np.ndarray:
    """Return a picture, uint8 (rows, columns), as uint8 (high, wide), each pixel the mean of those that it stands for.

    The decoder has reduced it `by` 1, 2, 4 or 8 from its `extent` (width, height), and rounded up to whole pixels.
    """
    (width, height), (rows, columns) = extent, gray.shape
    across, down = (
        width / by / wide,
        height / by / high,
    )  # pixels of `gray` for one of the result
    if (
        by > 1 and max(across, down) <= 2.5
    ):  # factors, not a size, so that what was rounded up lies beyond the edge
        return cv2.resize(
            gray, None, fx=1 / across, fy=1 / down, interpolation=cv2.INTER_LINEAR
        )[:high, :wide]
    gray = gray[: min(rows, round(height / by)), : min(columns, round(width / by))]
    return cv2.resize(
        gray,
        (wide, high),
        interpolation=cv2.INTER_AREA if min(across, down) >= 1 else cv2.INTER_LINEAR,
    )


def resize_to_square(
    gray: np.ndarray, by: int, extent: tuple[int, int], size: int, resize_mode: str
) -> np.ndarray:
    """Return a picture (see `shrink`) as uint8 (size, size): whole and stretched ("stretch"), between two black bars ("pad"), or its middle.

    The middle ("center_crop") is a square as wide as the shorter edge. Raises ValueError for another resize_mode.
    """
    if resize_mode == "stretch":
        return shrink(gray, by, extent, size, size)
    if resize_mode == "pad":
        wide, high = (max(1, round(size * length / max(extent))) for length in extent)
        return np.pad(
            shrink(gray, by, extent, wide, high),
            [(bars // 2, bars - bars // 2) for bars in (size - high, size - wide)],
        )
    if resize_mode != "center_crop":
        raise ValueError(
            f"there is no resize_mode {resize_mode!r}: choose squash, fit or crop"
        )
    side, flags = min(extent), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    step, edge = (
        (side / by / size, size)
        if by > 1 and side <= 2.5 * by * size
        else (1, -(-side // by))
    )  # 1: cut out now, shrunk below
    left, top = (
        (length - side) // 2 / by + step / 2 - 0.5 for length in extent
    )  # the first pixel's middle, which may lie between two
    middle = cv2.warpAffine(
        gray,
        np.array([[step, 0, left], [0, step, top]]),
        (edge, edge),
        flags=flags,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return shrink(middle, by, (side, side), size, size) if step == 1 else middle


def read_image(
    path: str | Path, size: int, resize_mode: str = "stretch"
) -> tuple[np.ndarray, FileInfo]:
    """Read one picture; return (uint8 (size, size), about the file: width, height, bytes, color).

    Raises OSError or ValueError, with the reason, for a file that is empty, truncated or no picture.
    """
    gray, by, about = decode(read_bytes(path), size)
    extent = about.width, about.height
    if min(extent) < 16:
        raise ValueError(f"{about.width} × {about.height} pixels are no film")
    return resize_to_square(gray, by, extent, size, resize_mode), about


def read_image_strict(
    path: str | Path, size: int, resize_mode: str = "stretch"
) -> tuple[np.ndarray, FileInfo]:
    """As `read_image`; raise ValueError for a JPEG, too, that libjpeg decodes but calls damaged. For one picture at a time."""
    with capture_decoder_messages() as heard:
        result = read_image(path, size, resize_mode)
        os.lseek(heard, 0, os.SEEK_SET)
        said = os.read(heard, 10_000)
    if damage := re.search(
        rb"Corrupt JPEG data: (?!\d extraneous bytes before marker 0xd9).*", said
    ):  # those few are harmless
        raise ValueError(damage[0].decode())
    return result


def read_images(
    folder: str | Path,
    paths: list[str],
    x: np.ndarray,
    description: str,
    resize_mode: str,
) -> list[tuple]:
    """Read pictures into `x`, uint8 (n, size, size, 1); return [(*FileInfo, problem or "")], n of them."""
    count = max(
        4, len(paths) // 500
    )  # at a time: a pool with many tasks to hand out may not notice Ctrl-C

    def read_some(numbers, read=read_image):
        for number in numbers:
            path, before = os.path.join(folder, paths[number]), os.fstat(heard).st_size
            try:
                x[number, :, :, 0], about = read(path, x.shape[1], resize_mode)
                rows[number] = (*about, "")
            except Exception as error:  # decoders raise all kinds, and each must be told with the file's name
                rows[number] = (*nothing, format_read_error(error, path))
            if os.fstat(heard).st_size > before:
                doubtful.append(number)
        return len(numbers)

    nothing = FileInfo(0, 0, 0, False)
    rows: list[tuple] = [(*nothing, "")] * len(paths)
    doubtful = list[int]()
    with (
        capture_decoder_messages() as heard,
        tqdm(
            total=len(paths), desc=description, file=sys.stdout, mininterval=0.5
        ) as bar,
    ):
        inner_threads, pool = cv2.getNumThreads(), ThreadPoolExecutor(os.cpu_count())
        cv2.setNumThreads(1)  # the pool keeps all cores busy already
        try:
            for done in pool.map(
                read_some,
                [
                    range(len(paths))[start : start + count]
                    for start in range(0, len(paths), count)
                ],
            ):
                bar.update(done)
            read_some(
                doubtful[:], read_image_strict
            )  # of those in work while something was said, in all threads, one is damaged
        finally:
            cv2.setNumThreads(inner_threads)
            pool.shutdown(cancel_futures=True)
    return rows


def first_readable_image(folder: str | Path, paths: list[str]) -> np.ndarray:
    """Return the first film that can be read, as it is, uint8 (rows, columns); raise ValueError, with a reason, if none can."""
    problems = []
    for path in paths:
        try:
            return decode(read_bytes(os.path.join(folder, path)), 10**6)[0]
        except Exception as error:
            problems.append(format_read_error(error, os.path.join(folder, path)))
    raise ValueError(
        f"None of the {len(paths):,} files in {folder} can be read. The first is {paths[0]}: {problems[0]}. "
        "Mend or replace the files, then run section 1 again."
    )


def cache_key(folder: str | Path, paths: list[str], size: int, resize_mode: str) -> str:
    """Return a text that changes when a file is added, removed, renamed, touched or replaced, and with the loader, size or resize_mode."""

    def look(path):
        try:
            seen = os.stat(os.path.join(folder, path))
        except OSError as error:
            return path, error.errno
        return path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino

    loader = (
        read_image,
        read_image_strict,
        read_bytes,
        read_jpeg_header,
        decode,
        decode_with_pillow,
        resize_to_square,
        shrink,
        read_images,
    )
    about = [
        size,
        resize_mode,
        cv2.__version__,
        Image.__version__,
        [inspect.getsource(one) for one in loader],
        [look(path) for path in paths],
    ]
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


def map_images(path: Path, count: int, size: int) -> np.ndarray:
    """Return uint8 (count, size, size, 1), read-only, mapped from a file."""
    return (
        np.asarray(np.memmap(path, np.uint8, "r", shape=(count, size, size, 1)))
        if count
        else np.zeros((0, size, size, 1), np.uint8)
    )


def open_cache(place: Path, stamp: str, size: int):
    """Return (x, rows) of a cache, or None if there is none, or it is out of date or damaged."""
    try:
        record = json.loads((place / "record.json").read_text(encoding="utf-8"))
        rows, images = record["rows"], place / "images.bin"
        x = map_images(images, sum(not problem for *_, problem in rows), size)
        whole = (
            record["stamp"] == stamp
            and images.stat().st_size == x.nbytes
            and zlib.crc32(x.data) == record["crc32"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (x, rows) if whole else None


def compact_readable(x: np.ndarray, rows: list) -> int:
    """Move the images that could be read to the front of `x`; return their number."""
    good = np.flatnonzero([not problem for *_, problem in rows])
    for start in range(0, len(good) if len(good) < len(rows) else 0, 1024):
        chosen = good[start : start + 1024]
        x[start : start + len(chosen)] = x[chosen]
    return len(good)


def fill_cache(
    place: Path,
    stamp: str,
    folder: str | Path,
    paths: list[str],
    size: int,
    description: str,
    resize_mode: str,
):
    """Read the pictures into a new cache, which appears when it is whole; return (x, rows)."""
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with wrap_os_errors(place.parent):
            unfinished.mkdir(parents=True)
            images, needed = unfinished / "images.bin", len(paths) * size**2
            check_free_space(unfinished, needed)
            with (
                images.open("wb") as file
            ):  # takes its room at once: a mapped file that meets a full disk ends the process
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, needed)
                else:
                    file.truncate(needed)
            x = np.memmap(images, np.uint8, "r+", shape=(len(paths), size, size, 1))
            rows = read_images(folder, paths, x, description, resize_mode)
            count = compact_readable(x, rows)
            total = zlib.crc32(x[:count].data)
            del x
            os.truncate(images, count * size**2)
            # Trouble of the disk, the network or the memory is worth another try.
            passing = any(
                problem.startswith(("[Errno", "MemoryError")) for *_, problem in rows
            )
            record = {"stamp": "" if passing else stamp, "crc32": total, "rows": rows}
            (unfinished / "record.json").write_text(
                json.dumps(record), encoding="utf-8"
            )
            for old in place.parent.glob(
                f"{place.stem}*"
            ):  # Windows keeps one that is mapped, hence a name of its own for each
                if old != unfinished:
                    shutil.rmtree(old, ignore_errors=True)
            unfinished.rename(place)
            return map_images(place / "images.bin", count, size), rows
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_cached(
    folder: str | Path,
    paths: list[str],
    size: int,
    description: str,
    cache_dir: Path,
    resize_mode: str,
):
    """Return (x, rows) from the cache in `cache_dir`, which is made first where it is missing; raise StorageError if it cannot be."""
    prepare_folder(cache_dir, "CACHE_DIR")
    digest = hashlib.blake2b(
        f"{Path(folder).resolve()} {description}".encode(), digest_size=4
    ).hexdigest()
    name = (
        f"{re.sub(r'[^a-z]+', '-', description.lower())}-{size}-{resize_mode}-{digest}"
    )
    with lock_folder(cache_dir, f"loading images into {cache_dir}"):
        stamp = cache_key(folder, paths, size, resize_mode)
        place = cache_dir / f"{name}.{stamp[:8]}"
        if found := open_cache(place, stamp, size):
            print(f"{description}: {len(found[0]):,} images from the cache")
            return found
        return fill_cache(place, stamp, folder, paths, size, description, resize_mode)


def load_into_memory(
    folder: str | Path, paths: list[str], size: int, description: str, resize_mode: str
):
    """Return (x, rows), without a cache; raise MemoryError, with advice, if the images, one byte a pixel, cannot fit."""
    needed = len(paths) * size**2
    try:
        # Linux and macOS grant more memory than there is, and end the process that uses it; Windows, which tells no size, refuses.
        if hasattr(os, "sysconf") and needed > 0.7 * os.sysconf(
            "SC_PAGE_SIZE"
        ) * os.sysconf("SC_PHYS_PAGES"):
            raise MemoryError
        x = np.zeros((len(paths), size, size, 1), np.uint8)
    except MemoryError:
        raise MemoryError(
            f"{len(paths):,} images of {size} × {size} pixels take {needed / 1e9:.1f} GB, more than this machine can give: "
            "set CACHE_DIR to a folder with that much room, or choose a smaller IMAGE_SIZE."
        ) from None
    rows = read_images(folder, paths, x, description, resize_mode)
    x = x[: compact_readable(x, rows)]
    x.flags.writeable = False
    return x, rows


def load_split(
    folder: str | Path,
    files: pd.DataFrame,
    size: int,
    description: str,
    cache_dir: str | Path | None = None,
    resize_mode: str = "stretch",
):
    """Load the listed files as squares made by `resize_mode` (see `resize_to_square`); return (x, files, broken).

    `x` is uint8 (n, size, size, 1), read-only, and mapped from `cache_dir` if that is given. `files` has a row for each of its
    images, with width and height of the original, bytes and color of its file (see `FileInfo`); `broken` one for each file that
    could not be read, with the problem.
    Raises MemoryError if the images fit neither into `cache_dir` nor into memory.
    """
    paths, found = files.path.tolist(), None
    if cache_dir and paths:
        try:
            found = load_cached(
                folder, paths, size, description, Path(cache_dir), resize_mode
            )
        except StorageError as error:
            print(f"No cache: {error}. The images are kept in memory.")
    x, rows = found or load_into_memory(folder, paths, size, description, resize_mode)
    kinds = {"width": int, "height": int, "bytes": int, "color": bool}
    seen = pd.DataFrame(rows, columns=[*kinds, "problem"]).astype(
        kinds
    )  # also where there are none
    table = files.reset_index(drop=True).join(seen)
    good = table.problem == ""
    return (
        x,
        table[good].drop(columns="problem").reset_index(drop=True),
        table.loc[~good, ["path", "problem"]],
    )


def describe_arrays(**sets: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    """Return a table of {name: (x, y)}: what the arrays are, what they take, and how many of them are PNEUMONIA."""
    return pd.DataFrame(
        {
            name: {
                "x": f"{x.shape} {x.dtype}",
                "memory": f"{x.nbytes / 1e6:.1f} MB",
                "y": f"{y.shape} {y.dtype}",
                "class 1, PNEUMONIA": f"{y.sum():,} of {len(y):,}",
            }
            for name, (x, y) in sets.items()
        }
    ).T
