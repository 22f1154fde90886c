"""The settings of a run: names, types and ranges, checked before anything runs."""

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

RENAMED_SETTINGS = {
    "GEOMETRY": "RESIZE_MODE",
    "POSE": "AUG_AFFINE",
    "EXPOSURE": "AUG_INTENSITY",
    "TEXTURE": "AUG_BLUR_NOISE",
    "RESAMPLES": "BOOTSTRAP_SAMPLES",
    "VALIDATION_SHARE": "VALIDATION_FRACTION",
}

RENAMED_RESIZE_MODES = {"squash": "stretch", "fit": "pad", "crop": "center_crop"}


def describe_renamed_setting(old_name: str, value: Any) -> str:
    """Return the beginning of a sentence that gives the new name of a setting.

    An old value of RESIZE_MODE is translated, too.
    """
    new_name = RENAMED_SETTINGS[old_name]
    sentence = f"{old_name} is now called {new_name}"
    if new_name == "RESIZE_MODE" and value in list(RENAMED_RESIZE_MODES):
        sentence += f", and its value {value!r} is now {RENAMED_RESIZE_MODES[value]!r}"
    return sentence


def expand_home(path: str | os.PathLike[str] | None) -> str:
    """Return the path of a folder with ~ replaced by the home folder, "" for None.

    Raises
    ------
    ValueError
        The path begins with the home folder of an unknown user, or it is a path of
        Windows and this is another system, which would create a folder of that name.
    """
    text = str(path or "")
    if os.name != "nt" and re.match(r"[A-Za-z]:($|[\\/])|[~.]{0,2}\\", text):
        raise ValueError(
            "it should be a path of this system, with / between the folders, and not "
            "one of Windows (write ./ before the name of a folder that is called so)"
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            "it should not begin with the home folder of an unknown user "
            "(write ./~… for a folder whose name begins with ~)"
        )
    return expanded


Folder = Annotated[str, BeforeValidator(expand_home)]


def check_run_name(name: str) -> str:
    """Return the name of a run unchanged; raise ValueError if it cannot be used."""
    well_formed = re.fullmatch(r"[A-Za-z0-9]([\w .+-]{0,58}[\w+-])?", name)
    if not well_formed or name.lower() == "baseline":
        raise ValueError(
            "it should be a short name of letters, digits, spaces and . + - _ "
            '(with no space or . at its end; "baseline" is reserved)'
        )
    return name


class Settings(BaseModel):
    """The settings; a value of the wrong type or out of its range is refused."""

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
    TARGET_SENSITIVITY: float = Field(gt=0, lt=1)
    BOOTSTRAP_SAMPLES: int = Field(ge=10, le=100_000)
    SEED: int = Field(ge=0, lt=2**32)
    SPLIT_SEED: int = Field(ge=0, lt=2**32)
    DETERMINISTIC: bool
    MIXED_PRECISION: Literal["auto", "on", "off"]
    SAVE_TO_DRIVE: bool


def resolve_settings(values: dict[str, Any], device: str) -> Settings:
    """Return the checked settings; a setting that is None takes the preset's value.

    Parameters
    ----------
    values : dict
        All settings by name, and PRESETS, {preset: {setting: value}}. The notebook
        passes its globals(); names that are no settings are ignored.
    device : str
        "CPU", "GPU" or "TPU": decides what the preset "auto" means.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
        A setting has its old name, the wrong type, or a value out of range. The
        message names the first such setting.
    """
    for old_name in RENAMED_SETTINGS:
        if old_name in values:
            raise ValueError(
                f"{describe_renamed_setting(old_name, values[old_name])}: change it in "
                f"the settings cell, then restart the session (or run del {old_name})."
            )
    preset = values["PRESET"]
    if preset == "auto":
        preset = "quick" if device == "CPU" else "full"
    defaults = values["PRESETS"].get(preset, {}) if isinstance(preset, str) else {}
    chosen = {
        name: defaults.get(name) if values[name] is None else values[name]
        for name in Settings.model_fields
    }
    try:
        return Settings.model_validate(chosen)
    except ValidationError as error:
        first = error.errors()[0]
    name = first["loc"][0]
    value = first["input"]
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason.replace("Input", "it").replace("String", "it")
    if name == "RESIZE_MODE" and value in list(RENAMED_RESIZE_MODES):
        reason += f" ({value!r} is now called {RENAMED_RESIZE_MODES[value]!r})"
    raise ValueError(
        f"{name} is {value!r}, but {reason}: change it in the settings cell."
    )
