"""The sweep: which code it runs, on which images, and what is significant."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import sweep
from sklearn.metrics import roc_auc_score

# Which code is run


def write_book(folder, *code, epochs=3):
    """Return a small notebook with the two cells of settings and these code cells."""
    new_code = nbformat.v4.new_code_cell
    cells = [
        new_code("DROPOUT = 0.3", metadata={"tags": ["advanced"]}),
        new_code(f"EPOCHS = {epochs}\nMODE = 'a'", metadata={"tags": ["parameters"]}),
        *map(new_code, code),
    ]
    metadata = {"language_info": {"name": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def test_only_the_sections_that_are_measured_are_run():
    text = "\n".join(cell.source for cell in sweep.read_notebook().cells)
    assert re.findall(r"^## (\d+)", text, re.M) == list("01234567")


def test_settings_are_those_of_the_notebook_and_recipes_change_only_them(tmp_path):
    known = sweep.read_settings(write_book(tmp_path, "x = 1"))
    assert known == {"DROPOUT": 0.3, "EPOCHS": 3, "MODE": "a"}
    parsed = sweep.parse_recipe("long=EPOCHS:5,DROPOUT:0.1,MODE:b", known)
    assert parsed == ("long", {"EPOCHS": 5, "DROPOUT": 0.1, "MODE": "b"})
    with pytest.raises(SystemExit, match="other: the notebook has no setting EPOCH"):
        sweep.parse_recipe("other=EPOCH:5", known)


def test_the_protocol_and_the_ablation_fit_the_notebook_of_today():
    known = sweep.read_settings(sweep.read_notebook())
    for changes in (sweep.PROTOCOL, *sweep.ABLATION.values()):
        assert set(changes) <= set(known)
        assert all(known[name] != value for name, value in changes.items())


def test_a_run_is_reused_only_for_the_same_code_and_settings(tmp_path):
    def identify(code, changes, epochs=3):
        book = write_book(tmp_path, code, epochs=epochs)
        return sweep.identify(book, changes)

    first = identify("x = 1", {"EPOCHS": 5})
    assert first == identify("x  =  1  # as before", {"EPOCHS": 5})
    assert first == identify("x = 1", {"EPOCHS": 5}, epochs=4)  # a default, overridden
    assert first.startswith("EPOCHS-5_")
    others = [
        identify("x = 2", {"EPOCHS": 5}),
        identify("x = 1", {"EPOCHS": 6}),
        identify("x = 1", {}),
        identify("x = 1", {}, epochs=4),
    ]
    assert len({first, *others}) == 5


def test_a_run_is_kept_and_not_repeated(tmp_path, monkeypatch):
    """With a small notebook; test_notebook.py reads what the real one writes."""
    code = """import json, os
json.dump({"value": EPOCHS}, open(f"{OUTPUT_DIR}/metrics.json", "w"))
with open(f"{OUTPUT_DIR}/predictions.csv", "w") as file:
    file.write("split,path,label,probability\\n")
    file.write("test,test/NORMAL/NORMAL2-IM-0007-0001.jpeg,0,0.25\\n")"""
    book = write_book(tmp_path, code)
    monkeypatch.setattr(sweep, "read_notebook", lambda: book)
    run = sweep.run_once({"EPOCHS": 7}, tmp_path / "run")
    [row] = run["predictions"].to_dict("records")
    assert run["value"] == 7 and row["probability"] == 0.25
    assert row["patient"] == "IM-7"
    again = sweep.run_once({"EPOCHS": 8}, tmp_path / "run")
    assert again["value"] == 7

    book.cells[-1].source = "raise ValueError('no lungs')"
    with pytest.raises(SystemExit, match="failed with ValueError: no lungs"):
        sweep.run_once({}, tmp_path / "other")


# On which images


def list_stems(folder):
    return {path.stem for path in folder.glob("*/*")}


@pytest.fixture
def numbered(tmp_path):
    """A folder of files with patient numbers; the content of each is its split."""
    for name in (
        *("NORMAL/IM-0001-0001", "NORMAL/IM-0002-0001", "NORMAL/IM-0002-0002"),
        *("NORMAL/IM-0009-0001", "PNEUMONIA/person1_bacteria_1"),
        *("PNEUMONIA/person1_virus_7", "PNEUMONIA/person5_bacteria_2"),
        "PNEUMONIA/person9_virus_3",
    ):
        for split in ("train", "test"):
            place = tmp_path / "data" / split / f"{name}.jpeg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(split.encode())
    return tmp_path / "data"


def test_the_lowest_patient_numbers_replace_the_official_test_folder(
    numbered, tmp_path
):
    made = sweep.take_low_numbers(numbered, tmp_path / "made", fraction=0.1)
    assert list_stems(made / "test") == {
        "IM-0001-0001",
        "person1_bacteria_1",
        "person1_virus_7",
    }
    assert len(list_stems(made / "train")) == 5
    assert {path.read_bytes() for path in made.glob("*/*/*")} == {b"train"}


def test_nothing_of_an_earlier_call_is_left_in_a_folder_of_links(numbered, tmp_path):
    made = sweep.take_low_numbers(numbered, tmp_path / "made", fraction=0.1)
    before = list_stems(made / "train")
    removed = numbered / "train/NORMAL/IM-0009-0001.jpeg"
    changed = numbered / "train/NORMAL/IM-0002-0001.jpeg"
    removed.unlink()
    changed.unlink()
    changed.write_bytes(b"another")
    sweep.take_low_numbers(numbered, made, fraction=0.1)
    assert list_stems(made / "train") == before - {removed.stem}
    assert (made / "train/NORMAL" / changed.name).read_bytes() == b"another"


def test_without_patient_numbers_there_are_no_lowest(numbered, tmp_path):
    for path in numbered.glob("*/*/*"):
        path.rename(path.with_stem(f"scan {path.stem}"))
    with pytest.raises(SystemExit, match="contains a patient number"):
        sweep.take_low_numbers(numbered, tmp_path / "made")


def test_left_out_are_the_images_on_which_shortcuts_fail_and_no_patient_of_theirs(
    drawn_tiny, tmp_path, monkeypatch
):
    table = sweep.score_shortcuts(drawn_tiny)
    monkeypatch.setattr(sweep, "score_shortcuts", lambda data: table.copy())
    made = sweep.leave_out(drawn_tiny, tmp_path / "made")
    table["stem"] = [path.split("/")[-1].split(".")[0] for path in table.path]
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        images = table[table.label == label]
        most_wrong = images.sort_values("shortcut", ascending=bool(label))
        expected = set(most_wrong.stem[: round(len(images) / 4)])
        assert expected == {path.stem for path in (made / "test" / name).iterdir()}
    group = dict(zip(table.stem, table.group))
    test_groups = {group[stem] for stem in list_stems(made / "test")}
    train_groups = {group[stem] for stem in list_stems(made / "train")}
    assert train_groups and not test_groups & train_groups


# Statistics


def make_run(seed, gap, patients=400):
    """Return a run whose classes lie `gap` standard deviations apart.

    Most of the noise depends on the patient, and is the same in all runs; the rest
    depends on the seed.
    """
    labels = np.arange(patients) % 2
    logits = labels * gap + np.random.default_rng(0).normal(size=patients)
    logits += 0.2 * np.random.default_rng(seed + 100).normal(size=patients)
    probability = 1 / (1 + np.exp(-logits))
    table = pd.DataFrame(
        {
            "split": "validation",
            "path": [f"train/X/{number}.jpeg" for number in range(patients)],
            "label": labels,
            "probability": probability,
            "patient": np.arange(patients),
        }
    )
    predicted = probability >= 0.5
    metrics = {
        "auc": roc_auc_score(labels, probability),
        "accuracy": np.mean(predicted == labels),
        "sensitivity": np.mean(predicted[labels == 1]),
        "specificity": np.mean(~predicted[labels == 0]),
    }
    estimates = {name: {"value": value} for name, value in metrics.items()}
    return {
        "validation": estimates,
        "test": estimates,
        "robustness_pooled": metrics,
        "threshold": {"value": 0.5},
        "seconds": {"training": 60},
        "predictions": pd.concat([table, table.assign(split="test")]),
    }


def test_a_difference_between_recipes_is_significant_and_one_between_seeds_is_not():
    results = {
        "reference": [make_run(seed, 1.5) for seed in range(3)],
        "same": [make_run(seed, 1.5) for seed in range(3, 6)],
        "better": [make_run(seed, 3) for seed in range(3)],
    }
    table = sweep.compare(results, draws=100)
    better = table["better"]["validation AUC"]
    low, high = better["difference_interval"]
    assert 0 < low < better["difference"] < high
    low, high = table["same"]["validation AUC"]["difference_interval"]
    assert low < 0 < high and high - low < 0.05
    lines = sweep.tabulate(results, table, "left out").splitlines()
    assert "| left out specificity |" in lines[0]
    assert len({line.count("|") for line in lines}) == 1
    assert "**" not in lines[2] + lines[3] and "**" in lines[4]


def test_the_interval_covers_patients_and_seeds():
    """With 400 patients, an AUC near .856 has a standard error near .018.

    That is the formula of Hanley and McNeil, 1982. Seeds 0.5 apart, one of which is
    drawn, add the standard deviation of a mean of three.
    """
    runs = [make_run(seed, 1.5) for seed in range(3)]
    drawn = sweep.resample(runs, "validation", 300)["auc"]
    aucs = [run["validation"]["auc"]["value"] for run in runs]
    assert drawn.mean() == pytest.approx(np.mean(aucs), abs=0.003)
    assert 0.015 < drawn.std() < 0.025
    different = [make_run(0, 1.5), make_run(0, 3), make_run(0, 4.5)]
    values = [run["validation"]["auc"]["value"] for run in different]
    spread = sweep.resample(different, "validation", 300)["auc"].std()
    assert spread > 0.9 * np.std(values) / np.sqrt(3) > 0.025


def test_runs_with_different_images_are_not_compared():
    other = make_run(1, 1.5)
    other["predictions"] = other["predictions"].iloc[::-1]
    with pytest.raises(ValueError, match="different images"):
        sweep.resample([make_run(0, 1.5), other], "test", 10)


def test_students_interval_worked_out_by_hand():
    """Mean 2, SD 1, three values: t = 4.303, half width 4.303 / sqrt(3)."""
    expected = pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)
    assert sweep.students_interval([1, 2, 3]) == expected


def test_one_seed_has_no_interval_for_perturbed_images():
    results = {"reference": [make_run(0, 1.5)], "better": [make_run(0, 3)]}
    lines = sweep.tabulate(results, sweep.compare(results, 50), "test").splitlines()
    perturbed = [line.split("|")[-3] for line in lines[2:]]
    assert not any("<br>" in cell or "**" in cell for cell in perturbed)
