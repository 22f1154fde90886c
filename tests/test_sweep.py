"""The comparison of recipes: its intervals, and that only a difference beyond noise counts."""

import ast
import copy
import re

import build
import nbformat
import numpy as np
import pandas as pd
import pytest
import sweep


@pytest.fixture(scope="module", autouse=True)
def built_once():
    """The notebook that every change is tried on, built once for all of them."""
    book = build.build()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build", lambda: copy.deepcopy(book))
        yield


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
    run = {"validation": scores, "test": scores, "shifts": changed, "changed_together": scores,
           "threshold": {"value": 0.5}, "seconds": {"6 Train": 60},
           "predictions": pd.concat([table, table.assign(split="test")])}
    return sweep.add_conflicting(run, pd.Series(np.arange(patients) / patients, table.path))


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


def test_conflicting_images_are_a_quarter_of_each_class_and_judged_by_the_same_answers():
    """By clues that grow with the number, those are the last healthy and the first sick of 400."""
    run = make_run(0, 1.5)
    table = run["predictions"]
    own, held = (table[table.split == part].set_index("path") for part in ("conflicting", "validation"))
    numbers = own.patient.to_numpy()
    assert sorted(numbers) == [*range(1, 100, 2), *range(300, 400, 2)]
    assert (own.probability == held.probability[own.index]).all()
    pairs = own.probability[own.label == 1].to_numpy()[:, None] > own.probability[own.label == 0].to_numpy()
    assert run["conflicting"]["auc"]["value"] == pytest.approx(pairs.mean()) == sweep.pick(run, ("conflicting", "auc"))


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
    known = build.read_settings()
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
    gone, changed = (tmp_path / "data/train/NORMAL" / name for name in ("IM-0009-0001.jpeg", "IM-0002-0001.jpeg"))
    gone.unlink()
    changed.unlink()
    changed.write_bytes(b"another")
    sweep.imitate_shift(tmp_path / "data", made, share=0.1)  # other data, into the same folder: nothing of the first is left
    assert {path.stem for path in (made / "train").glob("*/*")} == left - {gone.stem}
    assert (made / "train/NORMAL" / changed.name).read_bytes() == b"another" and gone.stem in left


def test_a_run_counts_no_more_when_a_function_that_decides_it_has_changed(monkeypatch):
    found, known = build.find_definitions(), build.read_settings()
    before = sweep.identify(known)
    for name in ("build_cnn", "build_baseline", "subtract_local_mean", "residual_block", "normalise", "RandomPose",
                 "build_augmentation", "augment", "train", "make_callbacks", "NetworkCheckpoint", "describe_training", "ImageBatches",
                 "make_batches", "gather_images", "fill_batch", "split_by_patient", "link_patients", "read_image", "decode",
                 "decode_odd", "shrink", "fit_calibration", "calibrate", "choose_threshold", "measure", "list_shifts", "join_changes",
                 "vary"):
        module, _, source = found[name]
        other = ast.parse(source).body[0]
        other.body.append(ast.Pass())
        monkeypatch.setattr(build, "find_definitions", lambda one=(name, (module, other, source)): found | dict([one]))
        assert sweep.identify(known) != before, name


def test_a_run_counts_on_when_a_figure_or_a_download_has_changed(monkeypatch):
    found, known = build.find_definitions(), build.read_settings()
    before = sweep.identify(known)
    rest = {name: one for name, one in found.items() if one[0] not in ("figures", "download", "card", "compare", "explain", "picture")}
    monkeypatch.setattr(build, "find_definitions", lambda: rest)
    assert len(rest) < len(found) and sweep.identify(known) == before


def read_patched(name, folder):
    """Return the trees of the code cells of the notebook with a change."""
    book = nbformat.read(sweep.write_notebook(folder / "patched.ipynb", name), as_version=4)
    return [ast.parse(cell.source) for cell in book.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", sweep.PATCHES)
def test_every_change_that_is_tried_fits_the_notebook_of_today(name, tmp_path):
    plain, changed = (list(map(ast.dump, read_patched(one, tmp_path))) for one in (None, name))
    assert 1 <= sum(one != other for one, other in zip(plain, changed)) <= len(sweep.PATCHES[name])
    with pytest.raises(SystemExit, match="no change called"):
        sweep.write_notebook(tmp_path / "patched.ipynb", "nonsense")


@pytest.mark.parametrize(("text", "count"), [("no such text", "0"), ("def build_", "[2-9]")])
def test_a_change_that_fits_nowhere_or_twice_is_refused(text, count, tmp_path, monkeypatch):
    monkeypatch.setitem(sweep.PATCHES, "odd", [(text, "")])
    with pytest.raises(SystemExit, match=f"has {count} times"):
        sweep.write_notebook(tmp_path / "patched.ipynb", "odd")


def test_a_sweep_runs_all_that_is_measured_and_not_what_only_looks_at_it(tmp_path):
    book = nbformat.read(sweep.write_notebook(tmp_path / "short.ipynb", whole=False), as_version=4)
    assert re.findall(r"^## (\d+)\.", "\n".join(cell.source for cell in book.cells), re.M) == [*"01234567", "10"]


def execute(nodes, names):
    exec(compile(ast.Module(list(nodes), []), "patched", "exec"), names)


def define_patched(name, folder):
    """Execute the imports and definitions of the notebook with a change, in their order; return (its cells, its names)."""
    trees, names, known = read_patched(name, folder), {}, set(build.find_definitions())
    for tree in trees:
        execute(build.module_imports(tree), names)
        execute([node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                 or known.intersection(build.defined_names(node))], names)
    return trees, names


def train_patched(name, folder):
    """Train for an epoch of two steps as the cell of section 6 does, on 40 pictures of noise; return the notebook's names."""
    trees, names = define_patched(name, folder)
    values = build.read_settings() | {"PRESET": "quick", "IMAGE_SIZE": 32, "EPOCHS": 1, "BATCH_SIZE": 16}
    strategy, count = names["find_strategy"]()
    findings = ["normal", "bacterial", "viral", "unknown"] * 10
    pictures = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1), np.uint8)
    files = pd.DataFrame({"finding": findings, "label": [int(one != "normal") for one in findings],
                          "part": ["fit"] * 32 + ["holdout"] * 8})
    names |= {"settings": names["resolve_settings"](values, "CPU"), "pool_files": files, "x_train": pictures, "x_val": pictures[:0],
              "strategy": strategy, "device_count": count, "precision": "float32", "runs_dir": folder}
    names["holdout"] = names["watched"] = names["make_batches"]("holdout", files, [pictures], 16)
    cell = next(tree.body for tree in trees if "model.compile(" in ast.unparse(tree))
    execute(cell[: next(place for place, node in enumerate(cell) if "finish_run(" in ast.unparse(node))], names)
    names["kept"] = names["keras"].models.load_model(folder / "reference" / "training.keras")
    return names


def move_farthest(names):
    """Return how far a weight of the first convolution of the network that is kept has moved, at most."""
    names["keras"].utils.set_random_seed(0)
    began, kept = (network.get_layer("stem_conv").get_weights()[0] for network in (names["build_cnn"](32), names["kept"]))
    return np.abs(kept - began).max()


def test_averaged_weights_are_what_is_kept(tmp_path):
    """AdamW's first steps are as long as the rate, 0.001; a mean with momentum 0.99 has hardly moved on from where the first led."""
    names = train_patched("averaged", tmp_path)
    assert 0.0009 < move_farthest(names) < 0.0012
    assert len(names["state"].rows) == 1 and names["model"].optimizer.use_ema


def test_the_mean_of_the_weights_of_all_steps_is_kept_with_statistics_of_its_own(tmp_path):
    """Two steps, each about as long as the rate, the same way: their mean lies one and a half of them from where they began."""
    names = train_patched("swa", tmp_path)
    assert 0.0013 < move_farthest(names) < 0.0017
    norm, last = names["kept"].get_layer("stem_norm"), names["model"].layers[-1].get_layer("stem_norm")
    assert norm.momentum == last.momentum == 0.95
    maps = names["keras"].Model(names["kept"].inputs, norm.input)
    seen = maps.predict(names["x_train"][:32], verbose=0).var(axis=(0, 1, 2))
    assert norm.get_weights()[3] == pytest.approx(seen, rel=0.6)  # after two steps from 1 they would hardly have moved: 0.95² is left


def test_mixed_films_have_mixed_labels_in_training_only(tmp_path):
    _, names = define_patched("cosine and mixup", tmp_path)
    labels = np.arange(8, dtype=np.uint8) % 2
    pictures = np.broadcast_to(200 * labels[:, None, None, None], (8, 4, 4, 1)).astype(np.uint8)
    images, said = names["ImageBatches"]([pictures], np.arange(8), labels, 8, seed=3)[0]
    assert images[:, 0, 0, 0] / 200 == pytest.approx(said, abs=0.003) and ((said > 0.01) & (said < 0.99)).any()
    images, said = names["ImageBatches"]([pictures], np.arange(8), labels, 8)[0]
    assert (images == pictures).all() and (said == labels).all()


def test_the_plain_network_has_the_layers_that_section_8_looks_for(tmp_path):
    names = train_patched("plain", tmp_path)
    kept, pictures = names["kept"], names["x_train"]
    assert kept.name == "baseline" and kept.get_layer("average").output.shape == (None, 128)
    assert names["grad_cam"](kept, pictures[:2], np.array([True, False])).shape == (2, 32, 32)
    familiar = names["Familiar"](kept, names["fit"], names["holdout"], pd.DataFrame({"width": [1, 2], "height": [1, 1]}))
    assert np.isfinite(familiar.measure(pictures)).all()


def test_findings_are_learnt_with_the_loss_of_three_classes(tmp_path):
    names = train_patched("findings", tmp_path)
    assert names["fit"].labels.tolist() == [0, 2, 3, 1] * 8 and names["holdout"].labels.tolist() == [0, 1, 1, 1] * 2
    answers = names["keras"].ops.convert_to_tensor([[0.2, 0.5], [0.6, 0.5], [0.7, 0.25], [0.9, 0.8]])
    loss = names["finding_loss"](names["keras"].ops.convert_to_tensor(np.array([0, 1, 2, 3], np.uint8)), answers)
    by_hand = [-np.log(0.8), -np.log(0.6), -np.log(0.7) - np.log(0.75), -np.log(0.9) - np.log(0.8)]
    assert names["keras"].ops.convert_to_numpy(loss) == pytest.approx(by_hand, abs=1e-5)
    metric = names["FirstAccuracy"]()
    metric.update_state(np.array([0, 1, 2, 3], np.uint8), answers)
    assert float(metric.result()) == 1
    kept, pictures = names["kept"], names["x_train"]
    assert kept.output_shape == names["look_closer"](kept, 3).output_shape == (None, 2)
    assert names["predict_probabilities"](kept, pictures).shape == (40,)
    assert names["grad_cam"](kept, pictures[:2], np.array([True, False])).shape == (2, 32, 32)


def test_changes_of_layers_are_in_what_is_built(tmp_path):
    _, erasing = define_patched("erasing", tmp_path)
    assert "RandomErasing" in [type(layer).__name__ for layer in erasing["build_augmentation"]().layers]
    _, unstandardised = define_patched("unstandardised", tmp_path)
    assert "standardise" not in [layer.name for layer in unstandardised["build_cnn"](32).layers]


def test_networks_together_beat_each_of_them_where_their_mistakes_differ():
    """Logits 1.5 deviations apart, with as much noise of each seed as of the patients: the mean of three has less of it."""
    runs = [make_run(seed, 1.5) for seed in range(3)]
    for seed, run in enumerate(runs):
        noise = np.random.default_rng(seed).normal(0, 1, len(run["predictions"]))
        odds = run["predictions"].probability / (1 - run["predictions"].probability) * np.exp(noise)
        run["predictions"] = run["predictions"].assign(probability=odds / (1 + odds))
    alone = [float(re.search(r"auc ([\d.]+)", sweep.ensemble([run], resamples=20))[1]) for run in runs]
    assert float(re.search(r"auc ([\d.]+)", sweep.ensemble(runs, resamples=20))[1]) > max(alone) + 0.02


def test_what_is_left_out_is_what_the_clues_mislead_on_and_its_patients_are_not_learnt_from(drawn_tiny, tmp_path):
    made = sweep.leave_out(drawn_tiny, tmp_path / "made")
    table = sweep.read_clues(drawn_tiny)
    asked, kept = ({path.name for path in (made / split).glob("*/*")} for split in ("test", "train"))
    for label, name in enumerate(("NORMAL", "PNEUMONIA")):
        own = table[table.label == label].sort_values("clue", ascending=bool(label))  # the most misleading first
        expected = {path.split("/")[-1] for path in own.index[:round(len(own) / 4)]}
        assert expected == {path.name for path in (made / "test" / name).iterdir()}
    group = {path.split("/")[-1]: group for path, group in table.group.items()}
    assert kept and not {group[name] for name in asked} & {group[name] for name in kept}
    before = {path.name: path.read_bytes() for split in ("train", "val") for path in (drawn_tiny / split).glob("*/*")}
    assert all(before[path.name] == path.read_bytes() for path in made.glob("*/*/*"))


def test_the_gain_of_networks_together_is_to_the_mean_of_them_alone():
    """Logits of sick against healthy 3 against 0 and 2 against 3: alone AUCs of 1 and 0; together 2.5 against 1.5, so 1: half is gained."""
    odds = np.exp([[3.0, 0, 3, 0, 5, -5], [2, 3, 2, 3, 5, -5]])
    table = pd.DataFrame({"split": ["test", "test", "validation", "validation"], "label": [1, 0, 1, 0], "patient": list("abcd")})
    table = pd.concat([table[:2], table[:2].replace({"a": "e", "b": "f"}), table[2:]], ignore_index=True)
    runs = [{"predictions": table.assign(probability=one / (1 + one))} for one in odds]
    assert "in AUC +0.5000" in sweep.ensemble(runs, resamples=20)


def test_the_classifiers_are_averaged_over_the_runs():
    runs = [{"classifiers": {"linear": {"AUC": {"value": value}, "test AUC": {"value": value - 0.1}}}} for value in (0.8, 0.9)]
    assert "| linear | 0.850 ± 0.071 | 0.750 ± 0.071 |" in sweep.tabulate_classifiers(runs)


def test_a_film_takes_the_grey_levels_of_another_one_rank_for_rank(tmp_path):
    names = define_patched("histogram", tmp_path)[1]
    pictures = np.stack([np.linspace(0, 0.4, 64), np.linspace(1, 0.5, 64)]).reshape(2, 8, 8, 1).astype("float32")
    layer, moved = names["RandomHistogram"](1.0), set()
    for _ in range(20):
        for before, after in zip(pictures, np.asarray(layer(pictures, training=True))):
            own = [sorted(one.ravel().tolist()) == sorted(after.ravel().tolist()) for one in pictures]
            assert any(own) and (np.argsort(before.ravel()) == np.argsort(after.ravel())).all()
            moved.add((before[0, 0, 0] == 0, own.index(True)))
    assert len(moved) == 4  # each film has had its own grey levels and the other's
    assert (np.asarray(layer(pictures)) == pictures).all()


@pytest.mark.parametrize(("name", "put_on"), [("bare", False), ("letters", True)])
def test_letters_are_painted_out_or_come_from_another_film_in_training_only(name, put_on, tmp_path):
    _, names = define_patched(name, tmp_path)
    plain, lettered = np.full((2, 96, 96, 1), 100, np.uint8)
    lettered[40:46, 6:10] = 250
    pictures, labels = np.stack([plain, lettered] * 16), np.zeros(32, np.uint8)
    batches = names["ImageBatches"]([pictures], np.arange(32), labels, 32, seed=3)
    had, has = pictures[batches.order][:, 42, 7, 0] > 200, batches[0][0][:, 42, 7, 0]
    assert set(np.unique(has)) == {100, 250}  # painted out with the ground around it
    assert (had & (has == 250)).any() and (had & (has == 100)).any() and (~had & (has == 250)).any() == put_on
    for image, letter in zip(batches[0][0].astype(int), has):
        assert image == pytest.approx(lettered if letter == 250 else plain, abs=3)  # grey levels, by the painting
    assert (names["ImageBatches"]([pictures], np.arange(32), labels, 32)[0][0] == pictures).all()


def test_amplitudes_are_mixed_with_those_of_another_film_and_phases_stay(tmp_path):
    _, names = define_patched("spectrum", tmp_path)
    noise = np.random.default_rng(0).normal(0, 10, (32, 16, 16, 1))
    pictures = np.round(noise + np.where(np.arange(32) % 2, 160, 90)[:, None, None, None]).astype(np.uint8)
    batches = names["ImageBatches"]([pictures], np.arange(32), np.zeros(32, np.uint8), 32, seed=3)
    before, after = pictures[batches.order][..., 0], batches[0][0][..., 0]
    same = (before == after).all(axis=(1, 2))
    assert 8 <= same.sum() <= 24
    waves, mixed = np.fft.rfft2(before), np.fft.rfft2(after)
    strong = (np.abs(waves) > 200) & (np.abs(mixed) > 200)  # the others are lost in the rounding to whole grey levels
    assert np.cos(np.angle(waves) - np.angle(mixed))[strong].min() > 0.98
    means = after.mean(axis=(1, 2))[~same]
    assert means.min() > 80 and means.max() < 170 and ((means > 100) & (means < 150)).any()


def test_a_chest_is_moved_to_where_the_mean_has_it_and_what_shows_none_stays(tmp_path):
    _, names = define_patched("aligned", tmp_path)
    down, across = np.mgrid[:80, :80]

    def draw(moved, wider):
        lungs = [((across - 40 - side * wider - moved) / 10 / wider) ** 2 + ((down - 40 + moved) / 22) ** 2 < 1 for side in (-16, 16)]
        return np.where(lungs[0] | lungs[1], 60, 180).astype(np.uint8)[:, :, None]

    mean = draw(0, 1)
    films = np.stack([draw(4, 1), draw(0, 1.15), draw(-3, 0.9), np.full_like(mean, 100)])
    aligned = names["align"](films, mean[:, :, 0].astype(float))
    before, after = (np.abs(x[:3].astype(int) - mean).mean(axis=(1, 2, 3)) for x in (films, aligned))
    assert (after < before / 4).all() and (aligned[3] == films[3]).all()


def test_half_of_the_films_get_the_frame_of_another_one(tmp_path):
    """Of 200 films of one grey level each the middle stays; what is not its own lies at the edges and is another's."""
    films = np.tile(np.arange(200, dtype="float32")[:, None, None, None], (1, 24, 24, 1))
    made = np.asarray(define_patched("swapped", tmp_path)[1]["RandomSwap"](1.0)(films, training=True))
    assert (made[:, 4:20, 4:20] == films[:, 4:20, 4:20]).all()
    foreign = [set(np.unique(one)) - {number} for number, one in enumerate(made)]
    assert max(map(len, foreign)) == 1 and 60 < sum(map(bool, foreign)) < 140


def draw_some(layer, wanted):
    """Let a layer draw as it does at the places `wanted` in a change, and 0 elsewhere."""
    draw, place = layer.draw, iter(range(100))
    layer.draw = lambda x, low, high: draw(x, low, high) * (next(place) in wanted)


@pytest.mark.parametrize(("name", "reach"), [("shade", 0.4), ("strong shade", 0.8), ("shade and frame", 0.4)])
def test_light_is_a_smooth_slope_of_its_own_for_each_film(name, reach, tmp_path):
    """A thousand grey films: what is added is of second degree down and across, as far at the ends as it says, and on average nothing."""
    layer = define_patched(name, tmp_path)[1]["RandomExposure"](1.0)
    draw_some(layer, range(3, 100))
    added = np.array(layer(np.full((1000, 9, 13, 1), 0.5, np.float32), training=True))[..., 0] - 0.5
    down, right = np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 13), indexing="ij")
    terms = np.stack([np.ones_like(down), down, right, down * right, down**2, right**2], axis=-1).reshape(-1, 6)
    weights = np.linalg.lstsq(terms, added.reshape(1000, -1).T, rcond=None)[0]
    assert np.abs(terms @ weights - added.reshape(1000, -1).T).max() < 1e-5
    assert np.abs(weights[1:]).max(axis=1) == pytest.approx([reach] * 5, abs=0.02)
    assert np.abs(np.corrcoef(weights[1:]) - np.eye(5)).max() < 0.15 and np.abs(added.mean(axis=0)).max() < 0.1


def test_mixstyle_mixes_mean_and_spread_and_nothing_else_in_training_only(tmp_path):
    names = define_patched("mixstyle", tmp_path)[1]
    maps = np.random.default_rng(0).normal([[[[0.0, 5.0]]], [[[3.0, 1.0]]]], 1, (2, 6, 6, 2)).astype("float32")
    layer = names["MixStyle"]()
    assert (np.asarray(layer(maps)) == maps).all()
    changed = [np.asarray(layer(maps, training=True)) for _ in range(20)]
    assert any(np.allclose(one, maps) for one in changed) and not all(np.allclose(one, maps, atol=1e-3) for one in changed)
    for one in changed:
        standard = [(values - values.mean((1, 2), keepdims=True)) / values.std((1, 2), keepdims=True) for values in (one, maps)]
        assert np.allclose(*standard, atol=1e-3)
        means = maps.mean((1, 2))
        assert (one.mean((1, 2)) > means.min(0) - 1e-3).all() and (one.mean((1, 2)) < means.max(0) + 1e-3).all()


def test_what_the_clues_know_counts_as_if_the_network_had_said_it(tmp_path):
    """Sick, the clues' log odds 2, the network's 1: -log(sigmoid(3)). Held-out labels are 0 and 1, and the clues are not asked."""
    names = define_patched("experts", tmp_path)[1]
    tree = ast.parse(sweep.PATCHES["experts"][0][1].split("\n", 1)[1])
    execute([node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))], names)
    labels = np.array([1102, 998, 1, 0], "float32")  # sick 2, healthy -2
    logits = np.array([1, 1, 1, 1.0])
    loss = np.asarray(names["expert_loss"](labels, (1 / (1 + np.exp(-logits)))[:, None].astype("float32")))
    by_hand = [np.log1p(np.exp(-3)), np.log1p(np.exp(-1)), np.log1p(np.exp(-1)), np.log1p(np.exp(1))]
    assert loss == pytest.approx(by_hand, abs=1e-5)
    metric = names["ExpertAccuracy"]()
    metric.update_state(labels, np.array([[0.9], [0.1], [0.9], [0.1]]))
    assert float(metric.result()) == 1
