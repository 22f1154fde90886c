"""Phantom radiographs: drawn substitutes for patients, marked as such."""

import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm


class Phantom:
    """Marks of a phantom: a comment in each JPEG file, and letters in the image."""

    mark = b"PHANTOM: drawn by a program, shows no patient"
    letters = "PHANTOM"


def soft_mask(depth: np.ndarray, softness: float) -> np.ndarray:
    """Return a mask of 0 to 1 that is 0.5 at depth 0 and rises with the depth."""
    return 1 / (1 + np.exp(np.clip(-depth / softness, -30, 30)))


def draw_chest(
    patient: np.random.Generator, pose: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a normal chest.

    Parameters
    ----------
    patient, pose : Generators
        Source of the anatomy and of the pose.
    height, width : int
        Size in pixels.

    Returns
    -------
    image, lungs : float32 arrays (height, width)
        Gray levels and lung mask, about 0 to 1.
    """
    # Coordinates in image heights; x is 0 in the middle of the chest.
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    breath = pose.normal(0, 0.02)
    lean = pose.normal(0, 0.05)
    x_shift = pose.normal(0, 0.03)
    chest_width = patient.uniform(0.92, 1.1) * (0.8 * width / height) ** 0.7
    x = (x - 0.5 * width / height + x_shift) / chest_width
    x = x + lean * (y - 0.5)
    y = y + pose.normal(0, 0.03)
    side = np.abs(x)

    body_width = soft_mask(0.46 + 0.1 * (y - 0.45) ** 2 - side, 0.012)
    body = body_width * soft_mask(y - 0.02 - 0.4 * side**4, 0.02)

    floor = 0.76 + breath + patient.normal(0, 0.02)
    floor = floor - 0.5 * (side - 0.2) ** 2 * 4 + 0.03 * (x > 0)
    apex = patient.uniform(0.1, 0.15)
    reach = patient.uniform(0.34, 0.39)
    outline = 1 - ((side - 0.2) / (reach - 0.2)) ** 2 * (side > 0.2)
    outline = outline - ((side - 0.2) / 0.15) ** 2 * (side < 0.2)
    dome = np.clip((0.5 - y) / (0.5 - apex), 0, None) ** 2.2
    lungs = soft_mask(outline - dome, 0.06) * soft_mask(floor - y, 0.008)

    heart_width = patient.uniform(0.11, 0.16)
    heart_shift = patient.uniform(0.03, 0.07)
    heart_depth = 1 - ((x - heart_shift) / heart_width) ** 2 - ((y - 0.6) / 0.19) ** 2
    heart = soft_mask(heart_depth, 0.12)
    spine = soft_mask(0.055 - side, 0.012) * (0.85 + 0.15 * np.sin(y * 75))
    image = (
        0.04
        + 0.52 * body
        - 0.33 * lungs * (1 - heart * 0.85)
        + 0.16 * spine * body
        + 0.05 * body * soft_mask(y - floor, 0.02)
    )

    ribs = np.zeros((height, width), np.float32)
    slope = patient.uniform(0.5, 0.8)
    start = patient.uniform(0.12, 0.16)
    for rib in range(9):
        depth = start + 0.073 * rib + slope * (side - 0.12) ** 2 * 2 - 0.18 * side
        front = np.exp(-(((y - depth) / 0.0095) ** 2))
        back = np.exp(-(((y - depth - 0.45 * side + 0.05) / 0.011) ** 2))
        ribs += front + 0.45 * back
    clavicle = np.exp(-(((y - 0.13 + 0.22 * (side - 0.2)) / 0.012) ** 2))
    clavicle = clavicle * (side > 0.05) * (side < 0.36)
    bones = 0.075 * ribs * (side < reach + 0.03) * (side > 0.04) + 0.13 * clavicle
    return image + body * bones, lungs * (1 - 0.8 * heart)


def draw_disease(
    finding: str, lungs: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Draw an opacity.

    Parameters
    ----------
    finding : {"normal", "bacteria", "virus"}
        No opacity, a focal consolidation, or a diffuse haze.
    lungs : float array (height, width)
        Lung mask, see `draw_chest`.
    generator : Generator

    Returns
    -------
    float32 array (height, width)
        To be added to the image.
    """
    height, width = lungs.shape
    if finding == "normal":
        return np.zeros_like(lungs)
    size = (width, height)
    coarse = generator.normal(size=(9, 9 * width // height)).astype(np.float32)
    fine = generator.normal(size=(36, 36 * width // height)).astype(np.float32)
    clouds = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    clouds = clouds + 0.6 * cv2.resize(fine, size, interpolation=cv2.INTER_CUBIC)
    if finding == "virus":
        haze = np.clip(0.75 + 0.45 * clouds, 0, 1.6)
        return lungs * generator.uniform(0.1, 0.17) * haze
    rows, columns = np.nonzero(lungs > 0.9)
    center = generator.integers(len(rows))
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    focus_height, focus_width = generator.uniform(0.09, 0.16, size=2)
    y_distance = (y - rows[center] / height) / focus_height
    x_distance = (x - columns[center] / height) / focus_width
    distance = np.sqrt(y_distance**2 + x_distance**2)
    edge = np.clip((distance - 1 + 0.25 * clouds) / 0.14, -30, 30)
    focus = 1 / (1 + np.exp(edge))
    return np.clip(lungs, 0.25, 1) * focus * generator.uniform(0.19, 0.3)


def draw_letters(
    image: np.ndarray, text: str, x: float, y: float, scale: float
) -> None:
    """Write bright letters into an image; x and y are fractions of its size."""
    height, width = image.shape
    unit = height / 400
    thickness = max(1, int(2 * unit))
    position = (int(x * width), int(y * height))
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, text, position, font, unit * scale, 235, thickness)


def draw_phantom(
    finding: str, patient_seed: Sequence[int], image_seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one phantom radiograph.

    Parameters
    ----------
    finding : {"normal", "bacteria", "virus"}
    patient_seed, image_seed : sequences of int
        Images with the same patient seed have the same anatomy.

    Returns
    -------
    image, mask : uint8 arrays (height, width)
        The mask is 255 where disease was drawn.
    """
    patient = np.random.default_rng(patient_seed)
    generator = np.random.default_rng(image_seed)
    width = int(np.clip(generator.lognormal(np.log(1250), 0.28), 384, 2916))
    aspect_ratio = np.clip(generator.normal(1.4, 0.2), 1, 2.4)
    height = int(np.clip(width / aspect_ratio, 127, 2713))
    # Drawn small and enlarged: ten times as fast, and what matters is preserved.
    scale = min(1, 300 / height)
    small_size = max(int(height * scale), 64), max(int(width * scale), 64)
    image, lungs = draw_chest(patient, generator, *small_size)
    disease = draw_disease(finding, lungs, generator)
    coarse, fine = generator.standard_normal((2, *small_size), np.float32)
    vessels = lungs * 0.11 * cv2.GaussianBlur(coarse, (0, 0), 2)
    image = image + disease + vessels + 0.012 * fine
    image = np.clip(image, 0, 1) ** generator.uniform(0.7, 1.3)
    image = image * generator.uniform(0.75, 1.3) + generator.normal(0, 0.06)
    gray: np.ndarray = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    gray = cv2.resize(gray, (width, height), interpolation=cv2.INTER_LINEAR)
    mask: np.ndarray = (disease > 0.06).astype(np.uint8) * 255
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    draw_letters(gray, "R", 0.04, 0.1, 0.9)
    draw_letters(gray, Phantom.letters, 0.03, 0.97, 0.8)
    return gray, mask


def plan_phantoms(
    train: int, val: int, test: int, seed: int
) -> list[tuple[str, str, Sequence[int], Sequence[int]]]:
    """List the phantoms to draw, with the proportions and names of the real set.

    Parameters
    ----------
    train, val, test : int
        Number of images in each folder.
    seed : int

    Returns
    -------
    list of (relative path, finding, patient seed, image seed)
    """
    generator = np.random.default_rng(seed)
    plan: list[tuple[str, str, Sequence[int], Sequence[int]]] = []
    last_patient = {"IM": 114, "person": 0}
    normal_fractions = {"test": 0.375, "train": 0.26, "val": 0.5}
    counts = {"test": test, "train": train, "val": val}
    for split, count in counts.items():
        normal = round(count * normal_fractions[split])
        viral = round((count - normal) * 0.35)
        bacterial = count - normal - viral
        findings = {"normal": normal, "bacteria": bacterial, "virus": viral}
        for finding, wanted in findings.items():
            series = "IM" if finding == "normal" else "person"
            remaining = wanted
            while remaining > 0:
                last_patient[series] += 1
                patient = last_patient[series]
                images = min(remaining, int(generator.geometric(0.7)))
                remaining -= images
                for image in range(1, images + 1):
                    if finding == "normal":
                        prefix = "NORMAL2-" * (patient % 2)
                        name = f"NORMAL/{prefix}IM-{patient:04d}-{image:04d}"
                    else:
                        number = len(plan) + 1
                        name = f"PNEUMONIA/person{patient}_{finding}_{number}"
                    patient_seed = (seed, len(series), patient)
                    image_seed = (seed, 99, len(plan))
                    path = f"{split}/{name}.jpeg"
                    plan.append((path, finding, patient_seed, image_seed))
    return plan


def encode_jpeg(image: np.ndarray) -> bytes:
    """Return an image as JPEG data that contain the mark of a phantom as a comment."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 80]
    jpeg = cv2.imencode(".jpeg", image, options)[1].tobytes()
    length = (len(Phantom.mark) + 2).to_bytes(2, "big")
    return jpeg[:2] + b"\xff\xfe" + length + Phantom.mark + jpeg[2:]


def write_phantoms(
    folder: str | Path,
    train: int = 600,
    val: int = 16,
    test: int = 200,
    seed: int = 0,
    masks: str | Path | None = None,
) -> None:
    """Draw phantom radiographs into folder/{train,val,test}/{NORMAL,PNEUMONIA}.

    Parameters
    ----------
    folder : str or Path
        Must not exist; it appears, complete, when the last image is drawn.
    train, val, test : int
        Number of images in each folder.
    seed : int
        The same seed gives the same bytes.
    masks : str, Path or None
        Another new folder, for PNG files of the same names: 255 where disease was
        drawn.

    Raises
    ------
    FileExistsError
    """
    folder = Path(folder)
    masks = Path(masks) if masks else None
    plan = plan_phantoms(train, val, test, seed)
    unfinished = {}
    for target in filter(None, (folder, masks)):
        if target.exists():
            raise FileExistsError(
                f"{target} exists already: choose a new folder, or remove it first."
            )
        unfinished[target] = target.with_name(f"{target.name}.unfinished")

    def draw(entry: tuple[str, str, Sequence[int], Sequence[int]]) -> None:
        path, finding, patient_seed, image_seed = entry
        image, mask = draw_phantom(finding, patient_seed, image_seed)
        (unfinished[folder] / path).write_bytes(encode_jpeg(image))
        if masks:
            png = cv2.imencode(".png", mask)[1].tobytes()
            (unfinished[masks] / path).with_suffix(".png").write_bytes(png)

    for target in unfinished.values():
        shutil.rmtree(target, ignore_errors=True)
        for path in {Path(entry[0]).parent for entry in plan}:
            (target / path).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm(
            pool.map(draw, plan),
            total=len(plan),
            desc="Drawing phantoms",
            file=sys.stdout,
            mininterval=1,
        )
        list(progress)
    for target, source in unfinished.items():
        source.rename(target)


def main() -> None:
    """Draw phantoms from the command line."""
    import argparse

    parser = argparse.ArgumentParser(
        "python -m cxr.phantoms",
        description=(
            "Draw phantom radiographs: a substitute for the data set, for machines "
            "that cannot download it and for tests. Each shows a chest with ribs, "
            "clavicles, heart, spine and diaphragm, with varying pose and exposure. "
            "NORMAL is clear, bacterial pneumonia is one focal opacity, viral "
            "pneumonia a diffuse haze on both sides. Folders, names and sizes are "
            "those of the real set. Each image says PHANTOM, in its pixels and in a "
            "comment in the file. The same arguments give the same bytes."
        ),
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("data/phantoms/chest_xray"),
        help="new folder for the images (default: %(default)s)",
    )
    for name, count in (("train", 600), ("val", 16), ("test", 200)):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=count,
            help=f"images in {name} (default: %(default)s)",
        )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="another seed draws other patients (default: %(default)s)",
    )
    parser.add_argument(
        "--masks",
        type=Path,
        help="new folder for masks: PNG files, 255 where disease was drawn",
    )
    options = parser.parse_args()
    if min(options.train, options.val, options.test, options.seed) < 0:
        parser.error("the numbers of images and the seed must be 0 or more")
    try:
        options.folder.resolve().parent.mkdir(parents=True, exist_ok=True)
        write_phantoms(
            options.folder,
            options.train,
            options.val,
            options.test,
            options.seed,
            options.masks,
        )
    except OSError as error:
        sys.exit(f"python -m cxr.phantoms: {error}")
    count = options.train + options.val + options.test
    print(f"{options.folder}: {count} phantom radiographs, which show no patient.")


if __name__ == "__main__":
    main()
