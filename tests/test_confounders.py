"""What a film tells besides its lungs."""

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold

from cxr.confounders import (
    crossfit_ridge,
    describe_aspect_ratios,
    describe_shortcuts,
    detect_markers,
    mean_images_by_class,
    shortcut_aucs,
    shortcut_features,
)
from cxr.images import load_split


def draw_film(spot=None, value=220):
    """An even, dark film of 96 × 96 pixels, with a bright spot of 5 × 5 at (row, column)."""
    film = np.full((96, 96, 1), 30, np.uint8)
    if spot:
        film[spot[0] : spot[0] + 5, spot[1] : spot[1] + 5] = value
    return film


def test_a_letter_at_a_side_is_found_and_nothing_else_is():
    marks = detect_markers(draw_film((40, 4)))
    assert marks[40:45, 4:9].all() and marks.sum() == 25
    assert detect_markers(draw_film((8, 85)))[8:13, 85:90].all()
    assert (
        not detect_markers(draw_film()).any()
        and not detect_markers(draw_film((40, 45))).any()
    )  # none; in the middle, no letter
    rib = cv2.line(draw_film()[:, :, 0].copy(), (2, 90), (18, 10), 220, 3)[:, :, None]
    assert not detect_markers(rib).any()
    edge = draw_film((40, 4))
    edge[:, 10:] = (
        160  # on the line between dark and bright, as where a rib meets the lung
    )
    assert not detect_markers(edge).any()


def write_films(folder, films):
    """Save films as PNG files; return the table of them that the loader would."""
    rows = []
    for number, film in enumerate(films):
        Image.fromarray(film[:, :, 0]).save(folder / f"{number}.png")
        rows.append(
            {
                "path": f"{number}.png",
                "width": film.shape[1],
                "height": film.shape[0],
                "label": number % 2,
                "bytes": (folder / f"{number}.png").stat().st_size,
                "color": False,
            }
        )
    return pd.DataFrame(rows)


def test_clues_do_not_see_where_anything_is_in_the_middle(tmp_path):
    """Turning the middle upside down changes no clue but the size of the file."""
    film = np.random.default_rng(0).integers(60, 120, (96, 96, 1)).astype(np.uint8)
    film = np.repeat(np.repeat(film[::8, ::8], 8, 0), 8, 1)
    turned = film.copy()
    turned[24:72, 24:72] = film[71:23:-1, 71:23:-1]
    clues = shortcut_features([film, turned], write_films(tmp_path, [film, turned]))
    assert "all of these" in clues and len(clues) == 7
    for name, values in clues.items():
        assert values.shape[0] == 2 and values.dtype == np.float32
        if name not in ("all of these", "size and color mode of the file"):
            assert np.array_equal(values[0], values[1]), name


@pytest.mark.parametrize(
    ("clue", "change"),
    [
        ("the outer frame", lambda film: film.__setitem__(np.s_[20:76, :6], 120)),
        ("the four corners", lambda film: film.__setitem__(np.s_[-5:, -5:], 120)),
        (
            "letters: small bright spots at the sides",
            lambda film: film.__setitem__(np.s_[30:35, 3:8], 200),
        ),
    ],
)
def test_what_only_one_class_has_in_one_place_is_found_there(tmp_path, clue, change):
    films = [
        np.random.default_rng(number).integers(38, 43, (96, 96, 1)).astype(np.uint8)
        for number in range(40)
    ]
    for film in films[1::2]:
        change(film)
    files = write_films(tmp_path, films)
    answers = crossfit_ridge(
        shortcut_features(films, files)[clue], files.label.to_numpy(), np.arange(40)
    )
    assert metrics.roc_auc_score(files.label, answers) == 1


def test_a_file_in_colors_tells_itself_apart(tmp_path):
    film = draw_film()
    write_films(tmp_path, [film] * 2)
    Image.fromarray(film[:, :, 0]).convert("RGB").save(tmp_path / "1.png")
    x, files, _ = load_split(
        tmp_path, pd.DataFrame({"path": ["0.png", "1.png"]}), 96, "Loading"
    )
    values = shortcut_features(list(x), files)["size and color mode of the file"]
    assert values[:, 2].tolist() == [0, 1]
    assert values[0, 0] == pytest.approx(
        np.log((tmp_path / "0.png").stat().st_size), rel=1e-5
    )
    assert values[0, 0] - values[0, 1] == pytest.approx(np.log(96 * 96), rel=1e-5)


def test_no_patient_is_answered_for_by_a_classifier_that_learned_from_him():
    """Values that only say who it is tell nothing of others; learned from all, they would tell everything."""
    groups = np.repeat(np.arange(40), 3)
    labels = (np.random.default_rng(0).permutation(40) % 2)[groups]
    values = np.eye(40, dtype=np.float32)[groups]
    assert metrics.roc_auc_score(labels, crossfit_ridge(values, labels, groups)) < 0.6
    assert (
        metrics.roc_auc_score(labels, crossfit_ridge(values, labels, np.arange(120)))
        > 0.95
    )


def test_each_patient_is_answered_for_by_the_classifier_of_the_other_parts():
    """As a loop over the same parts does it."""
    generator = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 4)
    labels = (generator.permutation(30) % 2)[groups]
    values = generator.normal(size=(120, 5)).astype(np.float32) + labels[:, None]
    expected = np.zeros(120)
    for fit, rest in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(
        values, labels, groups
    ):
        mean, scale = values[fit].mean(axis=0), values[fit].std(axis=0)
        ridge = Ridge(alpha=300).fit((values[fit] - mean) / scale, labels[fit])
        expected[rest] = ridge.predict((values[rest] - mean) / scale)
    np.testing.assert_allclose(
        crossfit_ridge(values, labels, groups), expected, rtol=1e-5
    )


def test_very_few_patients_are_enough():
    answers = crossfit_ridge(
        np.arange(8.0)[:, None],
        np.array([0] * 4 + [1] * 4),
        np.array([0, 0, 1, 1, 2, 2, 3, 3]),
    )
    assert np.isfinite(answers).all()


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_of_one_group_is_told_in_a_sentence(label):
    """As where one picture lies under all names of a class."""
    groups, labels = np.array([0, 0, 0, 1, 2, 3]), np.array([0] * 3 + [1] * 3) ^ label
    with pytest.raises(
        ValueError,
        match=f"The 3 {('NORMAL', 'PNEUMONIA')[label]} images of train and val belong to 1 group of patients",
    ):
        crossfit_ridge(np.arange(6.0)[:, None], labels, groups)


def test_the_sentence_fits_what_came_out():
    labels, patients = np.arange(200) % 2, np.arange(200)
    chance, sure = np.zeros(200), labels + np.random.default_rng(0).normal(0, 0.3, 200)
    scores = shortcut_aucs(
        {"all of these": sure, "letters: small bright spots at the sides": chance},
        labels,
        patients,
        200,
        0,
    )
    assert scores["letters: small bright spots at the sides"] == {
        "value": 0.5,
        "low": 0.5,
        "high": 0.5,
    }
    known = metrics.roc_auc_score(labels, sure)
    one = scores["all of these"]
    assert one["value"] == pytest.approx(known) and one["low"] < known < one["high"]
    text = describe_shortcuts(scores, "films")
    assert (
        f"knows the diagnosis: AUC {known:.3f}" in text.split("\n")[0]
        and "does not surely know" in text.split("\n")[1]
    )


def test_the_mean_films_and_the_place_of_the_letters():
    x = np.stack(
        [draw_film((40, 4)), draw_film((40, 4)), draw_film((2, 2)), draw_film()]
    )
    pictures, captions = mean_images_by_class(x, np.array([0, 0, 1, 1]))
    assert (
        captions[0] == "NORMAL: mean"
        and captions[7] == "PNEUMONIA: where letters stand"
    )
    assert pictures[0][42, 6] == pytest.approx(220 / 255) and pictures[4][
        4, 4
    ] == pytest.approx((220 + 30) / 2 / 255)
    assert pictures[1].shape == (32, 32) and pictures[2].shape == (32, 32)
    assert pictures[3][42, 6] == 1 and pictures[3][4, 4] == 0 and pictures[7][4, 4] == 1


def test_shapes_in_words():
    files = pd.DataFrame(
        {"width": [150, 130, 100, 120], "height": 100, "label": [0, 0, 1, 1]}
    )
    assert "1.40 for NORMAL and 1.10 for PNEUMONIA" in describe_aspect_ratios(
        files, "films"
    )
    assert (
        describe_aspect_ratios(files.assign(width=100), "films")
        == "All films are 100 × 100 pixels: their original shapes are lost"
    )
