"""The picture of the README is made from phantoms and from nothing else."""

import json

import banner
import build
import numpy as np
import pytest


@pytest.fixture
def outputs(tiny, tmp_path):
    """What a run on phantoms leaves, as far as the choice of pictures goes: all right but one alarm."""
    paths = sorted(str(path.relative_to(tiny)) for path in (tiny / "test").glob("*/*"))
    labels = [int("/PNEUMONIA/" in path) for path in paths]
    said = [0.9 if label or place == 0 else 0.1 for place, label in enumerate(labels)]
    rows = [f"test,{path},{label},{probability}" for path, label, probability in zip(paths, labels, said)]
    (tmp_path / "predictions.csv").write_text("\n".join(["split,path,label,probability", *rows]), encoding="utf-8")
    report = {"data": "phantom", "threshold": {"value": 0.5}}
    (tmp_path / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path


def try_banner(outputs):
    banner.main([str(outputs), str(outputs / "chest_xray"), str(outputs / "banner.png")])


def test_a_run_on_other_pictures_is_refused(outputs):
    (outputs / "metrics.json").write_text('{"data": "chest-xray-pneumonia", "threshold": {"value": 0.5}}', encoding="utf-8")
    with pytest.raises(SystemExit, match="is not a phantom"):
        try_banner(outputs)
    assert not (outputs / "banner.png").exists()


def test_a_picture_without_the_mark_of_a_phantom_is_refused(outputs):
    for path in (outputs / "chest_xray" / "test").glob("*/*"):
        path.write_bytes(path.read_bytes().replace(b"PHANTOM", b"SOMEONE"))
    with pytest.raises(SystemExit, match="is not a phantom"):
        try_banner(outputs)


def test_the_small_picture_says_what_it_shows_and_fits_into_the_notebook():
    pictures, heat = np.zeros((2, 8, 8, 1), np.uint8), np.ones((2, 8, 8))
    figure = banner.draw_small(pictures, heat, {"NORMAL": 4, "bacterial": 9}, np.array([0.1, 0.93]))
    assert [axis.get_title() for axis in figure.axes] == ["a film goes in", "out comes P(pneumonia) = 0.930"]
    assert "PHANTOM" in figure.get_supxlabel() and [len(axis.images) for axis in figure.axes] == [1, 2]
    assert (build.ROOT / "docs/first_screen.png").stat().st_size <= build.PICTURE_LIMIT


def test_right_answers_of_each_finding_and_the_worst_mistake_are_chosen(outputs):
    answers = banner.pd.read_csv(outputs / "predictions.csv")
    chosen = banner.choose_pictures(answers, 0.5)
    assert chosen["false alarm"] == 0 and set(chosen) >= {"NORMAL", "false alarm"}
    for name, row in chosen.items():
        if name != "false alarm":
            assert (answers.probability[row] >= 0.5) == answers.label[row]
