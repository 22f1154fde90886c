"""Sections may be run in any order: each finds what fits, or says what to run."""

import ast
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from build import build, read_settings

from cxr.sections import SECTIONS, SectionTracker, hash_results

DEFAULTS = read_settings()


class Reader:
    """Somebody who runs sections, with a namespace as that of a kernel."""

    def __init__(self, device="CPU"):
        self.namespace = dict(DEFAULTS)
        self.section = SectionTracker(self.namespace, device)

    def begin(self, number, **settings):
        self.namespace |= DEFAULTS | settings
        return self.section(number)

    def run(self, *numbers, result="", **settings):
        """Run sections to their end; `result` tells one result from another."""
        for number in numbers:
            self.begin(number, **settings)
            for name in SECTIONS[number].results:
                self.namespace[name] = f"{name}{result}"
        self.section.end()

    def refusal(self, number, **settings):
        """Return the sentence with which a section refuses to begin, or run it."""
        try:
            self.run(number, **settings)
        except RuntimeError as error:
            return str(error)
        return ""


@pytest.fixture
def reader():
    return Reader()


@pytest.fixture
def done(reader):
    """A reader who has run everything from top to bottom."""
    reader.run(*range(11))
    return reader


@pytest.mark.parametrize("number", range(1, 11))
def test_a_section_run_first_names_all_that_it_requires(reader, number):
    sentence = reader.refusal(number)
    start = rf"Section {number} needs the results of earlier sections: run sections? "
    found = re.fullmatch(rf"{start}([\d, ]+) first\.", sentence)
    named = [int(text) for text in found[1].split(", ")]
    reader.run(*named)  # in this order none of them is refused
    assert reader.refusal(number) == ""
    for left_out in named:
        other = Reader()
        for required in named:
            if required != left_out:
                other.refusal(required)
        reason = other.refusal(number).split(":")[1]
        assert re.search(rf"\b{left_out}\b", reason)


@pytest.mark.parametrize(
    ("before", "number", "wanted"),
    [
        ((0, 1, 2, 3, 4), 6, "run section 5 first."),
        ((0, 1, 2, 3, 4, 5, 6), 10, "run section 7 first."),
        ((0,), 4, "run sections 1, 2, 3 first."),
    ],
)
def test_only_what_is_missing_is_named(reader, before, number, wanted):
    reader.run(*before)
    assert reader.refusal(number).endswith(wanted)


def test_nothing_is_refused_from_top_to_bottom_nor_again_with_the_same_result(done):
    for number in (*range(11), *reversed(range(11))):
        assert done.refusal(number) == ""


@pytest.mark.parametrize(
    ("again", "later", "refused"),
    [
        (1, 4, (1, 2)),
        (2, 4, (2, 3)),
        (2, 6, (2, 3)),
        (4, 6, None),
        (4, 7, None),  # these begin anew with the split that is there now
        (4, 8, (4, 7)),
        (5, 8, (5, 7)),
        (6, 7, None),
        (6, 8, (6, 7)),
        (6, 10, (6, 7)),
        (8, 10, None),
        (1, 9, None),
    ],
)
def test_old_and_new_results_are_not_mixed(done, again, later, refused):
    done.run(again, result=" otherwise")
    sentence = done.refusal(later)
    if refused is None:
        assert sentence == ""
        return
    earlier, stale = refused
    assert f"Section {earlier} has run since section {stale}" in sentence
    assert sentence.endswith(f"run section {stale} again.")
    for number in range(again + 1, later):  # a reader who does as told
        done.run(number)
    assert done.refusal(later) == ""


def test_section_7_evaluates_a_run_on_disk_and_is_stale_once_6_has_trained(reader):
    reader.run(0, 1, 2, 3, 4, 5, 7, 8)
    reader.run(6)
    assert "Section 6 has run since section 7" in reader.refusal(8)
    reader.run(7)
    assert reader.refusal(8) == ""


@pytest.mark.parametrize("stopped", [2, 4, 6, 7])
def test_a_section_that_has_begun_and_not_finished_stops_those_that_depend_on_it(
    done, stopped
):
    done.begin(stopped)
    first = SECTIONS[stopped].results[0]
    if len(SECTIONS[stopped].results) > 1:
        done.namespace[first] = "the first cell ran"
    dependent = {2: 6, 4: 6, 6: 8, 7: 8}[stopped]
    sentence = done.refusal(dependent)
    assert f"Section {stopped} has begun" in sentence
    assert "run" in sentence.split(":")[1]
    done.run(stopped)
    if stopped == 6:
        assert done.refusal(8) == ""  # with the same result, section 7 still fits


def test_section_7_can_evaluate_an_older_run_after_a_training_that_was_stopped(done):
    done.begin(6)
    assert done.refusal(7) == ""
    assert done.refusal(8) == ""


def test_after_a_restart_a_stopped_training_makes_the_evaluation_stale(reader):
    reader.run(0, 1, 2, 3, 4, 5, 7)
    reader.begin(6)
    assert "run sections 6 and 7 again" in reader.refusal(8)


def test_a_section_run_half_is_finished_by_running_its_other_cells(reader):
    reader.run(0, 1)
    reader.begin(2)
    assert "run all its cells" in reader.refusal(3)
    for name in SECTIONS[2].results:
        reader.namespace[name] = name
    assert reader.refusal(3) == ""


@pytest.mark.parametrize(
    ("change", "frozen_by", "later"),
    [
        ({"IMAGE_SIZE": 96}, 2, 3),
        ({"IMAGE_SIZE": 96}, 2, 7),
        ({"SPLIT_SEED": 7}, 4, 6),
        ({"VALIDATION_FRACTION": 0.2}, 4, 8),
        ({"RESIZE_MODE": "pad"}, 2, 3),
        ({"DATA_DIR": "/elsewhere"}, 1, 2),
        ({"OUTPUT_DIR": "/elsewhere"}, 0, 9),
        ({"RUN_NAME": "mine"}, 7, 8),
    ],
)
def test_a_changed_setting_is_named_with_both_values(done, change, frozen_by, later):
    ((name, value),) = change.items()
    before = done.section.runs[frozen_by].frozen_settings[name]
    sentence = done.refusal(later, **change)
    assert f"{name} was {before!r} when section {frozen_by} ran" in sentence
    assert f"{value!r} now: run section {frozen_by} again" in sentence
    assert done.refusal(later) == ""  # set back
    assert done.refusal(frozen_by, **change) == ""  # run again


@pytest.mark.parametrize(
    "change",
    [{"EPOCHS": 5}, {"LEARNING_RATE": 0.01}, {"SEED": 3}, {"RUN_NAME": "mine"}],
)
def test_a_setting_of_a_training_may_change_before_it(done, change):
    settings = done.begin(6, **change)
    assert settings.model_dump().items() >= change.items()


def test_a_section_that_was_refused_keeps_its_earlier_results(done):
    before = dict(done.namespace)
    assert done.refusal(4, IMAGE_SIZE=96)
    assert done.namespace["val_files"] == before["val_files"]
    assert done.refusal(6) == ""


def test_a_wrong_setting_stops_every_section(done):
    for number in (0, 5, 9):
        with pytest.raises(ValueError, match="EPOCHS is 0"):
            done.begin(number, EPOCHS=0)


def test_the_presets_are_those_of_the_device():
    sizes = [Reader(device).begin(0).IMAGE_SIZE for device in ("CPU", "GPU")]
    presets = DEFAULTS["PRESETS"]
    assert sizes == [presets[name]["IMAGE_SIZE"] for name in ("quick", "full")]


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (np.zeros((3, 4, 4, 1), np.uint8), np.ones((3, 4, 4, 1), np.uint8)),
        (np.zeros((2, 8)), np.zeros((4, 4))),
        (["a", "b"], ["b", "a"]),
        (np.array(["train", "val"]), np.array(["val", "train"])),
        (0.5, 0.25),
        (pd.DataFrame({"path": ["a", "b"]}), pd.DataFrame({"path": ["a", "c"]})),
        (pd.DataFrame({"path": ["a\udcff"]}), pd.DataFrame({"path": ["a"]})),
    ],
)
def test_arrays_tables_and_values_tell_one_result_from_another(value, other):
    copy = value.copy() if isinstance(value, (np.ndarray, pd.DataFrame)) else value
    assert hash_results({"x": value}) == hash_results({"x": copy})
    assert hash_results({"x": value}) != hash_results({"x": other})


def test_the_seconds_of_a_section_are_those_of_its_cells(reader, monkeypatch):
    """With IPython's events only the time in cells counts, not that between them."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(
        "cxr.sections.time", SimpleNamespace(perf_counter=lambda: clock.now)
    )

    def run_cell(seconds, number=None):
        reader.section.start_clock()
        if number is not None:
            reader.begin(number)
            for name in SECTIONS[number].results:
                reader.namespace[name] = name
        clock.now += seconds
        reader.section.stop_clock()
        clock.now += 50  # the reader reads

    run_cell(2, 0)
    run_cell(30, 1)
    run_cell(4)
    assert reader.section.seconds == {"setup": 2, "data": 34}
    run_cell(7, 1)
    assert reader.section.seconds == {"setup": 2, "data": 7}


class Names(ast.NodeVisitor):
    """What code binds, and which names it reads that it does not bind itself."""

    def __init__(self, code):
        self.bound, self.read = set(), set()
        self.visit(code)

    def visit_Name(self, node):
        names = self.read if isinstance(node.ctx, ast.Load) else self.bound
        names.add(node.id)

    def visit_definition(self, node):
        self.bound.add(node.name)
        self.generic_visit(node)

    visit_FunctionDef = visit_ClassDef = visit_definition

    def visit_arg(self, node):
        self.bound.add(node.arg)
        self.generic_visit(node)

    def visit_alias(self, node):
        self.bound.add((node.asname or node.name).partition(".")[0])

    def visit_ExceptHandler(self, node):
        self.bound.add(node.name)
        self.generic_visit(node)


def list_definitions(tree):
    """Return {name: node} of the functions and classes at the top level, also in if."""
    found = {}
    for statement in tree.body:
        if isinstance(statement, ast.If):
            found |= list_definitions(statement)
        elif isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            found[statement.name] = statement
    return found


def test_what_a_section_calls_is_defined_by_itself_or_by_what_it_requires():
    """After a restart only the required sections have run."""
    trees, number = {}, 0
    for cell in build().cells:
        for found in re.findall(r"^## (\d+)\. ", cell.source, re.MULTILINE):
            number = int(found)
        if cell.cell_type == "code":
            trees.setdefault(number, ast.parse("")).body += ast.parse(cell.source).body
    assert sorted(trees) == list(range(len(SECTIONS)))
    bound, read, definitions = {}, {}, {}
    for number, tree in trees.items():
        definitions[number] = list_definitions(tree)
        inside = set(map(id, definitions[number].values()))
        tops = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
        nested = {
            id(child)
            for top in tops
            if id(top) in inside
            for child in ast.walk(top)
            if child is not top
        }
        names = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and id(node) not in nested
        ]
        bound[number] = set(definitions[number]) | {
            node.id for node in names if isinstance(node.ctx, ast.Store)
        }
        read[number] = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        for node in ast.walk(tree):
            if isinstance(node, ast.alias) and id(node) not in nested:
                bound[number].add((node.asname or node.name).partition(".")[0])
    everywhere = set().union(*bound.values())
    for number, section in enumerate(SECTIONS):
        required, waiting = {number}, [*section.requires]
        while waiting:
            other = waiting.pop()
            required.add(other)
            waiting += [one for one in SECTIONS[other].requires if one not in required]
        available = set().union(*(bound[other] for other in required))
        bodies = {
            name: node
            for other in required
            for name, node in definitions[other].items()
        }
        used, waiting = set(), [*read[number]]
        while waiting:
            name = waiting.pop()
            if name in used:
                continue
            used.add(name)
            if name in bodies:
                inner = Names(bodies[name])
                waiting += inner.read - inner.bound
        undefined = (used & everywhere) - available
        assert not undefined, f"section {number}"
