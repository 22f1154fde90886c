"""The record of a run on disk: it is written whole, refused where it does not fit, and read with what is damaged told apart."""

import errno
import json
import threading
from types import SimpleNamespace

import crash_points
import keras
import numpy as np
import pandas as pd
import pytest

from cxr.batches import ImageBatches
from cxr.evaluation import metrics_with_ci
from cxr.models import build_baseline
from cxr.robustness import perturbations, predict_perturbed
from cxr.runs import (
    list_runs,
    load_run,
    lock_run,
    publish_run,
    read_record,
    read_run,
    read_verified,
    save_predictions,
    validate_run,
    validation_set_id,
)
from cxr.storage import StorageError, recover_interrupted_write, short_hash, to_json
from cxr.training import TrainingRun

SETTINGS = {"RUN_NAME": "", "EPOCHS": 3, "SEED": 0, "BOOTSTRAP_SAMPLES": 100}
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


def answer(strength, seed):
    """Made-up probabilities for LABELS: the signal is `strength` times the noise."""
    return 1 / (
        1
        + np.exp(
            -(
                strength * (LABELS - 0.5)
                + np.random.default_rng(seed).normal(size=len(LABELS))
            )
        )
    )


@pytest.fixture
def add(tmp_path):
    """A function that puts a run into tmp_path/runs, as sections 6 and 7 leave it."""

    def add(
        name,
        probabilities=None,
        trained="2026-01-02",
        validated=None,
        data="phantom",
        holdout="aaaa1111",
        width=60,
    ):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        patients = np.array([f"person{number}" for number in range(len(LABELS))])
        files = pd.DataFrame(
            {
                "path": [f"train/{number:04}.jpeg" for number in range(len(LABELS))],
                "label": LABELS,
                "patient": patients,
                "width": width,
                "height": 50,
            }
        )
        pd.DataFrame(
            {"epoch": [1, 2, 3], "val_loss": [3, 1, 2], "val_auc": 0.9, "loss": 1}
        ).to_csv(folder / "history.csv", index=False)
        record = {
            "name": name,
            "trained": trained,
            "data": data,
            "val": holdout,
            "settings": SETTINGS | {"RUN_NAME": name},
            "epochs": 3,
            "seconds": 90,
            "best_epoch": 2,
        }
        if probabilities is not None:
            record |= {
                "threshold": 0.5,
                "validation": metrics_with_ci(
                    LABELS, probabilities, patients, 0.5, 10, 0
                ),
            }
            save_predictions(folder, record, files, probabilities)
        if validated:
            record["validated"] = validated
        (folder / "run.json").write_text(to_json(record))
        return folder

    return add


def finish(folder, size=32):
    """A training of the baseline in `folder` that has ended, as section 6 leaves it; return (its network, its run)."""
    model, batches = build_baseline(size), make_holdout(size)
    model.compile("sgd")
    folder.parent.mkdir(parents=True, exist_ok=True)
    model.save(folder.parent / "saved.keras")
    about = {"data": "phantom", "val": validation_set_id(FILES)}
    with TrainingRun(
        folder, model, [], 2, batches, batches, SimpleNamespace(**SETTINGS), about
    ) as run:
        run.rows = [
            {"epoch": 1, "val_loss": 0.7, "val_auc": 0.5, "seconds": 1},
            {"epoch": 2, "val_loss": 0.8, "val_auc": 0.6, "seconds": 2.5},
        ]
        run.best = (folder.parent / "saved.keras").read_bytes()
    (folder.parent / "saved.keras").unlink()
    return model, run


def make_holdout(size=32):
    return ImageBatches(
        [np.random.default_rng(0).integers(0, 256, (4, size, size, 1), np.uint8)],
        np.arange(4),
        FILES.label.to_numpy(),
        4,
    )


def test_a_finished_run_is_a_network_a_history_and_a_record(tmp_path):
    model, _ = finish(tmp_path / "runs/first")
    assert sorted(crash_points.look(tmp_path / "runs/first")) == [
        "best.keras",
        "history.csv",
        "run.json",
    ]
    record = json.loads((tmp_path / "runs/first/run.json").read_text())
    assert {
        key: record[key]
        for key in (
            "name",
            "data",
            "settings",
            "epochs",
            "ended",
            "seconds",
            "best_epoch",
        )
    } == {
        "name": "first",
        "data": "phantom",
        "settings": SETTINGS,
        "epochs": 2,
        "ended": "all epochs",
        "seconds": 2.5,
        "best_epoch": 1,
    }
    loaded, _ = load_run(tmp_path / "runs/first", 32, validation_set_id(FILES))
    assert all(
        np.array_equal(one, other)
        for one, other in zip(loaded.get_weights(), model.get_weights())
    )
    with pytest.raises(ValueError, match="held out other images"):
        load_run(tmp_path / "runs/first", 32, validation_set_id(FILES[1:]))
    with pytest.raises(
        ValueError, match="trained at 32 pixels and the images are loaded at 48"
    ):
        load_run(tmp_path / "runs/first", 48, validation_set_id(FILES))
    with pytest.raises(
        ValueError,
        match="'first' was trained with RESIZE_MODE 'squash' and the images are loaded with 'crop': run section 6",
    ):
        load_run(tmp_path / "runs/first", 32, validation_set_id(FILES), "center_crop")
    for name in ("second", "first/deeper"):
        with pytest.raises(
            FileNotFoundError,
            match=rf"no finished run in .*{name}: run section 6 first",
        ):
            validate_run(
                tmp_path / "runs" / name,
                make_holdout(),
                FILES,
                SimpleNamespace(**SETTINGS),
            )
        assert not (tmp_path / "runs" / name).exists()


def test_the_holdout_is_known_by_its_paths_in_any_order():
    assert validation_set_id(FILES) == validation_set_id(FILES[::-1])
    assert validation_set_id(FILES) != validation_set_id(
        FILES.assign(split=["train", *["val"] * 3])
    )


def test_section_7_keeps_the_answers(tmp_path):
    folder, holdout = tmp_path / "runs/baseline", make_holdout()
    model, _ = finish(folder)
    validated, _, changed = validate_run(
        folder, holdout, FILES, SimpleNamespace(**SETTINGS)
    )
    probabilities = changed["unchanged"]
    [run] = list_runs(tmp_path / "runs")
    assert run["answers"].path.tolist() == list("abcd") and run[
        "answers"
    ].patient.tolist() == list("xzyw")
    assert run["answers"].probability.tolist() == probabilities[[1, 3, 2, 0]].tolist()
    stored = json.loads((folder / "run.json").read_text())
    assert (stored["network"], stored["parameters"]) == (
        "baseline",
        model.count_params(),
    )
    assert set(stored["validation"]) == {
        "accuracy",
        "sensitivity",
        "specificity",
        "precision",
        "f1",
        "auc",
        "average_precision",
    }
    labels = FILES.label
    sick, healthy = (
        np.concatenate([said[labels == label] for said in changed.values()])
        for label in (1, 0)
    )
    assert len(sick) == len(healthy) == 2 * len(perturbations(32)) > 20

    def worth(threshold):
        return 2 * (sick >= threshold).mean() + (healthy < threshold).mean()

    assert worth(stored["threshold"]) == pytest.approx(
        max(worth(step) for step in [*sick, *healthy])
    )
    assert not list(folder.glob("*unfinished*"))
    again, _, _ = validate_run(
        folder, holdout, FILES, SimpleNamespace(**SETTINGS)
    )  # begins from the uncalibrated network
    assert all(
        np.array_equal(one, other)
        for one, other in zip(again.get_weights(), validated.get_weights())
    )


PUBLISHED = ["best.keras", "history.csv", "metrics.json", "predictions.csv"]


def publish(output_dir, model, name="first", **report):
    run_dir = output_dir / "runs/first"
    record, _ = read_record(run_dir)
    publish_run(
        output_dir,
        run_dir,
        record,
        model,
        pd.DataFrame({"path": ["a"], "probability": [0.1]}),
        report := report | {"run": name},
    )
    return report


def test_the_published_files_are_those_of_one_run_and_its_metrics_name_them(tmp_path):
    model, _ = finish(tmp_path / "runs/first")
    (tmp_path / "model_card.md").write_text("of the run before")
    report = publish(tmp_path, model, auc=float("nan"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*PUBLISHED, "runs"]
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert (told["run"], told["auc"]) == ("first", None)
    assert told["files"] == {
        name: short_hash((tmp_path / name).read_bytes())
        for name in PUBLISHED
        if name != "metrics.json"
    }
    assert pd.read_csv(tmp_path / "predictions.csv").equals(
        pd.DataFrame({"path": ["a"], "probability": [0.1]})
    )
    assert (tmp_path / "history.csv").read_text() == (
        tmp_path / "runs/first/history.csv"
    ).read_text()
    assert (
        keras.models.load_model(tmp_path / "best.keras").count_params()
        == model.count_params()
    )
    assert (
        read_verified(tmp_path, report, "best.keras")
        == (tmp_path / "best.keras").read_bytes()
    )
    publish(tmp_path, build_baseline(32), "second")
    with pytest.raises(
        ValueError,
        match=r"best\.keras is missing, damaged, or replaced by another process",
    ):
        read_verified(tmp_path, report, "best.keras")


def show(folder, names=PUBLISHED):
    return {
        name: content
        for name, content in crash_points.look(folder).items()
        if name in names
    }


def test_whatever_cuts_a_publication_off_no_set_looks_whole_that_is_not(tmp_path):
    """Metrics are there only with the files that they name; the next publication completes or undoes the last one."""
    model, _ = finish(tmp_path / "runs/first")
    publish(tmp_path, model)
    (tmp_path / "model_card.md").write_text("of the run before")
    other = build_baseline(32)
    found = crash_points.list_cuts(tmp_path, lambda: publish(tmp_path, other, "second"))
    old, new, seen = found[0], found[-1], set()
    for number, files in enumerate(found):
        folder = tmp_path / f"again/{number}"
        crash_points.restore(folder, files)
        if (folder / "metrics.json").exists():
            told = json.loads((folder / "metrics.json").read_text())
            assert told["files"] == {
                name: short_hash((folder / name).read_bytes()) for name in told["files"]
            }
            assert (folder / "model_card.md").exists() == (told["run"] == "first")
        recover_interrupted_write(folder)
        assert show(folder) in (show_files(old), show_files(new)) and not list(
            folder.glob("together*")
        )
        seen.add(json.loads((folder / "metrics.json").read_text())["run"])
    assert seen == {"first", "second"} and len(found) > 15


def show_files(files):
    return {name: files[name] for name in PUBLISHED}


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), None]
)
def test_a_full_disk_leaves_the_set_that_was_published_before_or_the_new_one(
    tmp_path, error
):
    model, _ = finish(tmp_path / "runs/first")
    start, number, seen = crash_points.look(tmp_path), 0, []
    while True:
        folder = tmp_path / f"again/{number}"
        crash_points.restore(folder, start)
        publish(folder, model)
        with crash_points.full_disk(folder, number, error) as disk:
            try:
                publish(folder, model, "second")
            except StorageError as told:
                assert (
                    str(told)
                    == f"{folder.resolve()} is full: free some space and run this again"
                )
        if disk.count <= number:
            break
        recover_interrupted_write(folder)
        told = json.loads((folder / "metrics.json").read_text())
        assert told["files"] == {
            name: short_hash((folder / name).read_bytes()) for name in told["files"]
        }
        seen.append(told["run"])
        number += 1
    assert seen == sorted(seen) and set(seen) == {"first", "second"}


def test_answers_and_the_record_that_is_made_from_them_change_together(add, tmp_path):
    folder = add("first", answer(1, 0))
    record, _ = read_record(folder)
    files = pd.read_csv(folder / "validation.csv", dtype={"path": str, "patient": str})
    found = crash_points.list_cuts(
        folder,
        lambda: save_predictions(
            folder, record | {"threshold": 0.25}, files, answer(1, 5)
        ),
    )
    thresholds = []
    for number, content in enumerate(found):
        crash_points.restore(tmp_path / f"again{number}/first", content)
        [run] = list_runs(tmp_path / f"again{number}")
        assert run["apart"] == "" and (
            run["answers"].probability.tolist() == answer(1, 5).tolist()
        ) == (run["threshold"] == 0.25)
        thresholds.append(run["threshold"])
    assert (
        thresholds == sorted(thresholds, reverse=True)
        and set(thresholds) == {0.5, 0.25}
        and len(found) > 8
    )


@pytest.mark.parametrize("content", [b"", b"not a network", "cut", "missing"])
@pytest.mark.parametrize("named", [True, False])
def test_a_damaged_network_is_named_whether_or_not_the_record_knows_its_digest(
    tmp_path, content, named
):
    folder = tmp_path / "runs/first"
    finish(folder)
    if not named:
        record = json.loads((folder / "run.json").read_text())
        del record["files"]
        (folder / "run.json").write_text(json.dumps(record))
    network = folder / "best.keras"
    whole = network.read_bytes()
    network.unlink()
    if content != "missing":
        network.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    with pytest.raises(
        ValueError,
        match=r"first/best\.keras (is missing, damaged|cannot be loaded).*(run sections? 6|section 6)",
    ) as told:
        load_run(folder, 32, validation_set_id(FILES))
    assert "\n" not in str(told.value) and not (
        named and "not found" in str(told.value)
    )


def test_a_network_that_holds_code_is_refused_without_advice_to_run_it(tmp_path):
    folder = tmp_path / "runs/first"
    finish(folder)
    inputs = keras.Input((32, 32, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs)).save(
        folder / "best.keras"
    )
    record = json.loads((folder / "run.json").read_text())
    record["files"]["best.keras"] = short_hash((folder / "best.keras").read_bytes())
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        ValueError,
        match=r"best\.keras holds Python code .* do not switch the safe mode of Keras off",
    ):
        load_run(folder, 32, validation_set_id(FILES))


def test_what_section_7_evaluates_is_what_this_process_has_trained(
    tmp_path, monkeypatch
):
    """Another process trains a run of the same name: before section 7 begins, or while it works."""
    folder, holdout, settings = (
        tmp_path / "runs/first",
        make_holdout(),
        SimpleNamespace(**SETTINGS),
    )
    _, own = finish(folder)
    validate_run(folder, holdout, FILES, settings, own)
    validate_run(
        folder, holdout, FILES, settings, own
    )  # its own answers change the record, not the run
    finish(folder)
    with pytest.raises(
        ValueError,
        match=r"Another process has trained the run 'first' anew .* another RUN_NAME",
    ):
        validate_run(folder, holdout, FILES, settings, own)
    validate_run(folder, holdout, FILES, settings)  # after a restart it may be any
    finish(tmp_path / "runs/second")
    validate_run(
        tmp_path / "runs/second", holdout, FILES, settings, own
    )  # not the run that was trained last
    begun = TrainingRun(folder, None, [], 2, None, None, settings, {})
    validate_run(
        folder, holdout, FILES, settings, begun
    )  # its training came to no end: the run before is there
    usual = predict_perturbed
    monkeypatch.setattr(
        "cxr.runs.predict_perturbed",
        lambda *arguments: (finish(folder), usual(*arguments))[1],
    )
    with pytest.raises(
        ValueError, match=r"Another process has trained the run 'first' anew"
    ):
        validate_run(folder, holdout, FILES, settings)
    assert (
        not (folder / "validation.csv").exists()
        and json.loads((folder / "run.json").read_text()).get("validation") is None
    )


def test_a_history_of_another_training_is_not_published(tmp_path):
    model, _ = finish(tmp_path / "runs/first")
    record, _ = read_record(tmp_path / "runs/first")
    (tmp_path / "runs/first/history.csv").write_text("epoch\n1\n")
    with pytest.raises(
        ValueError,
        match=r"history\.csv is missing, damaged, or replaced by another process",
    ):
        publish_run(
            tmp_path, tmp_path / "runs/first", record, model, pd.DataFrame(), {}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_reader_waits_while_files_are_changed(tmp_path, add, capsys):
    add("first", answer(1, 0))
    found = []
    with lock_run(tmp_path / "runs/first"):
        reader = threading.Thread(
            target=lambda: found.extend(list_runs(tmp_path / "runs"))
        )
        reader.start()
        reader.join(0.3)
        assert reader.is_alive()
    reader.join()
    assert [one["name"] for one in found] == ["first"]
    assert (
        capsys.readouterr().out
        == f"Another process is changing files in {tmp_path / 'runs'}: waiting until it has finished.\n"
    )


def test_probabilities_come_back_to_the_last_bit(add):
    probabilities = np.random.default_rng(0).random(len(LABELS)) ** 40
    assert (
        read_run(add("first", probabilities))["answers"].probability.tolist()
        == probabilities.tolist()
    )


def test_runs_that_answered_for_other_images_are_kept_apart(add, tmp_path):
    add("reference", answer(1, 0))
    add("second", answer(1.2, 1))
    add("other split", answer(6, 2), holdout="bbbb2222", validated="2020")
    add("real", answer(5, 3), data="chest-xray-pneumonia", validated="2020")
    add(
        "namesake", answer(5, 3), width=61, validated="2020"
    )  # the same hold-out by name, but not in content
    runs = list_runs(tmp_path / "runs")
    aucs = {one["name"]: one["validation"]["auc"]["value"] for one in runs}
    assert [one["name"] for one in runs] == [
        *sorted(["reference", "second"], key=aucs.get)[::-1],
        "namesake",
        "other split",
        "real",
    ]
    assert [bool(one["apart"]) for one in runs] == [False, False, True, True, True]


def test_the_reference_is_the_run_of_that_name_on_these_images_else_the_oldest(
    add, tmp_path
):
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
    assert [one["apart"] for one in list_runs(tmp_path / "runs")] == [
        "",
        "answers not kept (run section 7)",
    ]
    kept.unlink()
    assert [one["apart"] for one in list_runs(tmp_path / "runs")] == [
        "",
        "answers not kept (run section 7)",
    ]
    add("second", answer(3, 0))  # run again under its name: its record is replaced
    assert [one["apart"] for one in list_runs(tmp_path / "runs")] == ["", ""]


def test_without_an_evaluated_run_it_is_said_what_there_is(add, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no evaluated run in .*runs\. Run sections 6 and 7"
    ):
        list_runs(tmp_path / "runs")
    add("first")
    (add("second") / "run.json").write_text("")
    with pytest.raises(
        FileNotFoundError, match=r"first: not evaluated yet.*second: damaged"
    ):
        list_runs(tmp_path / "runs")
    add("third", answer(1, 0))
    assert [one["name"] for one in list_runs(tmp_path / "runs")] == [
        "third",
        "first",
        "second",
    ]


FIELDS = ("data", "val", "settings", "epochs", "seconds", "best_epoch", "threshold")


@pytest.mark.parametrize(
    "name, content",
    [
        *(
            ("run.json", text)
            for text in ("", "{", "{}", "[]", "3", "null", '"text"', b"\xff\xfe\x00")
        ),
        *(("run.json", {field: None}) for field in FIELDS),
        *(("run.json", {field: ...}) for field in FIELDS),
        *(
            ("run.json", {"validation": scores})
            for scores in (
                "good",
                {"auc": 0.9},
                {"auc": {"value": 0.9, "low": 0.8, "high": 1}},
            )
        ),
        ("run.json", {"settings": []}),
        ("run.json", {"seconds": "long"}),
        ("run.json", {"validated": 7}),
        *(
            ("history.csv", text)
            for text in (
                "",
                "epoch,val_loss,val_auc\n",
                "epoch,val_loss\n1,0.5\n",
                "epoch,val_loss,val_auc\n1,x,y\n",
                "epoch,val_loss,val_auc\n1,,\n",
            )
        ),
    ],
)
def test_a_damaged_run_is_named_and_costs_nothing_else(add, tmp_path, name, content):
    """`...` stands for a field that is not there."""
    add("sound", answer(1, 0))
    path = add("broken", answer(2, 0)) / name
    if isinstance(content, dict):
        record = {
            key: value
            for key, value in (json.loads(path.read_text()) | content).items()
            if value is not ...
        }
        content = json.dumps(record)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sound, broken = list_runs(tmp_path / "runs")
    assert (sound["name"], sound["apart"], sound["reference"]) == ("sound", "", "sound")
    assert (broken["name"], broken["apart"]) == (
        "broken",
        "damaged",
    ) and f"broken/{name} is missing or damaged" in broken["damage"]
    (tmp_path / "runs/broken/best.keras").write_bytes(b"")
    with pytest.raises(ValueError, match=f"broken/{name} is missing or damaged"):
        load_run(tmp_path / "runs/broken", 32, "aaaa1111")


def test_a_record_of_an_earlier_version_is_read(add, tmp_path):
    path = add("old", answer(1, 0)) / "run.json"
    known = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            {
                key: value
                for key, value in known.items()
                if key not in ("trained", "validated", "answers", "name")
            }
        )
    )
    [run] = list_runs(tmp_path / "runs")
    assert (run["name"], run["apart"]) == ("old", "answers not kept (run section 7)")
