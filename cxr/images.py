"""Image files as arrays: decoding, resizing to squares, loading a split, caching."""

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
from collections.abc import Callable, Iterator, Sequence
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


class FileInfo(NamedTuple):
    """Properties of an image file, recorded once, while the file is decoded."""

    width: int  # of the upright image, in pixels
    height: int
    bytes: int  # size of the file
    color: bool  # whether the file stores color channels, even if all pixels are gray


def read_bytes(path: str | Path) -> bytes:
    """Return the contents of a file.

    Raises
    ------
    ValueError
        If the file is empty, or only a Git LFS or git-annex pointer to the image.
    """
    with open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ValueError("the file is empty")
    if data.startswith((b"version https://git-lfs", b"/annex/objects/")):
        raise ValueError(
            "a pointer instead of the image: fetch the image with `git lfs pull` "
            "(or `git annex get`)"
        )
    return data


def format_read_error(error: Exception, path: str | Path) -> str:
    """Return in one line why a file could not be read."""
    if os.path.islink(path) and not os.path.exists(path):
        return (
            "a broken link: its target does not exist (`git annex get` or `dvc pull` "
            "may fetch it)"
        )
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a known format"
    if isinstance(error, MemoryError):
        return "MemoryError: there is too little memory to decode it"
    message = re.sub(r" ?<[^<>]* at 0x\w+>", "", str(error)).strip()
    return (message or type(error).__name__).splitlines()[0][:120]


def detect_format(data: bytes) -> str:
    """Name the format of data that Pillow cannot read; return "" if it is unknown."""
    start = data[:512].lstrip().lower()
    heif_brands = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif")
    has_dicom_preamble = data[128:132] == b"DICM"
    is_bare_dicom = data[:2] in (b"\2\0", b"\x08\0")
    is_svg = start.startswith(b"<svg") or (
        start.startswith(b"<?xml") and b"<svg" in start
    )
    formats = {
        "a DICOM file": has_dicom_preamble or is_bare_dicom,
        "a HEIC or AVIF image": data[4:8] == b"ftyp" and data[8:12] in heif_brands,
        "a NIfTI file": data[344:348] in (b"n+1\0", b"ni1\0"),
        "a NRRD file": data.startswith(b"NRRD"),
        "a NumPy array": data.startswith(b"\x93NUMPY"),
        "a PDF file": start.startswith(b"%pdf"),
        "a zip archive": data.startswith(b"PK\3\4"),
        "a gzip archive (such as a compressed NIfTI file)": data.startswith(
            b"\x1f\x8b"
        ),
        "a web page": start.startswith((b"<!doctype html", b"<html")),
        "an SVG drawing": is_svg,
    }
    return next((name for name, matches in formats.items() if matches), "")


def read_jpeg_header(data: bytes) -> tuple[int, int, bool] | None:
    """Return (width, height, whether it is in color) of an 8-bit gray or color JPEG.

    Returns None for other data. This is 20 times as fast as Pillow.

    References
    ----------
    ISO/IEC 10918-1, annex B.
    """
    position = 2
    while (
        data[:2] == b"\xff\xd8" and position + 9 < len(data) and data[position] == 0xFF
    ):
        marker, length, bits, height, width, channels = struct.unpack_from(
            ">xBHBHHB", data, position
        )
        if 0xC0 <= marker <= 0xC2:  # start of frame
            if bits == 8 and channels in (1, 3) and width and height:
                return width, height, channels == 3
            return None
        position += 2 + length
    return None


def scale_to_8_bits(levels: np.ndarray, inverted: bool) -> np.ndarray:
    """Return gray levels of up to 16 bits as uint8.

    The bit depth is the smallest of 8, 10, 12, 14 and 16 that holds all values, because
    12 bits are often stored in 16. `inverted`: whether 0 is white.
    """
    highest = levels.max()
    white = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if highest < 2**bits)
    if inverted:
        levels = white - levels
    return np.round(levels * (255 / white)).astype(np.uint8)


def decode_with_pillow(stored: Image.Image) -> np.ndarray:
    """Decode an opened image of any mode; return uint8 (height, width).

    Raises
    ------
    OSError
        If the data end too early.
    ValueError
        If the gray levels of the image cannot be determined.
    """
    is_16_bit = any(";16" in str(tile) for tile in getattr(stored, "tile", ()))
    stored.load()
    image = ImageOps.exif_transpose(stored)
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image, dtype=np.float64)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                f"pixel values of mode {image.mode} out of the range 0 to 65,535"
            )
        # Pillow applies TIFF's "minimum is white" (tag 262) only up to 8 bits.
        inverted = getattr(stored, "tag_v2", {}).get(262) == 0
        return scale_to_8_bits(levels, inverted)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        background = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(background, image.convert("RGBA"))
    gray = np.asarray(image.convert("L"))
    if is_16_bit and gray.max() < 64:  # Pillow keeps the upper 8 of each 16 bits
        raise ValueError(
            "a color image of 16 bits that uses only the darkest quarter of them: "
            "save it as gray levels"
        )
    return gray


def choose_reduction(width: int, height: int, size: int, may_rotate: bool) -> int:
    """Return by which factor (8, 4, 2 or 1) to reduce a JPEG while it is decoded.

    The reduced image still has at least `size` pixels along its shorter edge.
    """
    for reduction in (8, 4, 2):
        if min(width, height) < reduction * size:
            continue
        # After rotation, an edge that was rounded up may lie on any side.
        if may_rotate and (width % reduction or height % reduction):
            continue
        # A rotation is recognized by the shape, so the reduced shape must not become
        # a square by rounding up.
        if width == height or -(-width // reduction) != -(-height // reduction):
            return reduction
    return 1


def decode_jpeg(
    data: bytes, size: int, width: int, height: int, color: bool
) -> tuple[np.ndarray, int, FileInfo]:
    """Decode a JPEG with OpenCV; see `decode_image`. The rest is from its header."""
    may_rotate = b"\xff\xe1" in data  # has an APP1 segment, where EXIF data are
    reduction = choose_reduction(width, height, size, may_rotate)
    flags = {
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        1: cv2.IMREAD_GRAYSCALE,
    }
    gray = cv2.imdecode(np.frombuffer(data, np.uint8), flags[reduction])
    if gray is None:
        raise ValueError("the JPEG data cannot be decoded")
    if gray.shape != (-(-height // reduction), -(-width // reduction)):
        # OpenCV has turned the image upright, as its EXIF data ask for.
        width, height = height, width
    return gray, reduction, FileInfo(width, height, len(data), color)


def decode_image(data: bytes, size: int) -> tuple[np.ndarray, int, FileInfo]:
    """Decode an image file of any supported format to gray levels.

    Parameters
    ----------
    data : bytes
        Contents of the file.
    size : int
        Number of pixels that the shorter edge has to keep: larger JPEG files are
        reduced while they are decoded, which saves most of the time.

    Returns
    -------
    gray : uint8 array (rows, columns)
    reduction : {1, 2, 4, 8}
        Factor by which the image was reduced, rounding up to whole pixels.
    info : FileInfo

    Raises
    ------
    OSError, ValueError
        With the reason, if the data are truncated or are not a supported image.
    """
    # OpenCV 4 returns half an image, without an error, where a JPEG is cut off. So it
    # is given only those that have their end marker.
    has_end_marker = data[-64:].rstrip(b"\0")[-2:] == b"\xff\xd9"
    header = read_jpeg_header(data) if has_end_marker else None
    if header is not None:
        return decode_jpeg(data, size, *header)
    try:
        stored = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data_format := detect_format(data):
            raise ValueError(
                f"{data_format}, which cannot be read here: convert it to PNG"
            ) from None
        raise
    with stored:
        color = Image.getmodebase(stored.mode) != "L"
        gray = decode_with_pillow(stored)
        if stored.format in ("JPEG", "MPO"):
            # Pillow hides the warnings of libjpeg, see `capture_decoder_messages`.
            pixels = np.frombuffer(data, np.uint8)
            cv2.imdecode(pixels, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    height, width = gray.shape
    return gray, 1, FileInfo(width, height, len(data), color)


def shrink(
    gray: np.ndarray,
    reduction: int,
    full_size: tuple[int, int],
    width: int,
    height: int,
) -> np.ndarray:
    """Resize an image so that each new pixel is the mean of those it replaces.

    Parameters
    ----------
    gray : uint8 array (rows, columns)
        The image as the decoder returned it.
    reduction : {1, 2, 4, 8}
        Factor by which the decoder reduced the image, rounding up to whole pixels.
    full_size : (int, int)
        Width and height of the image in the file, in pixels.
    width, height : int
        Size of the result, in pixels.

    Returns
    -------
    uint8 array (height, width)
    """
    # How much of `gray` is image: the last column or row may be partly empty.
    image_width = full_size[0] / reduction
    image_height = full_size[1] / reduction
    # How many pixels of `gray` become one pixel of the result.
    step_x = image_width / width
    step_y = image_height / height
    if reduction > 1 and max(step_x, step_y) <= 2.5:
        # The decoder has done most of the work. Scale factors, unlike a size, leave
        # what it rounded up beyond the edge of the result.
        resized = cv2.resize(
            gray, None, fx=1 / step_x, fy=1 / step_y, interpolation=cv2.INTER_LINEAR
        )
        return resized[:height, :width]
    gray = gray[: round(image_height), : round(image_width)]
    enlarges = min(step_x, step_y) < 1
    interpolation = cv2.INTER_LINEAR if enlarges else cv2.INTER_AREA
    return cv2.resize(gray, (width, height), interpolation=interpolation)


def pad_to_square(
    gray: np.ndarray, reduction: int, full_size: tuple[int, int], size: int
) -> np.ndarray:
    """Resize an image (see `shrink`) to fit into a square between two black bars."""
    longer_edge = max(full_size)
    width = max(1, round(size * full_size[0] / longer_edge))
    height = max(1, round(size * full_size[1] / longer_edge))
    resized = shrink(gray, reduction, full_size, width, height)
    top = (size - height) // 2
    left = (size - width) // 2
    bars = [(top, size - height - top), (left, size - width - left)]
    return np.pad(resized, bars)


def crop_center_square(
    gray: np.ndarray, reduction: int, full_size: tuple[int, int], size: int
) -> np.ndarray:
    """Resize the central square of an image (see `shrink`), as wide as its short edge.

    One interpolation cuts the square out and, if the decoder has reduced the image
    almost to `size`, resizes it as well.
    """
    side = min(full_size)
    resize_now = reduction > 1 and side <= 2.5 * reduction * size
    step = side / reduction / size if resize_now else 1
    edge = size if resize_now else -(-side // reduction)
    # The center of the first pixel, which may lie between two pixels of `gray`.
    left, top = (
        (length - side) // 2 / reduction + step / 2 - 0.5 for length in full_size
    )
    square = cv2.warpAffine(
        gray,
        np.array([[step, 0, left], [0, step, top]]),
        (edge, edge),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if step == 1:
        return shrink(square, reduction, (side, side), size, size)
    return square


def resize_to_square(
    gray: np.ndarray,
    reduction: int,
    full_size: tuple[int, int],
    size: int,
    resize_mode: str,
) -> np.ndarray:
    """Resize an image to a square of `size` pixels; return uint8 (size, size).

    Parameters
    ----------
    gray, reduction, full_size
        The decoded image, see `shrink`.
    size : int
        Width and height of the result, in pixels.
    resize_mode : {"stretch", "pad", "center_crop"}
        How to make a square: distort the image, add two black bars, or keep the
        central square.
    """
    if resize_mode == "stretch":
        return shrink(gray, reduction, full_size, size, size)
    if resize_mode == "pad":
        return pad_to_square(gray, reduction, full_size, size)
    if resize_mode == "center_crop":
        return crop_center_square(gray, reduction, full_size, size)
    raise ValueError(
        f"there is no resize_mode {resize_mode!r}: choose stretch, pad or center_crop"
    )


def read_image(
    path: str | Path, size: int, resize_mode: str = "stretch"
) -> tuple[np.ndarray, FileInfo]:
    """Read an image file as a square of gray levels.

    Parameters
    ----------
    path : str or Path
    size : int
        Width and height of the result, in pixels.
    resize_mode : {"stretch", "pad", "center_crop"}
        How to make a square, see `resize_to_square`.

    Returns
    -------
    image : uint8 array (size, size)
    info : FileInfo
        Width and height of the original, bytes and color of the file.

    Raises
    ------
    OSError, ValueError
        With the reason, if the file is empty, truncated or not an image.
    """
    gray, reduction, info = decode_image(read_bytes(path), size)
    full_size = (info.width, info.height)
    if min(full_size) < 16:
        raise ValueError(f"{info.width} × {info.height} pixels are too few")
    return resize_to_square(gray, reduction, full_size, size, resize_mode), info


@contextlib.contextmanager
def capture_decoder_messages() -> Iterator[int]:
    """Redirect stderr to a temporary file and yield the descriptor of that file.

    libjpeg reports damaged data there and nowhere else. In the end all messages but
    those about JPEG data are passed on.
    """
    with STDERR_LOCK, tempfile.TemporaryFile() as messages:
        stderr = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            yield messages.fileno()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            messages.seek(0)
            os.write(2, b"".join(line for line in messages if b" JPEG " not in line))


def read_image_strict(
    path: str | Path, size: int, resize_mode: str = "stretch"
) -> tuple[np.ndarray, FileInfo]:
    """Read an image as `read_image` does, but refuse a JPEG that libjpeg calls damaged.

    Only for one image at a time: the messages of libjpeg do not name their file.
    """
    with capture_decoder_messages() as messages:
        result = read_image(path, size, resize_mode)
        os.lseek(messages, 0, os.SEEK_SET)
        captured = os.read(messages, 10_000)
    # Up to 9 extraneous bytes before the end marker are harmless.
    damage = re.search(
        rb"Corrupt JPEG data: (?!\d extraneous bytes before marker 0xd9).*", captured
    )
    if damage:
        raise ValueError(damage[0].decode())
    return result


def first_readable_image(
    data_dir: str | Path, paths: Sequence[str] | pd.Series
) -> np.ndarray:
    """Return the first image that can be read, in full size, uint8 (rows, columns).

    Raises
    ------
    ValueError
        With the problem of the first file, if no file can be read.
    """
    problems = []
    for path in paths:
        try:
            return decode_image(read_bytes(os.path.join(data_dir, path)), 10**6)[0]
        except Exception as error:
            problems.append(format_read_error(error, os.path.join(data_dir, path)))
    raise ValueError(
        f"None of the {len(paths):,} files in {data_dir} can be read. The first is "
        f"{next(iter(paths))}: {problems[0]}. Repair or replace the files, then run "
        "section 1 again."
    )


def read_images(
    data_dir: str | Path,
    paths: list[str],
    x: np.ndarray,
    description: str,
    resize_mode: str,
) -> list[tuple]:
    """Read image files into `x` with all processor cores.

    Parameters
    ----------
    data_dir : str or Path
    paths : list of str
        Paths of the n files below `data_dir`.
    x : uint8 array (n, size, size, 1)
        Receives the images.
    description : str
        Label of the progress bar.
    resize_mode : str

    Returns
    -------
    list of n tuples
        (width, height, bytes, color, problem); the problem is "" for a readable file.
    """

    def read_chunk(
        indices: Sequence[int], read: Callable[..., tuple] = read_image
    ) -> int:
        for index in indices:
            path = os.path.join(data_dir, paths[index])
            messages_before = os.fstat(messages).st_size
            try:
                x[index, :, :, 0], info = read(path, x.shape[1], resize_mode)
                rows[index] = (*info, "")
            except Exception as error:
                # Decoders raise all kinds of exceptions. Each is reported by file.
                rows[index] = (*no_info, format_read_error(error, path))
            if os.fstat(messages).st_size > messages_before:
                suspects.append(index)
        return len(indices)

    no_info = FileInfo(0, 0, 0, False)
    rows: list[tuple] = [(*no_info, "")] * len(paths)
    suspects: list[int] = []
    # With many small tasks to hand out, a pool may not notice Ctrl-C.
    chunk_size = max(4, len(paths) // 500)
    chunks = [
        range(len(paths))[start : start + chunk_size]
        for start in range(0, len(paths), chunk_size)
    ]
    progress = tqdm(
        total=len(paths), desc=description, file=sys.stdout, mininterval=0.5
    )
    with capture_decoder_messages() as messages, progress:
        opencv_threads = cv2.getNumThreads()
        pool = ThreadPoolExecutor(os.cpu_count())
        cv2.setNumThreads(1)  # the pool keeps all cores busy already
        try:
            for count in pool.map(read_chunk, chunks):
                progress.update(count)
            # A message does not name its file: all files in work at that time are
            # suspects, and are read again one by one.
            read_chunk(suspects[:], read_image_strict)
        finally:
            cv2.setNumThreads(opencv_threads)
            pool.shutdown(cancel_futures=True)
    return rows


def compact_readable(x: np.ndarray, rows: list[tuple]) -> int:
    """Move the readable images to the front of `x`; return their number."""
    readable = np.flatnonzero([not problem for *_, problem in rows])
    if len(readable) == len(rows):
        return len(readable)
    for start in range(0, len(readable), 1024):
        chunk = readable[start : start + 1024]
        x[start : start + len(chunk)] = x[chunk]
    return len(readable)


def load_into_memory(
    data_dir: str | Path,
    paths: list[str],
    size: int,
    description: str,
    resize_mode: str,
) -> tuple[np.ndarray, list[tuple]]:
    """Return (x, rows) without a cache, see `read_images`.

    Raises
    ------
    MemoryError
        With advice, if the images, one byte a pixel, do not fit into memory.
    """
    needed = len(paths) * size**2
    try:
        # Linux and macOS grant more memory than there is, and end the process that uses
        # it. Windows does not tell the size of its memory, but refuses what exceeds it.
        if hasattr(os, "sysconf"):
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            if needed > 0.7 * memory:
                raise MemoryError
        x = np.zeros((len(paths), size, size, 1), np.uint8)
    except MemoryError:
        raise MemoryError(
            f"{len(paths):,} images of {size} × {size} pixels need {needed / 1e9:.1f} "
            "GB of memory, more than this machine has: set CACHE_DIR to a folder with "
            "that much free space, or choose a smaller IMAGE_SIZE."
        ) from None
    rows = read_images(data_dir, paths, x, description, resize_mode)
    x = x[: compact_readable(x, rows)]
    x.flags.writeable = False
    return x, rows


def cache_key(
    data_dir: str | Path, paths: list[str], size: int, resize_mode: str
) -> str:
    """Return a hash of all that the cached images depend on.

    It changes when a file is added, removed, renamed, touched or replaced, and with the
    code of the loader, the size and the resize mode.
    """

    def file_state(path: str) -> tuple:
        try:
            state = os.stat(os.path.join(data_dir, path))
        except OSError as error:
            return path, error.errno
        times = state.st_mtime_ns, state.st_ctime_ns
        return path, state.st_size, *times, state.st_ino

    loader = (
        read_image,
        read_image_strict,
        read_bytes,
        read_jpeg_header,
        decode_image,
        choose_reduction,
        decode_jpeg,
        decode_with_pillow,
        scale_to_8_bits,
        resize_to_square,
        pad_to_square,
        crop_center_square,
        shrink,
        read_images,
    )
    content = [
        size,
        resize_mode,
        cv2.__version__,
        Image.__version__,
        [inspect.getsource(function) for function in loader],
        [file_state(path) for path in paths],
    ]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def map_images(path: Path, count: int, size: int) -> np.ndarray:
    """Map a file into memory as uint8 (count, size, size, 1), read-only."""
    shape = (count, size, size, 1)
    if count == 0:  # an empty file cannot be mapped
        return np.zeros(shape, np.uint8)
    return np.asarray(np.memmap(path, np.uint8, "r", shape=shape))


def open_cache(
    folder: Path, key: str, size: int
) -> tuple[np.ndarray, list[tuple]] | None:
    """Return (x, rows) of a cache; None if it is missing, outdated or damaged."""
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        rows = record["rows"]
        images = folder / "images.bin"
        x = map_images(images, sum(not problem for *_, problem in rows), size)
        is_valid = (
            record["key"] == key
            and images.stat().st_size == x.nbytes
            and zlib.crc32(x.data) == record["crc32"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (x, rows) if is_valid else None


def allocate_file(path: Path, size: int) -> None:
    """Create a file of `size` bytes that has its disk space already.

    A process ends when it writes to a mapped file and the disk is full.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def fill_cache(
    folder: Path,
    key: str,
    data_dir: str | Path,
    paths: list[str],
    size: int,
    description: str,
    resize_mode: str,
) -> tuple[np.ndarray, list[tuple]]:
    """Read images into a new cache, which appears when it is complete.

    Returns (x, rows), see `read_images`. Older caches of the same images are removed.
    """
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with wrap_os_errors(folder.parent):
            unfinished.mkdir(parents=True)
            images = unfinished / "images.bin"
            needed = len(paths) * size**2
            check_free_space(unfinished, needed)
            allocate_file(images, needed)
            x = np.memmap(images, np.uint8, "r+", shape=(len(paths), size, size, 1))
            rows = read_images(data_dir, paths, x, description, resize_mode)
            count = compact_readable(x, rows)
            checksum = zlib.crc32(x[:count].data)
            del x  # so that Windows allows the file to be cut
            os.truncate(images, count * size**2)
            # Errors of disk, network or memory may be gone next time: try again then.
            is_transient = any(
                problem.startswith(("[Errno", "MemoryError")) for *_, problem in rows
            )
            record = {
                "key": "" if is_transient else key,
                "crc32": checksum,
                "rows": rows,
            }
            (unfinished / "record.json").write_text(
                json.dumps(record), encoding="utf-8"
            )
            # Windows keeps a cache that is mapped, so each has a name of its own.
            for old in folder.parent.glob(f"{folder.stem}*"):
                if old != unfinished:
                    shutil.rmtree(old, ignore_errors=True)
            unfinished.rename(folder)
            return map_images(folder / "images.bin", count, size), rows
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def load_cached(
    data_dir: str | Path,
    paths: list[str],
    size: int,
    description: str,
    cache_dir: Path,
    resize_mode: str,
) -> tuple[np.ndarray, list[tuple]]:
    """Return (x, rows), see `read_images`, from a cache that is made if it is missing.

    Raises
    ------
    StorageError
        If the cache cannot be written.
    """
    prepare_folder(cache_dir, "CACHE_DIR")
    source = f"{Path(data_dir).resolve()} {description}"
    source_hash = hashlib.blake2b(source.encode(), digest_size=4).hexdigest()
    label = re.sub(r"[^a-z]+", "-", description.lower())
    with lock_folder(cache_dir, f"loading images into {cache_dir}"):
        key = cache_key(data_dir, paths, size, resize_mode)
        folder = cache_dir / f"{label}-{size}-{resize_mode}-{source_hash}.{key[:8]}"
        if cached := open_cache(folder, key, size):
            print(f"{description}: {len(cached[0]):,} images from the cache")
            return cached
        return fill_cache(folder, key, data_dir, paths, size, description, resize_mode)


def load_split(
    data_dir: str | Path,
    files: pd.DataFrame,
    size: int,
    description: str,
    cache_dir: str | Path | None = None,
    resize_mode: str = "stretch",
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Load the images listed in a table as squares of gray levels.

    Parameters
    ----------
    data_dir : str or Path
        Folder that the column `path` of `files` refers to.
    files : DataFrame
        Rows of the table that `list_images` returns.
    size : int
        Width and height of the images, in pixels.
    description : str
        Label of the progress bar.
    cache_dir : str, Path or None
        Folder that keeps the loaded images for the next time.
    resize_mode : {"stretch", "pad", "center_crop"}
        See `resize_to_square`.

    Returns
    -------
    x : uint8 array (n, size, size, 1)
        The readable images, read-only, and mapped from `cache_dir` if that is given.
    files : DataFrame
        Their n rows, with the columns of `FileInfo` added: width and height of the
        original in pixels, bytes and color of its file.
    unreadable : DataFrame
        The columns path and problem of the files that could not be read.

    Raises
    ------
    MemoryError
        If the images fit neither into `cache_dir` nor into memory.
    """
    paths = files.path.tolist()
    loaded = None
    if cache_dir and paths:
        try:
            loaded = load_cached(
                data_dir, paths, size, description, Path(cache_dir), resize_mode
            )
        except StorageError as error:
            print(f"No cache: {error}. The images are kept in memory.")
    if loaded is None:
        loaded = load_into_memory(data_dir, paths, size, description, resize_mode)
    x, rows = loaded

    # The types are given because an empty table has none.
    types = {"width": int, "height": int, "bytes": int, "color": bool}
    file_info = pd.DataFrame(rows, columns=[*types, "problem"]).astype(types)
    table = files.reset_index(drop=True).join(file_info)
    is_readable = table.problem == ""
    readable = table[is_readable].drop(columns="problem").reset_index(drop=True)
    unreadable = table.loc[~is_readable, ["path", "problem"]]
    return x, readable, unreadable


def describe_arrays(**arrays: tuple[np.ndarray, np.ndarray]) -> pd.DataFrame:
    """Return a table of {name: (x, y)}: shapes, types, memory, number of PNEUMONIA."""
    table = {
        name: {
            "x": f"{x.shape} {x.dtype}",
            "memory": f"{x.nbytes / 1e6:.1f} MB",
            "y": f"{y.shape} {y.dtype}",
            "class 1, PNEUMONIA": f"{y.sum():,} of {len(y):,}",
        }
        for name, (x, y) in arrays.items()
    }
    return pd.DataFrame(table).T
