"""The reader's way through the sections: what each needs, whether that still fits together, and how long it took."""

import hashlib
import time
from types import MappingProxyType
from typing import Any

import numpy as np

from cxr.settings import Settings, resolve_settings


class SectionTracker:
    """Which sections have run, and on what; one that would work on what no longer fits is refused.

    `needs`: the sections without which one cannot work; `heeds`: whose result it takes if there is one; `fixes`: settings it decides.
    """

    needs = MappingProxyType(
        {
            0: (),
            1: (0,),
            2: (0, 1),
            3: (0, 1, 2),
            4: (0, 1, 2, 3),
            5: (0, 1, 2),
            6: (0, 1, 2, 3, 4, 5),
            7: (0, 1, 2, 3, 4),
            8: (0, 1, 2, 3, 4, 7),
            9: (0,),
            10: (0, 1, 2, 3, 4, 5, 7),
        }
    )
    heeds = MappingProxyType({7: (6,)})
    fixes = MappingProxyType(
        {
            0: ("OUTPUT_DIR", "SAVE_TO_DRIVE"),
            1: ("DATA_DIR",),
            2: ("IMAGE_SIZE", "RESIZE_MODE"),
            4: ("VALIDATION_FRACTION", "SPLIT_SEED"),
            7: ("RUN_NAME",),
        }
    )

    def __init__(self, device: str):
        self.device, self.title, self.since, self.done, self.seconds = (
            device,
            "",
            0.0,
            {},
            {},
        )

    def start(self, title: str, values: dict[str, Any]) -> "Settings":
        """Begin a section ("4 A validation set"), return the settings in globals(); ValueError, or RuntimeError with what to run first."""
        self.stop()
        number, settings = (
            int(title.split(maxsplit=1)[0]),
            resolve_settings(values, self.device),
        )
        if number:
            self.check(number, settings)
        self.done.pop(number, None)
        self.title, self.settings, self.since = title, settings, time.perf_counter()
        return settings

    def finish(self, *content):
        """Mark the section that was begun as done; `content`: arrays and values that tell what it made from what it made before."""
        self.stop()
        digest, number = hashlib.blake2b(digest_size=16), int(self.title.split()[0])
        for one in content:
            digest.update(
                np.ascontiguousarray(one).data
                if isinstance(one, np.ndarray)
                else repr(one).encode()
            )
        basis = {
            other: self.done.get(other, {}).get("made")
            for other in (*self.needs[number], *self.heeds.get(number, ()))
        }
        fixed = {
            name: getattr(self.settings, name) for name in self.fixes.get(number, ())
        }
        self.done[number] = {"made": digest.hexdigest(), "basis": basis, "fixed": fixed}

    def stop(self):
        """Write down how long the section has taken so far; one that runs again replaces its earlier time."""
        if self.title:
            self.seconds[self.title] = round(time.perf_counter() - self.since, 2)

    def check(self, number: int, settings: "Settings"):
        """Raise RuntimeError if a section lacks what it needs, or if that was made from something else than what is there now."""
        missing = [other for other in self.needs[number] if other not in self.done]
        if missing:
            raise RuntimeError(
                f"Section {number} needs what is made before: run section{'s' * (len(missing) > 1)} "
                f"{', '.join(map(str, missing))} first."
            )
        for other in self.needs[number]:
            for name, value in self.done[other]["fixed"].items():
                if getattr(settings, name) != value:
                    raise RuntimeError(
                        f"{name} was {value!r} when section {other} ran, and is {getattr(settings, name)!r} now: "
                        f"run section {other} again, or set it back."
                    )
            for earlier, made in self.done[other]["basis"].items():
                if self.done.get(earlier, {}).get("made") != made:
                    raise RuntimeError(
                        f"Section {earlier} has been run since section {other}, with another result: "
                        f"run section {other} again."
                    )
