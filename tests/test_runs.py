"""The record of a run on disk: it is written whole, refused where it does not fit, and read with what is damaged told apart."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

from cxr.batches import ImageBatches
from cxr.measure import score
from cxr.network import build_baseline
from cxr.runs import finish_run, identify_holdout, keep_answers, list_runs, load_run, publish_run, read_run, validate_run
from cxr.shift import list_shifts
from cxr.storage import as_json

SETTINGS = {"RUN_NAME": "", "EPOCHS": 3, "SEED": 0, "RESAMPLES": 100}
LABELS = np.arange(40) % 2
FILES = pd.DataFrame({"path": list("dacb"), "label": [0, 1, 0, 1], "patient": list("wxyz"), "width": 9, "height": 8, "part": "holdout"})


def answer(strength, seed):
    """Made-up probabilities for LABELS: the signal is `strength` times the noise."""
    return 1 / (1 + np.exp(-(strength * (LABELS - 0.5) + np.random.default_rng(seed).normal(size=len(LABELS)))))


@pytest.fixture
def add(tmp_path):
    """A function that puts a run into tmp_path/runs, as sections 6 and 7 leave it."""
    def add(name, probabilities=None, trained="2026-01-02", validated=None, data="phantom", holdout="aaaa1111", width=60):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        patients = np.array([f"person{number}" for number in range(len(LABELS))])
        files = pd.DataFrame({"path": [f"train/{number:04}.jpeg" for number in range(len(LABELS))], "label": LABELS,
                              "patient": patients, "width": width, "height": 50})
        pd.DataFrame({"epoch": [1, 2, 3], "val_loss": [3, 1, 2], "val_auc": 0.9, "loss": 1}).to_csv(folder / "history.csv", index=False)
        record = {"name": name, "trained": trained, "data": data, "holdout": holdout, "settings": SETTINGS | {"RUN_NAME": name},
                  "epochs": 3, "seconds": 90, "best_epoch": 2}
        if probabilities is not None:
            record |= {"threshold": 0.5, "validation": score(LABELS, probabilities, patients, 0.5, 10, 0)}
            keep_answers(folder, record, files, probabilities)
        if validated:
            record["validated"] = validated
        (folder / "run.json").write_text(as_json(record))
        return folder
    return add


def finish(folder, size=32):
    """End a training of the baseline in `folder`, as section 6 does, and return its network."""
    folder.mkdir(parents=True)
    model = build_baseline(size)
    model.save(folder / "training.keras")
    rows = [{"epoch": 1, "val_loss": 0.7, "val_auc": 0.5, "seconds": 1}, {"epoch": 2, "val_loss": 0.8, "val_auc": 0.6, "seconds": 2.5}]
    state = SimpleNamespace(folder=folder, rows=rows, ended="", forget=lambda: (folder / "training.keras").unlink(missing_ok=True))
    finish_run(state, SimpleNamespace(**SETTINGS), "phantom", identify_holdout(FILES))
    return model


def test_a_finished_run_is_a_network_a_history_and_a_record(tmp_path):
    model = finish(tmp_path / "runs/first")
    assert sorted(path.name for path in (tmp_path / "runs/first").iterdir()) == ["best.keras", "history.csv", "run.json"]
    record = json.loads((tmp_path / "runs/first/run.json").read_text())
    assert {key: record[key] for key in ("name", "data", "settings", "epochs", "ended", "seconds", "best_epoch")} == {
        "name": "first", "data": "phantom", "settings": SETTINGS, "epochs": 2, "ended": "all epochs", "seconds": 2.5, "best_epoch": 1}
    loaded, _ = load_run(tmp_path / "runs/first", 32, identify_holdout(FILES))
    assert all(np.array_equal(one, other) for one, other in zip(loaded.get_weights(), model.get_weights()))
    with pytest.raises(ValueError, match="held out other images"):
        load_run(tmp_path / "runs/first", 32, identify_holdout(FILES[1:]))
    with pytest.raises(ValueError, match="trained at 32 pixels and the images are loaded at 48"):
        load_run(tmp_path / "runs/first", 48, identify_holdout(FILES))
    with pytest.raises(FileNotFoundError, match=r"no finished run in .*second"):
        load_run(tmp_path / "runs/second", 32, identify_holdout(FILES))


def test_a_training_without_a_best_epoch_is_no_run(tmp_path):
    state = SimpleNamespace(folder=tmp_path, rows=[], ended="the loss became NaN", forget=lambda: None)
    with pytest.raises(RuntimeError, match="choose a smaller LEARNING_RATE"):
        finish_run(state, SimpleNamespace(), "phantom", "0")
    assert not list(tmp_path.iterdir())


def test_the_holdout_is_known_by_its_paths_in_any_order():
    assert identify_holdout(FILES) == identify_holdout(FILES[::-1])
    assert identify_holdout(FILES) != identify_holdout(FILES.assign(part=["fit", *["holdout"] * 3]))


def test_section_7_keeps_the_answers(tmp_path):
    folder, generator = tmp_path / "runs/baseline", np.random.default_rng(0)
    model = finish(folder)
    holdout = ImageBatches([generator.integers(0, 256, (4, 32, 32, 1), np.uint8)], np.arange(4), FILES.label.to_numpy(), 4)
    validated, _, changed = validate_run(folder, holdout, FILES, SimpleNamespace(**SETTINGS))
    probabilities = changed["unchanged"]
    [run] = list_runs(tmp_path / "runs")
    assert run["answers"].path.tolist() == list("abcd") and run["answers"].patient.tolist() == list("xzyw")
    assert run["answers"].probability.tolist() == probabilities[[1, 3, 2, 0]].tolist()
    stored = json.loads((folder / "run.json").read_text())
    assert (stored["network"], stored["parameters"]) == ("baseline", model.count_params())
    assert set(stored["validation"]) == {"accuracy", "sensitivity", "specificity", "precision", "f1", "auc", "average_precision"}
    labels = FILES.label
    sick, healthy = (np.concatenate([said[labels == label] for said in changed.values()]) for label in (1, 0))
    assert len(sick) == len(healthy) == 2 * len(list_shifts(32)) > 20

    def worth(threshold):
        return 2 * (sick >= threshold).mean() + (healthy < threshold).mean()

    assert worth(stored["threshold"]) == pytest.approx(max(worth(step) for step in [*sick, *healthy]))
    assert not list(folder.glob("*unfinished*"))
    again, _, _ = validate_run(folder, holdout, FILES, SimpleNamespace(**SETTINGS))  # begins from the uncalibrated network
    assert all(np.array_equal(one, other) for one, other in zip(again.get_weights(), validated.get_weights()))


def test_the_published_files_are_those_of_one_run(tmp_path, monkeypatch):
    model = finish(tmp_path / "runs/first")
    (tmp_path / "metrics.json").write_text("{}")
    table = pd.DataFrame({"path": ["a"], "probability": [0.1]})
    publish_run(tmp_path, tmp_path / "runs/first", model, table, {"run": "first", "auc": float("nan")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"run": "first", "auc": None}
    assert pd.read_csv(tmp_path / "predictions.csv").equals(table)
    assert (tmp_path / "history.csv").read_text() == (tmp_path / "runs/first/history.csv").read_text()
    assert keras.models.load_model(tmp_path / "best.keras").count_params() == model.count_params()
    monkeypatch.setattr("cxr.runs.write_whole", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish_run(tmp_path, tmp_path / "runs/first", model, table, {"run": "second"})
    assert not (tmp_path / "metrics.json").exists()  # no old metrics beside a new network


def test_probabilities_come_back_to_the_last_bit(add):
    probabilities = np.random.default_rng(0).random(len(LABELS)) ** 40
    assert read_run(add("first", probabilities))["answers"].probability.tolist() == probabilities.tolist()


def test_runs_that_answered_for_other_images_are_kept_apart(add, tmp_path):
    add("reference", answer(1, 0))
    add("second", answer(1.2, 1))
    add("other split", answer(6, 2), holdout="bbbb2222", validated="2020")
    add("real", answer(5, 3), data="chest-xray-pneumonia", validated="2020")
    add("namesake", answer(5, 3), width=61, validated="2020")  # the same hold-out by name, but not in content
    runs = list_runs(tmp_path / "runs")
    aucs = {one["name"]: one["validation"]["auc"]["value"] for one in runs}
    assert [one["name"] for one in runs] == [*sorted(["reference", "second"], key=aucs.get)[::-1], "namesake", "other split", "real"]
    assert [bool(one["apart"]) for one in runs] == [False, False, True, True, True]


def test_the_reference_is_the_run_of_that_name_on_these_images_else_the_oldest(add, tmp_path):
    add("reference", answer(1, 0), holdout="bbbb2222", validated="2020", trained="2019")
    add("baseline", answer(1, 1), trained="2021")
    add("second", answer(1, 2), trained="2022")
    add("third", answer(1, 3), trained="2023")
    assert {one["reference"] for one in list_runs(tmp_path / "runs")} == {"second"}
    add("reference", answer(1, 0), trained="2024")
    assert {one["reference"] for one in list_runs(tmp_path / "runs")} == {"reference"}


def test_answers_that_are_not_those_of_the_record_do_not_count(add, tmp_path):
    add("reference", answer(1, 0))
    kept = add("second", answer(2, 0)) / "validation.csv"
    kept.write_text(kept.read_text()[:-40])
    assert [one["apart"] for one in list_runs(tmp_path / "runs")] == ["", "answers not kept (run section 7)"]
    kept.unlink()
    assert [one["apart"] for one in list_runs(tmp_path / "runs")] == ["", "answers not kept (run section 7)"]
    add("second", answer(3, 0))  # run again under its name: its record is replaced
    assert [one["apart"] for one in list_runs(tmp_path / "runs")] == ["", ""]


def test_without_an_evaluated_run_it_is_said_what_there_is(add, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no evaluated run in .*runs\. Run sections 6 and 7"):
        list_runs(tmp_path / "runs")
    add("first")
    (add("second") / "run.json").write_text("")
    with pytest.raises(FileNotFoundError, match=r"first: not evaluated yet.*second: damaged"):
        list_runs(tmp_path / "runs")
    add("third", answer(1, 0))
    assert [one["name"] for one in list_runs(tmp_path / "runs")] == ["third", "first", "second"]


FIELDS = ("data", "holdout", "settings", "epochs", "seconds", "best_epoch", "threshold")


@pytest.mark.parametrize("name, content", [
    *(("run.json", text) for text in ("", "{", "{}", "[]", "3", "null", '"text"', b"\xff\xfe\x00")),
    *(("run.json", {field: None}) for field in FIELDS), *(("run.json", {field: ...}) for field in FIELDS),
    *(("run.json", {"validation": scores}) for scores in ("good", {"auc": 0.9}, {"auc": {"value": 0.9, "low": 0.8, "high": 1}})),
    ("run.json", {"settings": []}), ("run.json", {"seconds": "long"}), ("run.json", {"validated": 7}),
    *(("history.csv", text) for text in ("", "epoch,val_loss,val_auc\n", "epoch,val_loss\n1,0.5\n", "epoch,val_loss,val_auc\n1,x,y\n",
                                         "epoch,val_loss,val_auc\n1,,\n"))])
def test_a_damaged_run_is_named_and_costs_nothing_else(add, tmp_path, name, content):
    """`...` stands for a field that is not there."""
    add("sound", answer(1, 0))
    path = add("broken", answer(2, 0)) / name
    if isinstance(content, dict):
        record = {key: value for key, value in (json.loads(path.read_text()) | content).items() if value is not ...}
        content = json.dumps(record)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sound, broken = list_runs(tmp_path / "runs")
    assert (sound["name"], sound["apart"], sound["reference"]) == ("sound", "", "sound")
    assert (broken["name"], broken["apart"]) == ("broken", "damaged") and f"broken/{name} is missing or damaged" in broken["damage"]
    (tmp_path / "runs/broken/best.keras").write_bytes(b"")
    with pytest.raises(ValueError, match=f"broken/{name} is missing or damaged"):
        load_run(tmp_path / "runs/broken", 32, "aaaa1111")


def test_a_record_of_an_earlier_version_is_read(add, tmp_path):
    path = add("old", answer(1, 0)) / "run.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in known.items() if key not in ("trained", "validated", "answers", "name")}))
    [run] = list_runs(tmp_path / "runs")
    assert (run["name"], run["apart"]) == ("old", "answers not kept (run section 7)")
