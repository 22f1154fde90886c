"""The settings of a run, each with the values that it may have."""

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)


def expand_home(path) -> str:
    """Return the path of a folder, "" for None, with ~ replaced; raise ValueError where it names the home of nobody."""
    expanded = os.path.expanduser(str(path or ""))
    if expanded.startswith("~"):
        raise ValueError(
            "it should not name the home of a user who is not here (write ./~… where a folder is called so)"
        )
    return expanded


Folder = Annotated[str, BeforeValidator(expand_home)]


def check_run_name(name: str) -> str:
    """Return a name under which a run can be kept, as it is; raise ValueError for any other text."""
    if not re.fullmatch(r"[A-Za-z0-9][\w .+-]{0,59}", name) or name == "baseline":
        raise ValueError(
            'it must be a short name of letters, digits, spaces and . + - _ (and not "baseline", which is taken)'
        )
    return name


class Settings(BaseModel):
    """The settings, checked: a value of the wrong kind, or out of its range, is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")
    PRESET: Literal["auto", "full", "quick"]
    DATA_DIR: Folder
    OUTPUT_DIR: Annotated[str, Field(min_length=1), BeforeValidator(expand_home)]
    CACHE_DIR: Folder
    RUN_NAME: Annotated[str, BeforeValidator(str), AfterValidator(check_run_name)]
    IMAGE_SIZE: int = Field(ge=32, le=1024)
    RESIZE_MODE: Literal["stretch", "pad", "center_crop"]
    EPOCHS: int = Field(ge=1, le=1000)
    BASELINE_EPOCHS: int = Field(ge=0, le=1000)
    BATCH_SIZE: int = Field(ge=1, le=4096)
    LEARNING_RATE: float = Field(ge=1e-7, le=1)
    WEIGHT_DECAY: float = Field(ge=0, le=1)
    DROPOUT: float = Field(ge=0, le=0.95)
    AUGMENT: bool
    AUG_AFFINE: float = Field(ge=0, le=2)
    AUG_INTENSITY: float = Field(ge=0, le=2)
    AUG_BLUR_NOISE: float = Field(ge=0, le=2)
    FLIP: bool
    CLASS_WEIGHTS: bool
    PATIENCE: int = Field(ge=1, le=1000)
    VALIDATION_FRACTION: float = Field(ge=0.02, le=0.5)
    BOOTSTRAP_SAMPLES: int = Field(ge=10, le=100_000)
    SEED: int = Field(ge=0, lt=2**32)
    SPLIT_SEED: int = Field(ge=0, lt=2**32)
    DETERMINISTIC: bool
    MIXED_PRECISION: Literal["auto", "on", "off"]
    SAVE_TO_DRIVE: bool


def resolve_settings(values: dict[str, Any], device: str) -> Settings:
    """Return the checked settings of globals(), with the preset's values where they are None; a ValueError names a wrong one."""
    preset = {"auto": "quick" if device == "CPU" else "full"}.get(
        values["PRESET"], values["PRESET"]
    )
    defaults = values["PRESETS"].get(preset, {})
    chosen = {
        name: defaults.get(name) if values[name] is None else values[name]
        for name in Settings.model_fields
    }
    try:
        return Settings.model_validate(chosen)
    except ValidationError as error:
        first = error.errors()[0]
        reason = (
            first["msg"]
            .removeprefix("Value error, ")
            .replace("Input", "it")
            .replace("String", "it")
        )
        raise ValueError(
            f"{first['loc'][0]} is {first['input']!r}, but {reason}: change it in the settings cell."
        ) from None
