"""Radiographs as arrays: one film read, a folder loaded, and what was read kept in a cache."""

import hashlib
import inspect
import io
import json
import os
import re
import shutil
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from cxr.dataset import (
    decode_odd,
    explain,
    hear_decoder,
    measure_jpeg,
    name_format,
    read_file,
)
from cxr.storage import (
    StorageError,
    hold_lock,
    name_folder,
    prepare_folder,
    require_room,
)


class FileInfo(NamedTuple):
    """What an image file says about itself: everything that later sections ask of it."""

    width: int  # of the upright image, in pixels
    height: int
    bytes: int  # size of the file
    colour: bool  # whether it stores colours, even if all of them are grey


def decode(data: bytes, size: int) -> tuple[np.ndarray, int, FileInfo]:
    """Return (grey levels, uint8 (rows, columns); `by`; about the file): a picture, reduced `by` 1, 2, 4 or 8 while it is decoded."""
    # OpenCV 4 returns half a picture, and no error, where a JPEG is cut off: only one with an end marker goes to it.
    header = measure_jpeg(data) if data[-64:].rstrip(b"\0")[-2:] == b"\xff\xd9" else None
    if header is None:
        try:
            stored = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            if found := name_format(data):
                raise ValueError(f"{found}, not an image that can be read here: convert it to PNG") from None
            raise
        with stored:
            colour = Image.getmodebase(stored.mode) != "L"
            grey = decode_odd(stored)
            if stored.format in ("JPEG", "MPO"):  # Pillow hides what libjpeg says, see `hear_decoder`
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        return grey, 1, FileInfo(grey.shape[1], grey.shape[0], len(data), colour)
    width, height, colour = header
    reduced = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
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
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), reduced.get(by, cv2.IMREAD_GRAYSCALE))
    if decoded is None:
        raise ValueError("the JPEG data cannot be decoded")
    if decoded.shape != (rows, columns):  # turned upright, as its EXIF data say
        width, height = height, width
    return decoded, by, FileInfo(width, height, len(data), colour)


def shrink(grey: np.ndarray, by: int, extent: tuple[int, int], wide: int, high: int) -> np.ndarray:
    """Return a picture, uint8 (rows, columns), as uint8 (high, wide), each pixel the mean of those that it stands for.

    The decoder has reduced it `by` 1, 2, 4 or 8 from its `extent` (width, height), and rounded up to whole pixels.
    """
    (width, height), (rows, columns) = extent, grey.shape
    across, down = width / by / wide, height / by / high  # pixels of `grey` for one of the result
    if by > 1 and max(across, down) <= 2.5:  # factors, not a size, so that what was rounded up lies beyond the edge
        return cv2.resize(grey, None, fx=1 / across, fy=1 / down, interpolation=cv2.INTER_LINEAR)[:high, :wide]
    grey = grey[:min(rows, round(height / by)), :min(columns, round(width / by))]
    return cv2.resize(grey, (wide, high), interpolation=cv2.INTER_AREA if min(across, down) >= 1 else cv2.INTER_LINEAR)


def make_square(grey: np.ndarray, by: int, extent: tuple[int, int], size: int, geometry: str) -> np.ndarray:
    """Return a picture (see `shrink`) as uint8 (size, size): whole and stretched ("squash"), between two black bars ("fit"), or its middle.

    The middle ("crop") is a square as wide as the shorter edge. Raises ValueError for another geometry.
    """
    if geometry == "squash":
        return shrink(grey, by, extent, size, size)
    if geometry == "fit":
        wide, high = (max(1, round(size * length / max(extent))) for length in extent)
        return np.pad(shrink(grey, by, extent, wide, high), [(bars // 2, bars - bars // 2) for bars in (size - high, size - wide)])
    if geometry != "crop":
        raise ValueError(f"there is no geometry {geometry!r}: choose squash, fit or crop")
    side, flags = min(extent), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    step, edge = (side / by / size, size) if by > 1 and side <= 2.5 * by * size else (1, -(-side // by))  # 1: cut out now, shrunk below
    left, top = ((length - side) // 2 / by + step / 2 - 0.5 for length in extent)  # the first pixel's middle, which may lie between two
    middle = cv2.warpAffine(grey, np.array([[step, 0, left], [0, step, top]]), (edge, edge), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return shrink(middle, by, (side, side), size, size) if step == 1 else middle


def read_image(path: str | Path, size: int, geometry: str = "squash") -> tuple[np.ndarray, FileInfo]:
    """Read one picture; return (uint8 (size, size), about the file: width, height, bytes, colour).

    Raises OSError or ValueError, with the reason, for a file that is empty, truncated or no picture.
    """
    grey, by, about = decode(read_file(path), size)
    extent = about.width, about.height
    if min(extent) < 16:
        raise ValueError(f"{about.width} × {about.height} pixels are no film")
    return make_square(grey, by, extent, size, geometry), about


def read_alone(path: str | Path, size: int, geometry: str = "squash") -> tuple[np.ndarray, FileInfo]:
    """As `read_image`; raise ValueError for a JPEG, too, that libjpeg decodes but calls damaged. For one picture at a time."""
    with hear_decoder() as heard:
        result = read_image(path, size, geometry)
        os.lseek(heard, 0, os.SEEK_SET)
        said = os.read(heard, 10_000)
    if damage := re.search(rb"Corrupt JPEG data: (?!\d extraneous bytes before marker 0xd9).*", said):  # those few are harmless
        raise ValueError(damage[0].decode())
    return result


def read_images(folder: str | Path, paths: list[str], x: np.ndarray, description: str, geometry: str) -> list[tuple]:
    """Read pictures into `x`, uint8 (n, size, size, 1); return [(*FileInfo, problem or "")], n of them."""
    count = max(4, len(paths) // 500)  # at a time: a pool with many tasks to hand out may not notice Ctrl-C

    def read_some(numbers, read=read_image):
        for number in numbers:
            path, before = os.path.join(folder, paths[number]), os.fstat(heard).st_size
            try:
                x[number, :, :, 0], about = read(path, x.shape[1], geometry)
                rows[number] = (*about, "")
            except Exception as error:  # decoders raise all kinds, and each must be told with the file's name
                rows[number] = (*nothing, explain(error, path))
            if os.fstat(heard).st_size > before:
                doubtful.append(number)
        return len(numbers)

    nothing = FileInfo(0, 0, 0, False)
    rows: list[tuple] = [(*nothing, "")] * len(paths)
    doubtful = list[int]()
    with hear_decoder() as heard, tqdm(total=len(paths), desc=description, file=sys.stdout, mininterval=0.5) as bar:
        inner_threads, pool = cv2.getNumThreads(), ThreadPoolExecutor(os.cpu_count())
        cv2.setNumThreads(1)  # the pool keeps all cores busy already
        try:
            for done in pool.map(read_some, [range(len(paths))[start: start + count] for start in range(0, len(paths), count)]):
                bar.update(done)
            read_some(doubtful[:], read_alone)  # of those in work while something was said, in all threads, one is damaged
        finally:
            cv2.setNumThreads(inner_threads)
            pool.shutdown(cancel_futures=True)
    return rows


def find_film(folder: str | Path, paths: list[str]) -> np.ndarray:
    """Return the first film that can be read, as it is, uint8 (rows, columns); raise ValueError, with a reason, if none can."""
    problems = []
    for path in paths:
        try:
            return decode(read_file(os.path.join(folder, path)), 10**6)[0]
        except Exception as error:
            problems.append(explain(error, os.path.join(folder, path)))
    raise ValueError(f"None of the {len(paths):,} files in {folder} can be read. The first is {paths[0]}: {problems[0]}. "
                     "Mend or replace the files, then run section 1 again.")


def stamp_files(folder: str | Path, paths: list[str], size: int, geometry: str) -> str:
    """Return a text that changes when a file is added, removed, renamed, touched or replaced, and with the loader, size or geometry."""
    def look(path):
        try:
            seen = os.stat(os.path.join(folder, path))
        except OSError as error:
            return path, error.errno
        return path, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino

    loader = read_image, read_alone, read_file, measure_jpeg, decode, decode_odd, make_square, shrink, read_images
    about = [size, geometry, cv2.__version__, Image.__version__, [inspect.getsource(one) for one in loader], [look(path) for path in paths]]
    return hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()


def map_images(path: Path, count: int, size: int) -> np.ndarray:
    """Return uint8 (count, size, size, 1), read-only, mapped from a file."""
    return np.asarray(np.memmap(path, np.uint8, "r", shape=(count, size, size, 1))) if count else np.zeros((0, size, size, 1), np.uint8)


def open_cache(place: Path, stamp: str, size: int):
    """Return (x, rows) of a cache, or None if there is none, or it is out of date or damaged."""
    try:
        record = json.loads((place / "record.json").read_text(encoding="utf-8"))
        rows, images = record["rows"], place / "images.bin"
        x = map_images(images, sum(not problem for *_, problem in rows), size)
        whole = record["stamp"] == stamp and images.stat().st_size == x.nbytes and zlib.crc32(x.data) == record["crc32"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (x, rows) if whole else None


def keep_good(x: np.ndarray, rows: list) -> int:
    """Move the images that could be read to the front of `x`; return their number."""
    good = np.flatnonzero([not problem for *_, problem in rows])
    for start in range(0, len(good) if len(good) < len(rows) else 0, 1024):
        chosen = good[start: start + 1024]
        x[start: start + len(chosen)] = x[chosen]
    return len(good)


def fill_cache(place: Path, stamp: str, folder: str | Path, paths: list[str], size: int, description: str, geometry: str):
    """Read the pictures into a new cache, which appears when it is whole; return (x, rows)."""
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with name_folder(place.parent):
            unfinished.mkdir(parents=True)
            images, needed = unfinished / "images.bin", len(paths) * size**2
            require_room(unfinished, needed)
            with images.open("wb") as file:  # takes its room at once: a mapped file that meets a full disk ends the process
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, needed)
                else:
                    file.truncate(needed)
            x = np.memmap(images, np.uint8, "r+", shape=(len(paths), size, size, 1))
            rows = read_images(folder, paths, x, description, geometry)
            count = keep_good(x, rows)
            total = zlib.crc32(x[:count].data)
            del x
            os.truncate(images, count * size**2)
            # Trouble of the disk, the network or the memory is worth another try.
            passing = any(problem.startswith(("[Errno", "MemoryError")) for *_, problem in rows)
            record = {"stamp": "" if passing else stamp, "crc32": total, "rows": rows}
            (unfinished / "record.json").write_text(json.dumps(record), encoding="utf-8")
            for old in place.parent.glob(f"{place.stem}*"):  # Windows keeps one that is mapped, hence a name of its own for each
                if old != unfinished:
                    shutil.rmtree(old, ignore_errors=True)
            unfinished.rename(place)
            return map_images(place / "images.bin", count, size), rows
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_through_cache(folder: str | Path, paths: list[str], size: int, description: str, cache_dir: Path, geometry: str):
    """Return (x, rows) from the cache in `cache_dir`, which is made first where it is missing; raise StorageError if it cannot be."""
    prepare_folder(cache_dir, "CACHE_DIR")
    digest = hashlib.blake2b(f"{Path(folder).resolve()} {description}".encode(), digest_size=4).hexdigest()
    name = f"{re.sub(r'[^a-z]+', '-', description.lower())}-{size}-{geometry}-{digest}"
    with hold_lock(cache_dir, f"loading images into {cache_dir}"):
        stamp = stamp_files(folder, paths, size, geometry)
        place = cache_dir / f"{name}.{stamp[:8]}"
        if found := open_cache(place, stamp, size):
            print(f"{description}: {len(found[0]):,} images from the cache")
            return found
        return fill_cache(place, stamp, folder, paths, size, description, geometry)


def load_into_memory(folder: str | Path, paths: list[str], size: int, description: str, geometry: str):
    """Return (x, rows), without a cache; raise MemoryError, with advice, if the images, one byte a pixel, cannot fit."""
    needed = len(paths) * size**2
    try:
        # Linux and macOS grant more memory than there is, and end the process that uses it; Windows, which tells no size, refuses.
        if hasattr(os, "sysconf") and needed > 0.7 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            raise MemoryError
        x = np.zeros((len(paths), size, size, 1), np.uint8)
    except MemoryError:
        raise MemoryError(f"{len(paths):,} images of {size} × {size} pixels take {needed / 1e9:.1f} GB, more than this machine can give: "
                          "set CACHE_DIR to a folder with that much room, or choose a smaller IMAGE_SIZE.") from None
    rows = read_images(folder, paths, x, description, geometry)
    x = x[:keep_good(x, rows)]
    x.flags.writeable = False
    return x, rows


def load_split(folder: str | Path, files: pd.DataFrame, size: int, description: str, cache_dir: str | Path | None = None,
               geometry: str = "squash"):
    """Load the listed files as squares made by `geometry` (see `make_square`); return (x, files, broken).

    `x` is uint8 (n, size, size, 1), read-only, and mapped from `cache_dir` if that is given. `files` has a row for each of its
    images, with width and height of the original, bytes and colour of its file (see `FileInfo`); `broken` one for each file that
    could not be read, with the problem.
    Raises MemoryError if the images fit neither into `cache_dir` nor into memory.
    """
    paths, found = files.path.tolist(), None
    if cache_dir and paths:
        try:
            found = load_through_cache(folder, paths, size, description, Path(cache_dir), geometry)
        except StorageError as error:
            print(f"No cache: {error}. The images are kept in memory.")
    x, rows = found or load_into_memory(folder, paths, size, description, geometry)
    kinds = {"width": int, "height": int, "bytes": int, "colour": bool}
    seen = pd.DataFrame(rows, columns=[*kinds, "problem"]).astype(kinds)  # also where there are none
    table = files.reset_index(drop=True).join(seen)
    good = table.problem == ""
    return x, table[good].drop(columns="problem").reset_index(drop=True), table.loc[~good, ["path", "problem"]]


def describe_arrays(**sets: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    """Return a table of {name: (x, y)}: what the arrays are, what they take, and how many of them are PNEUMONIA."""
    return pd.DataFrame({name: {"x": f"{x.shape} {x.dtype}", "memory": f"{x.nbytes / 1e6:.1f} MB", "y": f"{y.shape} {y.dtype}",
                                "class 1, PNEUMONIA": f"{y.sum():,} of {len(y):,}"} for name, (x, y) in sets.items()}).T
