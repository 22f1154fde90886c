"""Phantom radiographs: drawn stand-ins for patients, marked as such."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm


class Phantom:
    """What marks a drawn radiograph: a comment inside each JPEG file, and letters burnt into the picture."""

    mark = b"PHANTOM: drawn by a program, shows no patient"
    letters = "PHANTOM"


def draw_chest(
    patient: np.random.Generator, pose: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a healthy chest; return (image, lungs), float32 (height, width) of 0 to 1; the generator `patient` decides the anatomy."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    breath, lean = pose.normal(0, 0.02), pose.normal(0, 0.05)
    x = (x - 0.5 * width / height + pose.normal(0, 0.03)) / (
        patient.uniform(0.92, 1.1) * (0.8 * width / height) ** 0.7
    )
    x, y = x + lean * (y - 0.5), y + pose.normal(0, 0.03)
    side = np.abs(x)

    def inside(depth, softness):
        return 1 / (1 + np.exp(np.clip(-depth / softness, -30, 30)))

    body = inside(0.46 + 0.1 * (y - 0.45) ** 2 - side, 0.012) * inside(
        y - 0.02 - 0.4 * side**4, 0.02
    )
    floor = (
        0.76
        + breath
        + patient.normal(0, 0.02)
        - 0.5 * (side - 0.2) ** 2 * 4
        + 0.03 * (x > 0)
    )
    apex, reach = patient.uniform(0.1, 0.15), patient.uniform(0.34, 0.39)
    outline = (
        1
        - ((side - 0.2) / (reach - 0.2)) ** 2 * (side > 0.2)
        - ((side - 0.2) / 0.15) ** 2 * (side < 0.2)
    )
    dome = inside(outline - np.clip((0.5 - y) / (0.5 - apex), 0, None) ** 2.2, 0.06)
    lungs = dome * inside(floor - y, 0.008)
    heart_width, heart_shift = patient.uniform(0.11, 0.16), patient.uniform(0.03, 0.07)
    heart = inside(
        1 - ((x - heart_shift) / heart_width) ** 2 - ((y - 0.6) / 0.19) ** 2, 0.12
    )
    spine = inside(0.055 - side, 0.012) * (0.85 + 0.15 * np.sin(y * 75))
    image = (
        0.04
        + 0.52 * body
        - 0.33 * lungs * (1 - heart * 0.85)
        + 0.16 * spine * body
        + 0.05 * body * inside(y - floor, 0.02)
    )
    ribs = np.zeros((height, width), np.float32)
    slope, start = patient.uniform(0.5, 0.8), patient.uniform(0.12, 0.16)
    for rib in range(9):
        depth = start + 0.073 * rib + slope * (side - 0.12) ** 2 * 2 - 0.18 * side
        ribs += np.exp(-(((y - depth) / 0.0095) ** 2)) + 0.45 * np.exp(
            -(((y - depth - 0.45 * side + 0.05) / 0.011) ** 2)
        )
    clavicle = (
        np.exp(-(((y - 0.13 + 0.22 * (side - 0.2)) / 0.012) ** 2))
        * (side > 0.05)
        * (side < 0.36)
    )
    return image + body * (
        0.075 * ribs * (side < reach + 0.03) * (side > 0.04) + 0.13 * clavicle
    ), lungs * (1 - 0.8 * heart)


def draw_disease(
    finding: str, lungs: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Return the opacity, float32 (height, width): "bacteria" a focal consolidation, "virus" a diffuse haze, "normal" none."""
    height, width = lungs.shape
    if finding == "normal":
        return np.zeros_like(lungs)
    coarse = generator.normal(size=(9, 9 * width // height)).astype(np.float32)
    fine = generator.normal(size=(36, 36 * width // height)).astype(np.float32)
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    clouds = clouds + 0.6 * cv2.resize(
        fine, (width, height), interpolation=cv2.INTER_CUBIC
    )
    if finding == "virus":
        return (
            lungs * generator.uniform(0.1, 0.17) * np.clip(0.75 + 0.45 * clouds, 0, 1.6)
        )
    rows, columns = np.nonzero(lungs > 0.9)
    center = generator.integers(len(rows))
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    tall, wide = generator.uniform(0.09, 0.16, size=2)
    distance = ((y - rows[center] / height) / tall) ** 2 + (
        (x - columns[center] / height) / wide
    ) ** 2
    focus = 1 / (
        1 + np.exp(np.clip((np.sqrt(distance) - 1 + 0.25 * clouds) / 0.14, -30, 30))
    )
    return np.clip(lungs, 0.25, 1) * focus * generator.uniform(0.19, 0.3)


def draw_phantom(
    finding: str, patient_seed, image_seed
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one phantom radiograph from two seeds; return (image, mask), uint8 (height, width); mask is 255 where disease was drawn."""
    patient, generator = (
        np.random.default_rng(patient_seed),
        np.random.default_rng(image_seed),
    )
    width = int(np.clip(generator.lognormal(np.log(1250), 0.28), 384, 2916))
    height = int(
        np.clip(width / np.clip(generator.normal(1.4, 0.2), 1, 2.4), 127, 2713)
    )
    scale = min(
        1, 300 / height
    )  # drawn small and enlarged: what matters survives, and it is ten times faster
    small = max(int(height * scale), 64), max(int(width * scale), 64)
    image, lungs = draw_chest(patient, generator, *small)
    disease = draw_disease(finding, lungs, generator)
    coarse, fine = generator.standard_normal((2, *small), np.float32)
    image = (
        image
        + disease
        + lungs * 0.11 * cv2.GaussianBlur(coarse, (0, 0), 2)
        + 0.012 * fine
    )
    image = np.clip(image, 0, 1) ** generator.uniform(0.7, 1.3)
    image = (
        np.clip(image * generator.uniform(0.75, 1.3) + generator.normal(0, 0.06), 0, 1)
        * 255
    )
    image = cv2.resize(
        image.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR
    )
    mask = cv2.resize(
        (disease > 0.06).astype(np.uint8) * 255,
        (width, height),
        interpolation=cv2.INTER_NEAREST,
    )
    unit, font = height / 400, cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(
        image,
        "R",
        (int(0.04 * width), int(0.1 * height)),
        font,
        unit * 0.9,
        235,
        max(1, int(2 * unit)),
    )
    cv2.putText(
        image,
        Phantom.letters,
        (int(0.03 * width), int(0.97 * height)),
        font,
        unit * 0.8,
        235,
        max(1, int(2 * unit)),
    )
    return image, mask


def plan_phantoms(train: int, val: int, test: int, seed: int) -> list[tuple]:
    """List the phantoms to draw, shared out and named as the real set: (relative path, finding, patient seed, image seed)."""
    generator, plan, patients = (
        np.random.default_rng(seed),
        [],
        {"IM": 114, "person": 0},
    )
    for split, count, normal_share in (
        ("test", test, 0.375),
        ("train", train, 0.26),
        ("val", val, 0.5),
    ):
        normal = round(count * normal_share)
        viral = round((count - normal) * 0.35)
        for finding, left in (
            ("normal", normal),
            ("bacteria", count - normal - viral),
            ("virus", viral),
        ):
            while left > 0:
                series = "IM" if finding == "normal" else "person"
                patients[series] += 1
                patient = patients[series]
                images = min(left, int(generator.geometric(0.7)))
                left -= images  # noqa: PLW2901
                for image in range(1, images + 1):
                    folder, name = (
                        "PNEUMONIA",
                        f"person{patient}_{finding}_{len(plan) + 1}",
                    )
                    if finding == "normal":
                        folder, name = (
                            "NORMAL",
                            f"{'NORMAL2-' * (patient % 2)}IM-{patient:04d}-{image:04d}",
                        )
                    plan.append(
                        (
                            f"{split}/{folder}/{name}.jpeg",
                            finding,
                            (seed, len(series), patient),
                            (seed, 99, len(plan)),
                        )
                    )
    return plan


def write_phantoms(
    folder, train: int = 600, val: int = 16, test: int = 200, seed: int = 0, masks=None
):
    """Draw phantom radiographs into folder/{train,val,test}/{NORMAL,PNEUMONIA}; the same seed gives the same bytes.

    `folder` must not exist yet: it appears, whole, when the last picture is drawn. `masks`, another new folder, receives
    PNG files of the same names, 255 where disease was drawn.
    """
    folder, masks = Path(folder), masks and Path(masks)
    for target in filter(None, (folder, masks)):
        if target.exists():
            raise FileExistsError(
                f"{target} exists already: choose a new folder, or remove it first."
            )
    plan = plan_phantoms(train, val, test, seed)
    unfinished = {
        target: target.with_name(f"{target.name}.unfinished")
        for target in (folder, masks)
        if target
    }

    def draw(entry):
        path, finding, patient_seed, image_seed = entry
        image, mask = draw_phantom(finding, patient_seed, image_seed)
        jpeg = cv2.imencode(".jpeg", image, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        comment = (
            b"\xff\xfe" + (len(Phantom.mark) + 2).to_bytes(2, "big") + Phantom.mark
        )
        (unfinished[folder] / path).write_bytes(jpeg[:2] + comment + jpeg[2:])
        if masks:
            (unfinished[masks] / path).with_suffix(".png").write_bytes(
                cv2.imencode(".png", mask)[1].tobytes()
            )

    for target in unfinished.values():
        shutil.rmtree(target, ignore_errors=True)
        for path in {Path(entry[0]).parent for entry in plan}:
            (target / path).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(
            tqdm(
                pool.map(draw, plan),
                total=len(plan),
                desc="Drawing phantoms",
                file=sys.stdout,
                mininterval=1,
            )
        )
    for target, source in unfinished.items():
        source.rename(target)


def main():
    """Draw phantoms from the command line."""
    import argparse

    parser = argparse.ArgumentParser(
        "python -m cxr.phantoms",
        description=(
            "Draw phantom radiographs: a stand-in for the data set, for machines that cannot reach it and for tests. A chest with ribs, "
            "clavicles, heart, spine and diaphragm, in changing pose and exposure; NORMAL is clear, bacterial pneumonia one focal opacity, "
            "viral pneumonia a diffuse haze on both sides. Folders, names and sizes are those of the real set. Each picture says PHANTOM, "
            "burnt in and in a comment inside the file. The same numbers give the same bytes."
        ),
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("data/phantoms/chest_xray"),
        help="new folder for the pictures (default: %(default)s)",
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
    print(
        f"{options.folder}: {options.train + options.val + options.test} phantom radiographs, which show no patient."
    )


if __name__ == "__main__":
    main()
