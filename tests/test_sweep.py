"""The comparison of recipes: its intervals, and that only a difference beyond noise counts."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import sweep


def make_run(seed, gap, patients=400, shifts=(0.9, 0.8)):
    """Return a run whose scores of sick and healthy lie `gap` standard deviations apart; noise of the seed on top of the patients'."""
    patient, own = np.random.default_rng(0), np.random.default_rng(seed + 100)
    labels = np.arange(patients) % 2
    logits = labels * gap + patient.normal(0, 1, patients) + own.normal(0, 0.2, patients)
    table = pd.DataFrame({"split": "validation", "path": [f"train/X/person{number}_virus_1.jpeg" for number in range(patients)],
                          "label": labels, "probability": 1 / (1 + np.exp(-logits)), "patient": np.arange(patients)})
    scores = {"auc": {"value": float(np.mean(logits[labels == 1][:, None] > logits[labels == 0][None]))},
              "accuracy": {"value": 0.9}}
    changed = {"unchanged": {"auc": 1.0, "sensitivity": 1.0, "specificity": 1.0},
               **{f"c{number}": {"auc": auc, "sensitivity": auc, "specificity": 0.5} for number, auc in enumerate(shifts)}}
    return {"validation": scores, "test": scores, "shifts": changed, "changed_together": scores,
            "threshold": {"value": 0.5}, "seconds": {"6 Train": 60},
            "predictions": pd.concat([table, table.assign(split="test")])}


def test_a_real_difference_is_told_from_noise():
    """A gap of 3 against 1.5 deviations differs; another trio of seeds of the same recipe does not."""
    results = {"reference": [make_run(seed, 1.5) for seed in range(3)], "same": [make_run(seed, 1.5) for seed in range(3, 6)],
               "better": [make_run(seed, 3) for seed in range(3)]}
    table = sweep.compare(results, draws=200)
    path = ("validation", "auc")
    low, high = table["better"][path]["difference_interval"]
    assert 0 < low < table["better"][path]["difference"] < high
    low, high = table["same"][path]["difference_interval"]
    assert low < 0 < high and high - low < 0.05
    lines = sweep.tabulate(results, table).splitlines()
    assert "**" not in lines[3] and "**" in lines[4]


def test_the_interval_of_a_score_covers_patients_and_seeds():
    """For 400 patients the AUC near .856 has a standard error near .018 (Hanley and McNeil, 1982), whatever the seeds add."""
    runs = [make_run(seed, 1.5) for seed in range(3)]
    drawn = sweep.resample(runs, "validation", draws=300)["auc"]
    assert drawn.mean() == pytest.approx(np.mean([sweep.pick(run, ("validation", "auc")) for run in runs]), abs=0.003)
    assert 0.015 < drawn.std() < 0.025


def test_changed_images_are_summed_up_without_the_unchanged_ones():
    run = make_run(0, 2)
    assert sweep.pick(run, ("shifts", "lowest auc")) == 0.8
    assert sweep.pick(run, ("shifts", "lowest specificity")) == 0.5


def test_students_interval_worked_out_by_hand():
    """Mean 2, SD 1, three values: t = 4.303, half width 4.303 / sqrt(3)."""
    assert sweep.student([1, 2, 3]) == pytest.approx((2 - 2.484, 2 + 2.484), abs=1e-3)


def test_a_word_becomes_a_recipe_and_an_identity():
    assert sweep.parse_recipe("plain=AUGMENT:False,EPOCHS:3") == ("plain", {"AUGMENT": False, "EPOCHS": 3})
    known = sweep.functions.read_settings()
    names = [sweep.identify(known | changes) for changes in ({}, {"DROPOUT": 0}, {"DROPOUT": 0.1})]
    assert len(set(names)) == 3 and names[1].startswith("DROPOUT-0_")


def test_the_imitation_takes_the_lowest_numbers_and_no_patient_twice(tmp_path):
    for name in ("NORMAL/IM-0001-0001", "NORMAL/IM-0002-0001", "NORMAL/IM-0002-0002", "NORMAL/IM-0009-0001",
                 "PNEUMONIA/person1_bacteria_1", "PNEUMONIA/person1_virus_7", "PNEUMONIA/person5_bacteria_2", "PNEUMONIA/person9_virus_3"):
        for split in ("train", "test"):
            place = tmp_path / "data" / split / f"{name}.jpeg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(split.encode())
    made = sweep.imitate_shift(tmp_path / "data", tmp_path / "made", share=0.1)
    taken, left = ({path.stem for path in (made / split).glob("*/*")} for split in ("test", "train"))
    assert taken == {"IM-0001-0001", "person1_bacteria_1", "person1_virus_7"} and len(left) == 5
    assert all(path.read_bytes() == b"train" for path in made.rglob("*.jpeg"))  # the real test folder was not touched


@pytest.mark.parametrize("name", sweep.PATCHES)
def test_every_change_that_is_tried_fits_the_notebook_of_today(name, tmp_path):
    changed = sweep.write_patched(name, tmp_path / "patched.ipynb").read_text(encoding="utf-8")
    assert changed != sweep.functions.NOTEBOOK.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="no change called"):
        sweep.write_patched("nonsense", tmp_path / "patched.ipynb")


def test_networks_together_beat_each_of_them_where_their_mistakes_differ():
    """Logits 1.5 deviations apart, with as much noise of each seed as of the patients: the mean of three has less of it."""
    runs = [make_run(seed, 1.5) for seed in range(3)]
    for seed, run in enumerate(runs):
        noise = np.random.default_rng(seed).normal(0, 1, len(run["predictions"]))
        odds = run["predictions"].probability / (1 - run["predictions"].probability) * np.exp(noise)
        run["predictions"] = run["predictions"].assign(probability=odds / (1 + odds))
    alone = [float(re.search(r"auc ([\d.]+)", sweep.ensemble([run], resamples=20))[1]) for run in runs]
    assert float(re.search(r"auc ([\d.]+)", sweep.ensemble(runs, resamples=20))[1]) > max(alone) + 0.02
