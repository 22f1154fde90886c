"""The sections of the notebook: which of them have run, on what, and for how long."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython

from cxr.settings import Settings, resolve_settings


@dataclass(frozen=True)
class Section:
    """What a section of the notebook requires, and what it leaves behind.

    Parameters
    ----------
    name : str
        Key of its duration in metrics.json.
    requires : tuple of int
        Sections that must have run before.
    uses_if_present : tuple of int
        Sections whose results it uses if they have run.
    freezes : tuple of str
        Settings that later sections must not find changed.
    results : tuple of str
        Global variables that exist when the section has run to its end.
    """

    name: str
    requires: tuple[int, ...] = ()
    uses_if_present: tuple[int, ...] = ()
    freezes: tuple[str, ...] = ()
    results: tuple[str, ...] = ()


SECTIONS = (
    Section("setup", freezes=("OUTPUT_DIR", "SAVE_TO_DRIVE"), results=("output_dir",)),
    Section(
        "data", (0,), freezes=("DATA_DIR",), results=("data_dir", "listed", "data_kind")
    ),
    Section(
        "images",
        (0, 1),
        freezes=("IMAGE_SIZE", "RESIZE_MODE"),
        results=("x_train_folder", "x_val_folder", "x_test", "loaded", "unreadable"),
    ),
    Section("exploration", (0, 1, 2), results=("groups", "shortcut_scores")),
    Section(
        "split",
        (0, 1, 2, 3),
        freezes=("VALIDATION_FRACTION", "SPLIT_SEED"),
        results=("files", "val_files", "linear_model"),
    ),
    Section("model", (0, 1, 2), results=("networks",)),
    Section("training", (0, 1, 2, 3, 4, 5), results=("history",)),
    Section(
        "evaluation",
        (0, 1, 2, 3, 4, 5),
        uses_if_present=(6,),
        freezes=("RUN_NAME",),
        results=("threshold", "y_prob_test", "report"),
    ),
    Section("inspection", (0, 1, 2, 3, 4, 5, 7), results=("detector",)),
    Section("comparison", (0,), results=("records",)),
    Section("conclusion", (0, 1, 2, 3, 4, 5, 7)),
)


@dataclass
class SectionRun:
    """What is known of a section that has begun."""

    input_hashes: dict[int, str]
    frozen_settings: dict[str, Any]
    output_hash: str = "unfinished"


def hash_results(results: Mapping[str, Any]) -> str:
    """Return a hash of arrays, tables and plain values; other objects do not count."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in results.items():
        digest.update(name.encode())
        if isinstance(value, np.ndarray):
            digest.update(f"{value.shape} {value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).data)
        elif isinstance(value, pd.DataFrame):
            digest.update(value.to_csv().encode("utf-8", "surrogatepass"))
        elif isinstance(value, (str, int, float, tuple, list, dict)):
            digest.update(repr(value).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class SectionTracker:
    """Begins a section when it is called, and refuses it where its inputs do not fit.

    ``settings = section(4)`` ends the section before, checks the settings, and checks
    that the sections that section 4 requires have run to their end, with the present
    settings, on the present results of each other. It removes what an earlier run of
    section 4 has left in `namespace`. So a section that was stopped halfway is known
    by what is missing.

    Parameters
    ----------
    namespace : dict
        The global variables of the notebook.
    device : str
        "CPU" or "GPU", for the preset "auto".

    Attributes
    ----------
    seconds : dict
        {section name: seconds that its cells have run}; a section that begins anew
        replaces its earlier time.
    """

    sections = SECTIONS

    def __init__(self, namespace: dict[str, Any], device: str) -> None:
        self.namespace = namespace
        self.device = device
        self.current: int | None = None
        self.runs: dict[int, SectionRun] = {}
        self.seconds: dict[str, float] = {}
        self.since: float | None = None
        if shell := get_ipython():
            shell.events.register("pre_run_cell", self.start_clock)
            shell.events.register("post_run_cell", self.stop_clock)

    def __call__(self, number: int) -> Settings:
        """Begin a section; return the checked settings.

        Raises
        ------
        ValueError
            A setting is wrong; the message names it.
        RuntimeError
            Another section has to run first; the message names it.
        """
        self.end()
        settings = resolve_settings(self.namespace, self.device)
        section = self.sections[number]
        self.check(number, settings)
        self.current = number
        self.seconds[section.name] = 0.0
        for name in section.results:
            self.namespace.pop(name, None)
        inputs = {
            other: self.output_hash(other)
            for other in (*section.requires, *section.uses_if_present)
        }
        frozen = {name: getattr(settings, name) for name in section.freezes}
        self.runs[number] = SectionRun(inputs, frozen)
        return settings

    def end(self) -> None:
        """End the section that has begun: note its time and, if whole, its result."""
        self.stop_clock()
        self.start_clock()
        if self.current is None:
            return
        names = self.sections[self.current].results
        if all(name in self.namespace for name in names):
            results = {name: self.namespace[name] for name in names}
            self.runs[self.current].output_hash = hash_results(results)

    def start_clock(self, *_: object) -> None:
        """Start to measure the time of a cell."""
        self.since = time.perf_counter()

    def stop_clock(self, *_: object) -> None:
        """Add the time since `start_clock` to the section that has begun."""
        if self.since is not None and self.current is not None:
            name = self.sections[self.current].name
            elapsed = time.perf_counter() - self.since
            self.seconds[name] = round(self.seconds[name] + elapsed, 2)
        self.since = None

    def output_hash(self, number: int) -> str:
        """Return the hash of a section's results; "" if it has never begun."""
        return self.runs[number].output_hash if number in self.runs else ""

    def require(self, number: int) -> None:
        """Raise RuntimeError if sections that a section requires have never begun."""
        required = self.sections[number].requires
        missing = [other for other in required if other not in self.runs]
        if missing:
            plural = "s" if len(missing) > 1 else ""
            raise RuntimeError(
                f"Section {number} needs the results of earlier sections: run "
                f"section{plural} {', '.join(map(str, missing))} first."
            )

    def check(self, number: int, settings: Settings) -> None:
        """Raise RuntimeError, saying what to run, unless a section can begin."""
        self.require(number)
        for other in self.sections[number].requires:
            run = self.runs[other]
            if run.output_hash == "unfinished":
                raise RuntimeError(
                    f"Section {other} has begun but not finished: run all its cells."
                )
            for name, value in run.frozen_settings.items():
                if getattr(settings, name) != value:
                    raise RuntimeError(
                        f"{name} was {value!r} when section {other} ran and is "
                        f"{getattr(settings, name)!r} now: run section {other} again, "
                        "or set it back."
                    )
            for earlier, known in run.input_hashes.items():
                now = self.output_hash(earlier)
                if now == known:
                    continue
                if now == "unfinished":
                    raise RuntimeError(
                        f"Section {earlier} has begun since section {other} ran and "
                        f"has not finished: run sections {earlier} and {other} again."
                    )
                raise RuntimeError(
                    f"Section {earlier} has run since section {other}, with another "
                    f"result: run section {other} again."
                )
