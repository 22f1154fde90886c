"""A reader runs the sections in any order: each works on what fits together, or one sentence says which to run."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from build import read_settings

from cxr.sections import SectionTracker

DEFAULTS = read_settings()


def run(tour, *numbers, made="", **settings):
    """Run sections to their end; what each makes is told by `made`."""
    for number in numbers:
        tour.start(f"{number} A section", DEFAULTS | settings)
        tour.finish(f"{number}{made}")


def refusal(tour, number, **settings):
    """The sentence with which a section refuses to begin, or ""."""
    try:
        tour.start(f"{number} A section", DEFAULTS | settings)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.fixture
def tour():
    return SectionTracker("CPU")


@pytest.fixture
def whole(tour):
    """A reader who has run everything from top to bottom."""
    run(tour, *range(11))
    return tour


@pytest.mark.parametrize("number", range(1, 11))
def test_a_section_run_first_names_all_that_it_needs_and_nothing_else(tour, number):
    told = refusal(tour, number)
    start = (
        rf"Section {number} needs what is made before: run sections? ([\d, ]+) first\."
    )
    named = [int(one) for one in re.fullmatch(start, told)[1].split(", ")]
    run(tour, *named)  # in this order none of them is refused
    assert refusal(tour, number) == ""
    for left_out in named:
        other = SectionTracker("CPU")
        for one in named:
            if one != left_out and not refusal(other, one):
                other.finish(str(one))
        assert re.search(rf"\b{left_out}\b", refusal(other, number).split(":")[1])


@pytest.mark.parametrize(
    ("done", "number", "wanted"),
    [
        ((0, 1, 2, 3, 4), 6, "run section 5 first."),
        ((0, 1, 2, 3, 4, 5, 6), 10, "run section 7 first."),
        ((0,), 4, "run sections 1, 2, 3 first."),
        ((0, 1, 2, 5), 10, "run sections 3, 4, 7 first."),
    ],
)
def test_only_what_is_missing_is_named(tour, done, number, wanted):
    run(tour, *done)
    assert (
        refusal(tour, number) == f"Section {number} needs what is made before: {wanted}"
    )


def test_from_top_to_bottom_nothing_is_refused_nor_when_run_again_with_the_same_result(
    whole,
):
    for number in (*range(11), *reversed(range(11))):
        assert refusal(whole, number) == ""
        whole.finish(str(number))


@pytest.mark.parametrize(
    ("again", "later", "sentence"),
    [
        (
            1,
            4,
            "Section 1 has been run since section 2, with another result: run section 2 again.",
        ),
        (
            2,
            4,
            "Section 2 has been run since section 3, with another result: run section 3 again.",
        ),
        (
            2,
            6,
            "Section 2 has been run since section 3, with another result: run section 3 again.",
        ),
        (4, 6, ""),
        (4, 7, ""),  # these begin anew with the split that is there now
        (
            4,
            8,
            "Section 4 has been run since section 7, with another result: run section 7 again.",
        ),
        (5, 8, ""),
        (6, 7, ""),
        (
            6,
            8,
            "Section 6 has been run since section 7, with another result: run section 7 again.",
        ),
        (
            6,
            10,
            "Section 6 has been run since section 7, with another result: run section 7 again.",
        ),
        (8, 10, ""),
        (1, 9, ""),
    ],
)
def test_another_result_makes_those_refuse_that_would_mix_it_with_the_old(
    whole, again, later, sentence
):
    run(whole, again, made=" otherwise")
    assert refusal(whole, later) == sentence
    if not sentence:
        whole.finish("other")
        return
    for number in range(again + 1, later):  # what a reader does who does as told
        run(whole, number)
    assert refusal(whole, later) == ""


def test_section_7_answers_for_a_run_on_disk_and_has_to_be_run_again_once_6_has_trained(
    tour,
):
    run(tour, 0, 1, 2, 3, 4, 7, 8)
    assert refusal(tour, 8) == ""
    run(tour, 5, 6)
    assert (
        refusal(tour, 8)
        == "Section 6 has been run since section 7, with another result: run section 7 again."
    )
    run(tour, 7)
    assert refusal(tour, 8) == ""


@pytest.mark.parametrize(
    ("change", "fixed_by", "later"),
    [
        ({"IMAGE_SIZE": 96}, 2, 3),
        ({"IMAGE_SIZE": 96}, 2, 7),
        ({"SPLIT_SEED": 7}, 4, 6),
        ({"VALIDATION_FRACTION": 0.2}, 4, 8),
        ({"RESIZE_MODE": "pad"}, 2, 3),
        ({"RESIZE_MODE": "center_crop"}, 2, 7),
        ({"DATA_DIR": "/elsewhere"}, 1, 2),
        ({"OUTPUT_DIR": "/elsewhere"}, 0, 9),
        ({"RUN_NAME": "mine"}, 7, 8),
    ],
)
def test_a_setting_that_changed_since_is_named_with_both_values(
    whole, change, fixed_by, later
):
    ((name, value),) = change.items()
    before = getattr(whole.settings, name)
    assert refusal(whole, later, **change) == (
        f"{name} was {before!r} when section {fixed_by} ran, and is {value!r} now: "
        f"run section {fixed_by} again, or set it back."
    )
    assert refusal(whole, later) == ""  # set back
    whole.finish(str(later))
    assert refusal(whole, fixed_by, **change) == ""  # run again


@pytest.mark.parametrize(
    "change",
    [{"EPOCHS": 5}, {"LEARNING_RATE": 0.01}, {"SEED": 3}, {"BOOTSTRAP_SAMPLES": 50}],
)
def test_a_setting_of_a_training_may_change_before_it(whole, change):
    assert (
        refusal(whole, 6, **change) == ""
        and whole.settings.model_dump().items() >= change.items()
    )


def test_the_name_of_a_new_run_may_change_before_6(whole):
    assert refusal(whole, 6, RUN_NAME="mine") == ""
    whole.finish("another")
    assert refusal(whole, 7, RUN_NAME="mine") == ""
    whole.finish("another")
    assert refusal(whole, 8, RUN_NAME="mine") == ""


def test_a_section_that_failed_in_the_middle_counts_as_not_run(whole):
    whole.start("4 A validation set", DEFAULTS)  # and here its cell ends in an error
    assert (
        refusal(whole, 7) == "Section 7 needs what is made before: run section 4 first."
    )
    assert refusal(whole, 3) == ""


def test_a_training_that_failed_leaves_nobody_with_its_answers(whole):
    """Section 7 answers for the run on disk, which may be another one now."""
    whole.start("6 Train", DEFAULTS)
    assert "run section 7 again" in refusal(whole, 8) and refusal(whole, 7) == ""


def test_a_section_that_was_refused_keeps_what_it_made_before(whole):
    assert refusal(whole, 4, IMAGE_SIZE=96)
    assert refusal(whole, 6) == ""


def test_a_setting_that_makes_no_sense_stops_every_section(whole):
    for number in (0, 5, 9):
        with pytest.raises(ValueError, match="EPOCHS is 0"):
            whole.start(f"{number} A section", DEFAULTS | {"EPOCHS": 0})


def test_the_presets_are_those_of_the_device():
    sizes = [
        SectionTracker(device).start("0 Set up", DEFAULTS).IMAGE_SIZE
        for device in ("CPU", "GPU")
    ]
    assert sizes == [
        DEFAULTS["PRESETS"][name]["IMAGE_SIZE"] for name in ("quick", "full")
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            [np.zeros((3, 4, 4, 1), np.uint8)],
            [np.eye(4, dtype=np.uint8).reshape(1, 4, 4, 1).repeat(3, 0)],
        ),
        ([["a", "b"]], [["b", "a"]]),
        ([np.array(["train", "val"])], [np.array(["val", "fit"])]),
        ([0.5, np.ones(3)], [0.5, np.ones(2)]),
        ([np.arange(6).reshape(2, 3).T], [np.arange(6).reshape(3, 2)]),
    ],
)
def test_arrays_and_values_tell_one_result_from_another(tour, one, other):
    def make(content):
        run(tour, 0, 1)
        tour.start("2 Load the images", DEFAULTS)
        tour.finish(*content)

    make(one)
    run(tour, 3)
    make(
        [np.array(part) if isinstance(part, np.ndarray) else part for part in one]
    )  # a copy
    assert refusal(tour, 4) == ""
    make(other)
    assert "run section 3 again" in refusal(tour, 4)


def test_the_seconds_of_a_section_end_where_the_next_begins_and_those_of_a_second_run_replace_the_first(
    tour, monkeypatch
):
    """Cells follow the one that says that its section is finished."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        "cxr.sections.time", SimpleNamespace(perf_counter=lambda: clock.now)
    )
    for title, seconds in (
        ("0 Set up", 2.0),
        ("1 Get the data", 30.0),
        ("0 Set up", 5.0),
        ("1 Get the data", 7.5),
    ):
        tour.start(title, DEFAULTS)
        clock.now += seconds - 1
        tour.finish(title)
        clock.now += 1
    tour.stop()
    assert tour.seconds == {"0 Set up": 5.0, "1 Get the data": 7.5}
