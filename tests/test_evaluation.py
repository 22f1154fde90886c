"""Splits, thresholds, scores and intervals, against values worked out by hand or by another way."""

import json

import numpy as np
import pandas as pd
import pytest


def test_scores_of_five_images_worked_out_by_hand(notebook):
    labels, probabilities = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.8, 0.3, 0.4, 0.1])
    scores = notebook.measure(labels, probabilities, 0.5, np.ones(5))
    assert scores == pytest.approx({"accuracy": 4 / 5, "sensitivity": 2 / 3, "specificity": 1, "precision": 1, "f1": 4 / 5,
                                    "auc": 5 / 6, "average_precision": (1 + 1 + 3 / 4) / 3})


def test_a_weight_of_two_counts_like_the_image_twice(notebook):
    generator = np.random.default_rng(0)
    labels, probabilities = generator.integers(2, size=40), generator.random(40).round(1)
    weights = generator.integers(0, 4, size=40)
    repeated = np.repeat(np.arange(40), weights)
    assert notebook.measure(labels, probabilities, 0.5, weights.astype(float)) == pytest.approx(
        notebook.measure(labels[repeated], probabilities[repeated], 0.5, np.ones(len(repeated))))


def test_a_probability_at_the_threshold_is_pneumonia(notebook):
    assert notebook.measure(np.array([1, 0]), np.array([0.5, 0.4]), 0.5, np.ones(2))["sensitivity"] == 1


def test_a_score_with_nothing_to_measure_is_null_in_json(notebook):
    scores = notebook.score(np.ones(4, int), np.full(4, 0.9), list("abcd"), 0.5, 20, 0)
    assert scores["accuracy"]["value"] == 1 and np.isnan(scores["specificity"]["value"])
    assert json.loads(notebook.as_json(scores))["auc"] == {"value": None, "low": None, "high": None}


def test_the_threshold_lies_in_the_middle_of_the_best_gap(notebook):
    assert notebook.choose_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.6, 0.9])) == pytest.approx(0.5)


@pytest.mark.parametrize("miss", [2, 1])
def test_the_threshold_is_the_best_of_all(notebook, miss):
    """Sensitivity counts twice, unless the reader says otherwise."""
    generator = np.random.default_rng(1)
    labels = generator.integers(2, size=300)
    probabilities = np.clip(labels * 0.3 + generator.normal(0.3, 0.2, 300), 0, 1)

    def worth(threshold):
        return miss * (probabilities[labels == 1] >= threshold).mean() + (probabilities[labels == 0] < threshold).mean()

    chosen = notebook.choose_threshold(labels, probabilities, *([] if miss == 2 else [miss]))
    assert worth(chosen) == pytest.approx(max(worth(one) for one in probabilities))


def test_intervals_are_as_wide_as_the_number_of_patients_demands(notebook):
    """40 patients with 10 equal images each: the accuracy varies like that of 40 images, not like that of 400."""
    right = np.repeat(np.arange(40) % 5 > 0, 10)  # 80 % of the patients
    labels = np.repeat(np.arange(40) % 2, 10)
    probabilities = np.where(right == (labels == 1), 0.9, 0.1)
    interval = notebook.score(labels, probabilities, np.repeat(np.arange(40), 10), 0.5, 1000, 0)["accuracy"]
    width = 2 * 1.96 * np.sqrt(0.8 * 0.2 / 40)
    assert interval["value"] == pytest.approx(0.8)
    assert interval["high"] - interval["low"] == pytest.approx(width, rel=0.15)


def pool(notebook, phantoms):
    files = notebook.list_images(phantoms / "chest_xray")
    return files[files.split != "test"].reset_index(drop=True)


def test_the_split_shares_no_patient_and_keeps_the_proportions(notebook, phantoms):
    files = pool(notebook, phantoms)
    groups = pd.factorize(files.patient)[0]
    part = notebook.split_by_patient(files, groups, 0.15, seed=0)
    held_out = part == "holdout"
    assert not set(files.patient[held_out]) & set(files.patient[~held_out])
    assert held_out.mean() == pytest.approx(0.15, abs=0.04)
    for finding in ("normal", "bacterial", "viral"):
        assert (files.finding[held_out] == finding).mean() == pytest.approx((files.finding == finding).mean(), abs=0.05)
    assert np.array_equal(part, notebook.split_by_patient(files, groups, 0.15, seed=0))
    assert not np.array_equal(part, notebook.split_by_patient(files, groups, 0.15, seed=1))


def test_patients_that_share_an_image_stay_together(notebook):
    groups = notebook.link_patients(["a", "a", "b", "c", "d"], ["1", "2", "2", "3", "4"])
    assert groups[0] == groups[1] == groups[2] and len({groups[0], groups[3], groups[4]}) == 3


def test_leaks_are_counted(notebook):
    groups, held_out = np.array([0, 0, 1, 1, 2]), np.array([True, False, True, True, False])
    assert notebook.count_leaks(groups, held_out) == 1


def test_duplicates_are_found_with_their_contradictions(notebook):
    x = np.zeros((4, 8, 8, 1), np.uint8)
    x[2:] = 7
    files = pd.DataFrame({"path": ["a", "b", "c", "d"], "patient": ["p", "p", "q", "r"], "label": [0, 0, 0, 1],
                          "split": ["train", "test", "train", "train"]})
    _, groups = notebook.find_duplicates(x, files)
    assert groups[["images", "patients", "labels", "folders"]].to_numpy().tolist() == [[2, 1, 1, 2], [2, 2, 2, 1]]


SETTINGS = {"IMAGE_SIZE": [7, 2000, 64.5, "big", True], "EPOCHS": [0, -1, 2.5, "ten"], "LEARNING_RATE": [0, -1, 5, "fast"],
            "PRESET": ["fast", None], "BATCH_SIZE": [0], "SEED": [-1], "RUN_NAME": ["", "a/b", "baseline"],
            "VALIDATION_SHARE": [0, 0.9], "AUGMENT": ["yes"]}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SETTINGS.items() for value in values])
def test_a_setting_that_makes_no_sense_is_named(notebook, name, value):
    import functions
    with pytest.raises(ValueError, match=name):
        notebook.resolve_settings(functions.read_settings() | {name: value}, "CPU")


def test_the_preset_fills_in_and_an_explicit_value_wins(notebook):
    import functions
    defaults = functions.read_settings()
    presets = defaults["PRESETS"]
    assert notebook.resolve_settings(defaults, "CPU").IMAGE_SIZE == presets["quick"]["IMAGE_SIZE"]
    assert notebook.resolve_settings(defaults, "GPU").EPOCHS == presets["full"]["EPOCHS"]
    chosen = notebook.resolve_settings(defaults | {"PRESET": "full", "EPOCHS": 3}, "CPU")
    assert (chosen.EPOCHS, chosen.IMAGE_SIZE) == (3, presets["full"]["IMAGE_SIZE"])


def test_an_output_folder_that_cannot_be_written_is_named(notebook, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"OUTPUT_DIR .*file.* cannot be written"):
        notebook.prepare_folder(tmp_path / "file" / "outputs", "OUTPUT_DIR")
    with pytest.raises(OSError, match=r"GB of disk left"):
        notebook.prepare_folder(tmp_path, "OUTPUT_DIR", 1e18)


def test_a_file_is_written_whole_or_not_at_all(notebook, tmp_path, monkeypatch):
    notebook.write_whole(tmp_path / "a.json", "old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        notebook.write_whole(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"


def test_the_temperature_undoes_what_made_a_network_too_sure(notebook):
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, 20_000)
    labels = (generator.random(20_000) < 1 / (1 + np.exp(-logits))).astype(int)
    too_sure = 1 / (1 + np.exp(-3 * logits))
    assert notebook.fit_temperature(labels, too_sure) == pytest.approx(3, rel=0.05)
    assert notebook.calibration_error(labels, too_sure) > 0.05
    assert notebook.calibration_error(labels, 1 / (1 + np.exp(-logits))) < 0.015


def test_answers_without_a_mistake_do_not_become_certain(notebook):
    labels, said = np.repeat([0, 1], 10), np.repeat([0.3, 0.7], 10)
    temperature = notebook.fit_temperature(labels, said)
    assert 1 / (1 + np.exp(-np.log(0.7 / 0.3) / temperature)) == pytest.approx(11 / 12, abs=0.001)  # Platt's target for 10 images


def test_the_calibration_error_of_four_images_worked_out_by_hand(notebook):
    """Between 0.9 and 1: 1 ill of 1.9 announced; between 0.1 and 0.2: 2 of 0.3."""
    assert notebook.calibration_error(np.array([1, 0, 1, 1]), np.array([0.95, 0.95, 0.15, 0.15])) == pytest.approx((0.9 + 1.7) / 4)
    assert notebook.calibration_error(np.array([1, 0]), np.array([1.0, 0.0])) == 0


def test_a_calibrated_network_says_calibrated_probabilities(notebook):
    model, x = notebook.build_cnn(32), np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), np.uint8)
    before = notebook.predict_probabilities(model, x)
    notebook.calibrate(model, 2.5)
    odds = before / (1 - before)
    assert np.allclose(notebook.predict_probabilities(model, x), odds**0.4 / (1 + odds**0.4), atol=1e-5)


def test_other_thresholds_worked_out_by_hand(notebook):
    labels = np.array([1] * 20 + [0] * 4)
    said = np.concatenate([np.linspace(0.05, 1, 20), [0.02, 0.12, 0.33, 0.99]])
    assert notebook.choose_for_sensitivity(labels, said) == pytest.approx(0.1)  # 19 of 20 are found
    assert notebook.choose_for_sensitivity(labels, said, 0.9) == pytest.approx(0.15)
    costs = {step: miss * np.sum(said[:20] < step) + np.sum(said[20:] >= step) for miss in (5,) for step in said}
    assert costs[notebook.choose_for_cost(labels, said)] == min(costs.values())
    assert notebook.choose_for_cost(labels, said, 0.01) == 1.0  # a miss costs nothing: no alarm but the surest


def test_predictive_values_worked_out_by_hand(notebook):
    """1,000 children, 100 ill: 90 alarms are right and 90 wrong; 810 of 820 all-clears are right."""
    assert notebook.predictive_values(0.9, 0.9, 0.1) == pytest.approx((0.5, 810 / 820))
    table = notebook.compare_thresholds(np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.6, 0.1]), {"a": 0.5}, [0.5])
    assert table.loc["a"].tolist() == [0.5, 0.5, 0.5, 0.5, 0.5]


def test_changed_pictures_are_what_their_names_say(notebook):
    ramp = np.tile(np.linspace(60, 190, 64, dtype=np.float32), (64, 1))
    changed = {name: change(ramp) for name, change in notebook.list_shifts(64).items()}
    assert np.array_equal(changed["unchanged"], ramp) and all(picture.shape == ramp.shape for picture in changed.values())
    assert changed["half the contrast"].std() == pytest.approx(ramp.std() / 2, rel=1e-3)
    assert changed["gamma 2"][0, 0] == pytest.approx(255 * (60 / 255) ** 2, rel=1e-3)
    assert changed["cropped to 80 %"].max() - changed["cropped to 80 %"].min() == pytest.approx(0.8 * 130, abs=2)
    taller = notebook.list_shifts(64)["stretched by a quarter in height"](ramp.T)
    assert taller.max() - taller.min() == pytest.approx(0.8 * 130, abs=3) and abs(taller[32, 32] - ramp.T[32, 32]) < 2
    assert changed["turned by 12 degrees"][32, 32] == pytest.approx(ramp[32, 32], abs=2)
    assert changed["noisy"].std() > ramp.std() and np.abs(changed["blurred"] - ramp).max() < 5


def test_one_line_for_all_changes_costs_what_ranking_within_each_hides(notebook):
    """Each change ranks its sick child above its healthy one; of the four pairs of all together, .3 against .4 is wrong."""
    changed = {"unchanged": np.array([0.1, 0.3]), "brighter": np.array([0.4, 0.6])}
    assert notebook.measure_shifts(np.array([0, 1]), changed, 0.5).auc.tolist() == [1, 1]
    together = notebook.measure_together(np.array([0, 1]), changed, 0.5)
    assert (together["auc"], together["sensitivity"], together["specificity"]) == (0.75, 0.5, 1)


def test_shifted_batches_change_the_images_and_nothing_else(notebook):
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 1), np.uint8)
    batches = notebook.ImageBatches([images], np.arange(10)[::-1], np.arange(10), 4)
    brighter = notebook.ShiftedBatches(batches, lambda picture: picture + 60)
    for number in range(3):
        assert np.array_equal(brighter[number][0], np.minimum(batches[number][0].astype(int) + 60, 255))
        assert np.array_equal(brighter[number][1], batches[number][1])
