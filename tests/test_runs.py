"""The record of a run on disk: written atomically, verified, and read with care.

A damaged record, or one of another training, is refused by name.
"""

import errno
import functools
import io
import json
import shutil
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import crash_points
import keras
import numpy as np
import pandas as pd
import pytest

from cxr.batches import ImageBatches
from cxr.calibration import calibrate_model
from cxr.evaluation import metrics_with_ci
from cxr.models import build_baseline
from cxr.runs import (
    check_run_folder,
    list_runs,
    load_run,
    lock_run,
    publish_run,
    read_record,
    read_run,
    read_verified,
    save_predictions,
    save_validation,
    to_csv,
    validation_set_id,
)
from cxr.storage import StorageError, recover_interrupted_write, short_hash, to_json
from cxr.training import TrainingRun

SETTINGS = {
    "RUN_NAME": "first",
    "IMAGE_SIZE": 32,
    "RESIZE_MODE": "stretch",
    "EPOCHS": 3,
    "AUGMENT": True,
    "AUG_AFFINE": 1.0,
    "LEARNING_RATE": 0.001,
    "OUTPUT_DIR": "outputs",
    "BASELINE_EPOCHS": 2,
    "SEED": 0,
    "BOOTSTRAP_SAMPLES": 100,
}
LABELS = np.arange(40) % 2
FILES = pd.DataFrame(
    {
        "path": list("dacb"),
        "label": [0, 1, 0, 1],
        "patient": list("wxyz"),
        "width": 9,
        "height": 8,
        "split": "val",
    }
)
PROBABILITIES = np.array([0.1, 0.9, 1 / 3, 0.7])
METRICS = {
    name: {"value": 0.8, "low": 0.7, "high": 0.9}
    for name in ("auc", "accuracy", "sensitivity", "specificity")
}
EVALUATION = {
    "threshold": 0.4,
    "temperature": 1.5,
    "shift": 0.2,
    "calibration_error": {"before": 0.1, "after": 0.05},
    "validation": METRICS,
}


def make_settings(**changes):
    return SimpleNamespace(**{**SETTINGS, **changes})


def predict_with(strength, seed):
    """Return probabilities for LABELS: the signal is `strength` times the noise."""
    noise = np.random.default_rng(seed).normal(size=len(LABELS))
    return 1 / (1 + np.exp(-(strength * (LABELS - 0.5) + noise)))


@pytest.fixture
def add(tmp_path):
    """Return a function that writes a run to tmp_path/runs as sections 6 and 7 do."""

    def add(
        name,
        probabilities=None,
        trained="2026-01-02",
        validated=None,
        data="phantom",
        validation_set="aaaa1111",
        width=60,
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        numbers = range(len(LABELS))
        files = pd.DataFrame(
            {
                "path": [f"train/{number:04}.jpeg" for number in numbers],
                "label": LABELS,
                "patient": [f"person{number}" for number in numbers],
                "width": width,
                "height": 50,
            }
        )
        history = pd.DataFrame(
            {"epoch": [1, 2, 3], "val_loss": [3, 1, 2], "val_auc": 0.9, "loss": 1}
        )
        history.to_csv(folder / "history.csv", index=False)
        digest = short_hash((folder / "history.csv").read_bytes())
        record = {
            "schema": 1,
            "name": name,
            "trained": trained,
            "data": data,
            "validation_set": validation_set,
            "settings": SETTINGS | {"RUN_NAME": name},
            "epochs": 3,
            "seconds": 90,
            "best_epoch": 2,
            "files": {"history.csv": digest},
        }
        if probabilities is not None:
            metrics = metrics_with_ci(
                LABELS, probabilities, files.patient, 0.5, bootstrap_samples=10, seed=0
            )
            record |= {"threshold": 0.5, "validation": metrics}
            record = save_predictions(folder, record, files, probabilities)
        if validated:
            record["validated"] = validated
        (folder / "run.json").write_text(to_json(record))
        return folder

    return add


@functools.cache
def make_network(number):
    """Return (network, content of its file), one for each number."""
    model = build_baseline(32)
    model.compile("sgd")
    weights = [weight + number for weight in model.get_weights()]
    model.set_weights(weights)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "saved.keras")
        return model, (Path(folder) / "saved.keras").read_bytes()


def finish_training(folder, number=0, **settings):
    """Leave in `folder` what section 6 leaves after training network `number`.

    Return (network, TrainingRun).
    """
    model, content = make_network(number)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    batches = ImageBatches([images], np.arange(4), FILES.label.to_numpy(), 4)
    about = {"data": "phantom", "validation_set": validation_set_id(FILES)}
    with TrainingRun(
        folder, model, [], 2, batches, batches, make_settings(**settings), about
    ) as run:
        run.rows = [
            {"epoch": 1, "loss": 0.6, "val_loss": 0.7, "val_auc": 0.5, "seconds": 1},
            {"epoch": 2, "loss": 0.6, "val_loss": 0.8, "val_auc": 0.6, "seconds": 2.5},
        ]
        run.best = content
    return model, run


def evaluate(folder, trained=None):
    """Do what section 7 does with a run; return (calibrated network, record)."""
    model, record = load_run(folder, make_settings(), validation_set_id(FILES))
    calibrate_model(model, EVALUATION["temperature"], EVALUATION["shift"])
    record = save_validation(folder, record | EVALUATION, FILES, PROBABILITIES, trained)
    return model, record


# Training and loading


def test_a_finished_run_is_a_network_a_history_and_a_record(tmp_path):
    folder = tmp_path / "runs/first"
    model, _ = finish_training(folder)
    assert sorted(crash_points.read_files(folder)) == [
        "best.keras",
        "history.csv",
        "run.json",
    ]
    record = json.loads((folder / "run.json").read_text())
    expected = {
        "schema": 1,
        "name": "first",
        "data": "phantom",
        "validation_set": validation_set_id(FILES),
        "settings": SETTINGS,
        "epochs": 2,
        "ended": "all epochs",
        "seconds": 2.5,
        "best_epoch": 1,
    }
    assert {name: record[name] for name in expected} == expected
    loaded, record = load_run(folder, make_settings(), validation_set_id(FILES))
    for weights, saved in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, saved)
    assert record["network"] == "baseline"
    assert record["parameters"] == model.count_params()


@pytest.mark.parametrize(
    ("settings", "files", "message"),
    [
        ({}, FILES[1:], "'first' was trained with another validation set"),
        (
            {"IMAGE_SIZE": 48},
            FILES,
            "trained at 32 pixels and the images are loaded at 48",
        ),
        (
            {"RESIZE_MODE": "pad"},
            FILES,
            "RESIZE_MODE 'stretch' and the images are loaded with 'pad': run section 6",
        ),
    ],
)
def test_a_run_on_other_images_is_refused(tmp_path, settings, files, message):
    finish_training(tmp_path / "runs/first")
    with pytest.raises(ValueError, match=message):
        load_run(
            tmp_path / "runs/first", make_settings(**settings), validation_set_id(files)
        )


@pytest.mark.parametrize("name", ["second", "first/deeper"])
def test_a_run_that_is_not_there_is_named_and_no_folder_is_made(tmp_path, name):
    finish_training(tmp_path / "runs/first")
    message = rf"no finished run in .*{name}: run section 6 first"
    with pytest.raises(FileNotFoundError, match=message):
        load_run(tmp_path / "runs" / name, make_settings(), "aaaa1111")
    assert not (tmp_path / "runs" / name).exists()


@pytest.mark.parametrize(
    ("name", "trained", "current", "named"),
    [
        ("first", {}, {}, []),
        (
            "first",
            {"LEARNING_RATE": 0.01},
            {"EPOCHS": 9},
            ["LEARNING_RATE 0.01 (now 0.001)", "EPOCHS 3 (now 9)"],
        ),
        # Settings without an effect on this training.
        ("first", {"BOOTSTRAP_SAMPLES": 50}, {"BASELINE_EPOCHS": 1}, []),
        ("first", {"OUTPUT_DIR": "elsewhere"}, {"RUN_NAME": "other"}, []),
        (
            "first",
            {"AUGMENT": False},
            {"AUG_AFFINE": 0.5},
            ["AUGMENT False (now True)"],
        ),
        ("baseline", {"EPOCHS": 9}, {"AUGMENT": False}, []),
        ("baseline", {}, {"BASELINE_EPOCHS": 5}, ["BASELINE_EPOCHS 2 (now 5)"]),
    ],
)
def test_settings_that_differ_from_the_current_ones_are_named(
    tmp_path, capsys, name, trained, current, named
):
    """As after a training that was stopped in its first epoch: the old run is there."""
    finish_training(tmp_path / "runs" / name, **trained)
    settings = make_settings(**current)
    load_run(tmp_path / "runs" / name, settings, validation_set_id(FILES))
    printed = capsys.readouterr().out
    assert all(change in printed for change in named)
    assert printed.count("(now ") == len(named)
    if named:
        assert f"'{name}' was trained with other settings" in printed
    else:
        assert printed == ""


def test_a_validation_set_is_identified_by_its_paths_in_any_order():
    assert validation_set_id(FILES) == validation_set_id(FILES[::-1])
    other = FILES.assign(split=["train", *["val"] * 3])
    assert validation_set_id(FILES) != validation_set_id(other)


def test_a_run_whose_name_differs_in_letter_case_only_is_refused(tmp_path):
    check_run_folder(tmp_path / "runs", "first")  # there is no run yet
    for name in ("first", "Second run", "über"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name in ("first", "Second run", "third", "firs", "über"):
        check_run_folder(tmp_path / "runs", name)
    for name, existing in {
        "First": "first",
        "second RUN": "Second run",
        "Über": "über",
    }.items():
        message = f"RUN_NAME is '{name}', but .* has a run '{existing}'"
        with pytest.raises(ValueError, match=message):
            check_run_folder(tmp_path / "runs", name)


# Validation


def test_section_7_saves_the_predictions(tmp_path):
    folder = tmp_path / "runs/first"
    finish_training(folder)
    _, record = evaluate(folder)
    [run] = list_runs(tmp_path / "runs")
    assert run["predictions"].path.tolist() == list("abcd")
    assert run["predictions"].patient.tolist() == list("xzyw")
    expected = PROBABILITIES[[1, 3, 2, 0]].tolist()
    assert run["predictions"].probability.tolist() == expected
    assert not list(folder.glob("*unfinished*"))
    stored = json.loads((folder / "run.json").read_text())
    assert stored == record
    assert stored == stored | EVALUATION | {"network": "baseline"}
    assert stored["validated"] >= stored["trained"]


def test_saving_the_validation_leaves_the_given_record_unchanged(tmp_path):
    folder = tmp_path / "runs/first"
    finish_training(folder)
    _, record = load_run(folder, make_settings(), validation_set_id(FILES))
    record |= EVALUATION
    before = json.dumps(record)
    save_validation(folder, record, FILES, PROBABILITIES)
    assert json.dumps(record) == before


def test_a_file_name_with_a_line_break_is_read_back_unchanged(tmp_path):
    folder = tmp_path / "runs/first"
    finish_training(folder)
    names = ["a\rb.jpeg", "c\nd.jpeg", "\r.jpeg", "NA"]
    _, record = load_run(folder, make_settings(), validation_set_id(FILES))
    files = FILES.assign(path=names, patient=names)
    save_validation(folder, record | EVALUATION, files, PROBABILITIES)
    [run] = list_runs(tmp_path / "runs")
    assert run["exclusion_reason"] == ""
    predictions = run["predictions"].set_index("path").loc[names]
    assert predictions.patient.tolist() == names
    assert predictions.probability.tolist() == PROBABILITIES.tolist()


def test_predictions_and_record_are_replaced_together(add, tmp_path):
    folder = add("first", predict_with(1, 0))
    record, _ = read_record(folder)
    files = pd.read_csv(folder / "validation.csv", dtype={"path": str, "patient": str})
    probabilities = predict_with(1, 5)
    states = crash_points.list_crash_states(
        folder,
        lambda: save_predictions(
            folder, record | {"threshold": 0.25}, files, probabilities
        ),
    )
    thresholds = []
    for number, state in enumerate(states):
        crash_points.restore(tmp_path / f"again{number}/first", state)
        [run] = list_runs(tmp_path / f"again{number}")
        assert run["exclusion_reason"] == ""
        is_new = run["predictions"].probability.tolist() == probabilities.tolist()
        assert is_new == (run["threshold"] == 0.25)
        thresholds.append(run["threshold"])
    assert thresholds == sorted(thresholds, reverse=True)
    assert set(thresholds) == {0.5, 0.25}
    assert len(states) > 8


def test_section_7_evaluates_what_this_process_has_trained(tmp_path):
    """Another process trains a run of the same name before section 7, or during it."""
    folder = tmp_path / "runs/first"
    _, trained = finish_training(folder)
    evaluate(folder, trained)
    evaluate(folder, trained)  # the predictions do not change the run
    finish_training(folder, 1)  # by another process
    message = r"Another process has trained the run 'first' again .* another RUN_NAME"
    with pytest.raises(ValueError, match=message):
        evaluate(folder, trained)
    evaluate(folder)  # after a restart, any run of this name is evaluated
    finish_training(tmp_path / "runs/second")
    evaluate(tmp_path / "runs/second", trained)  # not the run that was trained last
    begun = TrainingRun(folder, None, [], 2, None, None, make_settings(), {})
    evaluate(folder, begun)  # this training came to no end: the earlier run is there
    _, record = load_run(folder, make_settings(), validation_set_id(FILES))
    finish_training(folder)  # by another process, while section 7 works
    with pytest.raises(ValueError, match=message):
        save_validation(folder, record | EVALUATION, FILES, PROBABILITIES)
    assert not (folder / "validation.csv").exists()
    assert "validation" not in json.loads((folder / "run.json").read_text())


# Publication


PUBLISHED = ["best.keras", "history.csv", "metrics.json", "predictions.csv"]
PREDICTIONS = pd.DataFrame({"path": ["a", "b\rc"], "probability": [0.1, 0.2]})


@pytest.fixture
def two_runs(tmp_path):
    """Return {name: (network, record)} of two evaluated runs in tmp_path/runs."""
    runs = {}
    for number, name in enumerate(("first", "second")):
        finish_training(tmp_path / "runs" / name, number)
        runs[name] = evaluate(tmp_path / "runs" / name)
    return runs


def publish(output_dir, name, model, record, **report):
    """Do what section 7 does at its end; return the report."""
    report |= {"run": record["name"]}
    folder = output_dir / "runs" / name
    publish_run(output_dir, folder, record, model, PREDICTIONS, report)
    return report


def test_the_published_files_are_those_of_one_run_and_metrics_names_them(
    two_runs, tmp_path
):
    (tmp_path / "model_card.md").write_text("of an earlier run")
    model, record = two_runs["first"]
    report = publish(tmp_path, "first", model, record, auc=float("nan"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*PUBLISHED, "runs"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["run"], metrics["auc"]) == ("first", None)
    assert metrics["files"] == report["files"]
    assert metrics["files"] == {
        name: short_hash((tmp_path / name).read_bytes())
        for name in PUBLISHED
        if name != "metrics.json"
    }
    assert pd.read_csv(tmp_path / "predictions.csv").equals(PREDICTIONS)
    history = (tmp_path / "runs/first/history.csv").read_text()
    assert (tmp_path / "history.csv").read_text() == history
    published = keras.models.load_model(tmp_path / "best.keras")
    for weights, expected in zip(published.get_weights(), model.get_weights()):
        np.testing.assert_array_equal(weights, expected)
    content = read_verified(tmp_path, report, "best.keras")
    assert content == (tmp_path / "best.keras").read_bytes()
    publish(tmp_path, "second", *two_runs["second"])
    with pytest.raises(ValueError, match=r"best\.keras is missing, damaged, or repl"):
        read_verified(tmp_path, report, "best.keras")


def test_scores_are_not_published_with_another_network(two_runs, tmp_path):
    """As when single cells of section 7 run after section 6 has trained another run."""
    (model, record), (other_model, other_record) = two_runs.values()
    uncalibrated, _ = load_run(
        tmp_path / "runs/first", make_settings(), validation_set_id(FILES)
    )
    twice, _ = evaluate(tmp_path / "runs/first")
    calibrate_model(twice, EVALUATION["temperature"], EVALUATION["shift"])
    message = r"run section 7 again from its beginning"
    for name, network, scores in (
        ("second", other_model, record),
        ("second", model, record),
        ("first", model, other_record | {"name": "first"}),
        ("first", other_model, record),
        ("first", uncalibrated, record),
        ("first", twice, record),
        ("first", build_baseline(48), record),
    ):
        with pytest.raises(ValueError, match=message):
            publish(tmp_path, name, network, scores)
    with pytest.raises(ValueError, match=message):
        report = {"run": "second"}
        folder = tmp_path / "runs/first"
        publish_run(tmp_path, folder, record, model, PREDICTIONS, report)
    finish_training(tmp_path / "runs/first", 1)
    with pytest.raises(ValueError, match=message):
        publish(tmp_path, "first", model, record)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_history_of_another_training_is_not_published(two_runs, tmp_path):
    (tmp_path / "runs/first/history.csv").write_text("epoch\n1\n")
    with pytest.raises(ValueError, match=r"history\.csv is missing or damaged"):
        publish(tmp_path, "first", *two_runs["first"])
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.fixture
def unchecked(monkeypatch):
    """Publish without loading the network again, which takes most of the time."""
    monkeypatch.setattr("cxr.runs.check_network", lambda *_: None)


def read_published(files):
    return {name: files[name] for name in PUBLISHED}


def test_an_interrupted_publication_leaves_no_mixed_set(two_runs, unchecked, tmp_path):
    """metrics.json is there only with the files that it names.

    The next publication completes the interrupted one, or undoes it.
    """
    publish(tmp_path, "first", *two_runs["first"])
    (tmp_path / "model_card.md").write_text("of an earlier run")
    states = crash_points.list_crash_states(
        tmp_path, lambda: publish(tmp_path, "second", *two_runs["second"])
    )
    old, new, seen = states[0], states[-1], set()
    for number, state in enumerate(states):
        folder = tmp_path / f"again/{number}"
        crash_points.restore(folder, state)
        if (folder / "metrics.json").exists():
            metrics = json.loads((folder / "metrics.json").read_text())
            for name, digest in metrics["files"].items():
                assert short_hash((folder / name).read_bytes()) == digest
            has_card = (folder / "model_card.md").exists()
            assert has_card == (metrics["run"] == "first")
        recover_interrupted_write(folder)
        found = read_published(crash_points.read_files(folder))
        assert found in (read_published(old), read_published(new))
        assert not list(folder.glob("staging*"))
        seen.add(json.loads(found["metrics.json"])["run"])
        shutil.rmtree(folder)
    assert seen == {"first", "second"}
    assert len(states) > 15


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), None]
)
def test_a_full_disk_leaves_the_earlier_publication_or_the_new_one(
    two_runs, unchecked, tmp_path, error
):
    publish(tmp_path, "first", *two_runs["first"])
    start, number, seen = crash_points.read_files(tmp_path), 0, []
    while True:
        folder = tmp_path / f"again/{number}"
        crash_points.restore(folder, start)
        with crash_points.full_disk(folder, number, error) as disk:
            try:
                publish(folder, "second", *two_runs["second"])
            except StorageError as full:
                expected = f"{folder.resolve()} is full: free some space and run this"
                assert str(full).startswith(expected)
        if disk.count <= number:
            break
        recover_interrupted_write(folder)
        metrics = json.loads((folder / "metrics.json").read_text())
        for name, digest in metrics["files"].items():
            assert short_hash((folder / name).read_bytes()) == digest
        seen.append(metrics["run"])
        number += 1
    assert seen == sorted(seen)
    assert set(seen) == {"first", "second"}


# Damage


@pytest.mark.parametrize("content", [b"", b"not a network", "cut", "missing"])
def test_a_damaged_network_is_named(tmp_path, content):
    folder = tmp_path / "runs/first"
    finish_training(folder)
    network = folder / "best.keras"
    whole = network.read_bytes()
    network.unlink()
    if content != "missing":
        network.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    message = r"first/best\.keras is missing, damaged.*run sections 6"
    with pytest.raises(ValueError, match=message) as caught:
        load_run(folder, make_settings(), validation_set_id(FILES))
    assert "\n" not in str(caught.value)


def test_a_network_that_holds_code_is_refused_without_advice_to_run_it(tmp_path):
    folder = tmp_path / "runs/first"
    finish_training(folder)
    inputs = keras.Input((32, 32, 1))
    outputs = keras.layers.Lambda(lambda x: x)(inputs)
    keras.Model(inputs, outputs).save(folder / "best.keras")
    record = json.loads((folder / "run.json").read_text())
    record["files"]["best.keras"] = short_hash((folder / "best.keras").read_bytes())
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"best\.keras contains Python code"):
        load_run(folder, make_settings(), validation_set_id(FILES))


# Comparison


def test_a_reader_waits_while_files_are_changed(tmp_path, add, capsys):
    add("first", predict_with(1, 0))
    runs_dir = tmp_path / "runs"
    found = []
    with lock_run(runs_dir / "first"):
        reader = threading.Thread(target=lambda: found.extend(list_runs(runs_dir)))
        reader.start()
        reader.join(0.3)
        assert reader.is_alive()
    reader.join()
    assert [record["name"] for record in found] == ["first"]
    message = f"Another process is changing files in {runs_dir}: waiting until"
    assert capsys.readouterr().out.startswith(message)


def test_probabilities_come_back_to_the_last_bit(add):
    probabilities = np.random.default_rng(0).random(len(LABELS)) ** 40
    run = read_run(add("first", probabilities))
    assert run["predictions"].probability.tolist() == probabilities.tolist()


def test_runs_on_other_images_are_listed_last(add, tmp_path):
    add("reference", predict_with(1, 0))
    add("second", predict_with(1.2, 1))
    add("other split", predict_with(6, 2), validation_set="bbbb2222", validated="2020")
    add("real", predict_with(5, 3), data="chest-xray-pneumonia", validated="2020")
    # The same validation set by name, but not by content.
    add("namesake", predict_with(5, 3), width=61, validated="2020")
    runs = list_runs(tmp_path / "runs")
    aucs = {record["name"]: record["validation"]["auc"]["value"] for record in runs}
    assert [record["name"] for record in runs] == [
        *sorted(["reference", "second"], key=aucs.get)[::-1],
        "namesake",
        "other split",
        "real",
    ]
    assert [record["exclusion_reason"] for record in runs] == [
        "",
        "",
        "other images under the same file names",
        "other validation images",
        "other data",
    ]


def list_references(runs_dir):
    return {record["reference"] for record in list_runs(runs_dir)}


def test_the_reference_is_the_run_of_that_name_on_these_images_else_the_oldest(
    add, tmp_path
):
    add(
        "reference",
        predict_with(1, 0),
        validation_set="bbbb2222",
        validated="2020",
        trained="2019",
    )
    add("baseline", predict_with(1, 1), trained="2021")
    add("second", predict_with(1, 2), trained="2022")
    add("third", predict_with(1, 3), trained="2023")
    assert list_references(tmp_path / "runs") == {"second"}
    add("reference", predict_with(1, 0), trained="2024")
    assert list_references(tmp_path / "runs") == {"reference"}


def list_exclusion_reasons(runs_dir):
    return [record["exclusion_reason"] for record in list_runs(runs_dir)]


def test_predictions_that_are_not_those_of_the_record_do_not_count(add, tmp_path):
    runs_dir = tmp_path / "runs"
    add("reference", predict_with(1, 0))
    path = add("second", predict_with(2, 0)) / "validation.csv"
    path.write_text(path.read_text()[:-40])
    missing = "predictions missing (run section 7)"
    assert list_exclusion_reasons(runs_dir) == ["", missing]
    path.unlink()
    assert list_exclusion_reasons(runs_dir) == ["", missing]
    add("second", predict_with(3, 0))  # evaluated again: its record is replaced
    assert list_exclusion_reasons(runs_dir) == ["", ""]


def test_without_an_evaluated_run_the_others_are_named(add, tmp_path):
    message = r"no evaluated run in .*runs\. Run sections 6 and 7"
    with pytest.raises(FileNotFoundError, match=message):
        list_runs(tmp_path / "runs")
    add("first")
    (add("second") / "run.json").write_text("")
    message = r"first: not evaluated yet.*second: damaged"
    with pytest.raises(FileNotFoundError, match=message):
        list_runs(tmp_path / "runs")
    add("third", predict_with(1, 0))
    names = [record["name"] for record in list_runs(tmp_path / "runs")]
    assert names == ["third", "first", "second"]


FIELDS = (
    "data",
    "validation_set",
    "settings",
    "epochs",
    "seconds",
    "best_epoch",
    "threshold",
    "files",
)
NO_JSON_OBJECTS = ("", "{", "[]", "3", "null", '"text"', b"\xff\xfe\x00")
UNUSABLE_METRICS = (
    "good",
    {"auc": 0.9},
    {"auc": {"value": 0.9, "low": 0.8, "high": 1}},
)
UNUSABLE_HISTORIES = (
    "",
    "epoch,val_loss,val_auc\n",
    "epoch,val_loss\n1,0.5\n",
    "epoch,val_loss,val_auc\n1,x,y\n",
    "epoch,val_loss,val_auc\n1,,\n",
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("run.json", text) for text in NO_JSON_OBJECTS),
        *(("run.json", {field: None}) for field in FIELDS),
        *(("run.json", {field: ...}) for field in FIELDS),
        *(("run.json", {"validation": metrics}) for metrics in UNUSABLE_METRICS),
        ("run.json", {"settings": []}),
        ("run.json", {"seconds": "long"}),
        ("run.json", {"validated": 7}),
        *(("history.csv", text) for text in UNUSABLE_HISTORIES),
    ],
)
def test_a_damaged_run_is_named_and_does_not_affect_others(
    add, tmp_path, name, content
):
    """`...` stands for a field that is missing."""
    add("sound", predict_with(1, 0))
    folder = add("broken", predict_with(2, 0))
    record = json.loads((folder / "run.json").read_text())
    if isinstance(content, dict):
        changed = (record | content).items()
        content = json.dumps({key: value for key, value in changed if value is not ...})
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content)
    if name == "history.csv":  # and not only because of its digest
        record["files"][name] = short_hash(content)
        (folder / "run.json").write_text(json.dumps(record))
    sound, broken = list_runs(tmp_path / "runs")
    assert sound["name"] == "sound"
    assert sound["exclusion_reason"] == ""
    assert sound["reference"] == broken["reference"] == "sound"
    assert broken["name"] == "broken"
    assert broken["exclusion_reason"] == "damaged"
    message = f"broken/{name} is missing or damaged"
    assert message in broken["error"]
    with pytest.raises(ValueError, match=message):
        load_run(folder, make_settings(), "aaaa1111")


def test_a_history_that_was_replaced_is_damaged(add, tmp_path):
    folder = add("first", predict_with(1, 0))
    (folder / "history.csv").write_text("epoch,val_loss,val_auc\n1,0.5,0.9\n")
    with pytest.raises(ValueError, match=r"first/history\.csv is missing or damaged"):
        read_record(folder)


@pytest.mark.parametrize("content", ["record", "{}"])
def test_a_record_of_an_earlier_version_is_told_apart(add, tmp_path, content):
    add("sound", predict_with(1, 0))
    folder = add("old", predict_with(2, 0))
    if content == "record":
        record = json.loads((folder / "run.json").read_text())
        del record["schema"]
        record["holdout"] = record.pop("validation_set")
        content = json.dumps(record)
    (folder / "run.json").write_text(content)
    _, old = list_runs(tmp_path / "runs")
    assert old["name"] == "old"
    assert old["exclusion_reason"] == "written by an earlier version (train it again)"
    message = r"old/run\.json was written by an earlier version .*: train the run again"
    assert "old/run.json was written by an earlier version" in old["error"]
    with pytest.raises(ValueError, match=message):
        load_run(folder, make_settings(), "aaaa1111")


@pytest.mark.parametrize(
    "names",
    [
        ["a.jpeg", "b c.jpeg", "é.jpeg"],
        ["carriage\rreturn", "\r", "ends in one\r"],
        ["new\nline", "both\r\n", "\n\r"],
        ['quote"', "comma,", "'"],
    ],
)
def test_a_csv_file_is_read_back_unchanged(tmp_path, names):
    """Linux and macOS allow a line break in the name of a file."""
    table = pd.DataFrame(
        {"path": names, "label": [0, 1, 0], "probability": [0.1, 1 / 3, 1e-17]}
    )
    assert pd.read_csv(io.StringIO(to_csv(table), newline="")).equals(table)
    (tmp_path / "a.csv").write_bytes(to_csv(table).encode())
    assert pd.read_csv(tmp_path / "a.csv").equals(table)


def test_ordinary_texts_are_not_quoted_in_a_csv_file():
    table = pd.DataFrame({"path": ["a b.jpeg"], "label": [1]})
    assert to_csv(table) == "path,label\na b.jpeg,1\n"
