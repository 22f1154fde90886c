"""The data set at hand is found, listed without losing a file, and named for what it is."""

import os
import shutil

import pandas as pd
import pytest
from PIL import Image

from cxr.dataset import (
    check_patients,
    check_unreadable,
    describe_data,
    find_data,
    find_mounted,
    identify_dataset,
    is_official,
    list_images,
    parse_name,
)
from cxr.images import load_split
from cxr.phantoms import write_phantoms
from cxr.release import ChestXray, count_images


def test_without_a_network_phantoms_are_drawn_once_and_found_again(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "cxr.dataset.write_phantoms", lambda folder: write_phantoms(folder, 4, 2, 2)
    )
    folder = find_data(tmp_path, "")
    assert (
        "No download" in capsys.readouterr().out
        and count_images(folder)["train/PNEUMONIA"] == 3
    )
    monkeypatch.setattr("cxr.dataset.write_phantoms", None)
    assert find_data(tmp_path, "") == folder


def test_what_is_downloaded_is_used(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("cxr.dataset.download_data", asked.append)
    assert find_data(tmp_path, "") == tmp_path / "data/chest_xray" and asked == [
        tmp_path / "data/chest_xray"
    ]


def test_data_that_are_there_are_used_and_a_named_folder_wins(tiny, capsys):
    home = tiny.parent
    (home / "data").mkdir()
    tiny.rename(home / "data/chest_xray")
    assert find_data(home, "") == home / "data/chest_xray"
    assert "nothing to download" in capsys.readouterr().out
    assert find_data(home, "elsewhere") == home / "elsewhere"


@pytest.mark.parametrize(
    "place",
    ["mounted", "hub/datasets/paultimothymooney/chest-xray-pneumonia/versions/2"],
)
def test_a_mounted_data_set_is_used_where_it_lies(tiny, tmp_path, monkeypatch, place):
    """What Colab and Kaggle mount, and what kagglehub has downloaded (its newest version)."""
    monkeypatch.setattr(ChestXray, "mounts", (str(tmp_path / "mounted/chest_xray"),))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "../1/chest_xray").mkdir(parents=True)
    tiny.rename(tmp_path / place / "chest_xray")
    assert find_data(tmp_path / "home", "") == tmp_path / place / "chest_xray"
    assert not (tmp_path / "home").exists()


def test_files_that_are_hidden_do_not_count_and_others_are_never_dropped(tiny):
    before = len(list_images(tiny))
    (tiny / "train/NORMAL/.DS_Store").write_bytes(b"x")
    (tiny / "train/NORMAL/._IM-0001-0001.jpeg").write_bytes(b"x")
    (tiny / "train/NORMAL/notes.txt").write_bytes(b"x")
    files = list_images(tiny)
    assert len(files) == before + 1 and "train/NORMAL/notes.txt" in set(files.path)


def test_a_mounted_folder_that_cannot_be_read_does_not_keep_the_data_away(
    tiny, tmp_path, monkeypatch, capsys
):
    """Errno 5, as Google Drive gives for a while: of a folder that is only looked at, and of the one to download into."""

    def fail(folder):
        raise OSError(5, "Input/output error")

    asked = []
    monkeypatch.setattr(ChestXray, "mounts", (str(tiny),))
    monkeypatch.setattr("cxr.release.list_names", fail)
    monkeypatch.setattr("cxr.dataset.download_data", asked.append)
    assert find_data(tmp_path, "") == tmp_path / "data/chest_xray" and len(asked) == 1
    assert capsys.readouterr().out == f"{tiny} cannot be read (Input/output error).\n"
    assert not is_official(tiny, ChestXray.kaggle)


def test_what_is_not_used_is_named(tiny, capsys):
    """A third class, a folder within a class, files beside the classes: nothing is left out without a word."""
    before = list_images(tiny)
    assert "NOT used" not in capsys.readouterr().out
    for name in (
        "train/COVID",
        "test/COVID",
        "train/NORMAL/more",
        "train/.hidden",
        "train/NORMAL/.ipynb_checkpoints",
    ):
        (tiny / name).mkdir()
        (tiny / name / "a.jpeg").write_bytes(b"x")
    (tiny / "val/IM-0001-0001.jpeg").write_bytes(b"x")
    assert list_images(tiny).equals(before)
    (told,) = (
        line for line in capsys.readouterr().out.splitlines() if "NOT used" in line
    )
    assert told.startswith(
        "NOT used: test/COVID, train/COVID, train/NORMAL/more, val/IM-0001-0001.jpeg. "
    )
    for number in range(9):
        (tiny / f"val/{number}").mkdir()
    list_images(tiny)
    assert "train/NORMAL/more, val/0, val/1 and 8 more. " in capsys.readouterr().out


def test_links_are_listed_broken_or_not(tiny):
    names, file = (
        ["broken.jpeg", "loop.jpeg", "to-file.jpeg", "to-folder.jpeg"],
        next((tiny / "val/NORMAL").iterdir()),
    )
    for name, target in zip(names, ("gone", "loop.jpeg", file.resolve(), tiny / "val")):
        (tiny / "train/NORMAL" / name).symlink_to(target)
    os.mkfifo(tiny / "train/NORMAL/pipe.jpeg")  # to open it would wait for ever
    files = list_images(tiny)
    assert files.path[
        files.path.str.split("/").str[-1].isin([*names, "pipe.jpeg"])
    ].tolist() == [f"train/NORMAL/{name}" for name in names]
    assert (
        count_images(tiny)["train/NORMAL"]
        == (files.path.str.startswith("train/NORMAL/")).sum()
    )
    broken = load_split(tiny, files[files.folder == "train"], 32, "train")[2]
    assert broken.path.tolist() == [
        f"train/NORMAL/{name}"
        for name in ("broken.jpeg", "loop.jpeg", "to-folder.jpeg")
    ]


@pytest.mark.parametrize("place", ["train/NORMAL", "test"])
def test_a_name_that_is_not_utf8_is_refused_by_name(tiny, place):
    """It could not be written into predictions.csv and metrics.json, after all training."""
    try:
        (tiny / place / os.fsdecode(b"caf\xe9.jpeg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tiny / "train/NORMAL/café \u3042\u00a0.jpeg").write_bytes(b"x")
    with pytest.raises(
        ValueError,
        match=r"1 file names in .* not UTF-8, the first is b'.*/caf\\xe9.jpeg': rename",
    ) as caught:
        list_images(tiny)
    assert str(caught.value).encode()


def test_a_folder_that_is_missing_or_empty_is_named(tiny):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list_images(tiny / "nowhere")
    for path in (tiny / "test/NORMAL").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"test/NORMAL is empty"):
        list_images(tiny)
    (tiny / "test/NORMAL").rmdir()
    with pytest.raises(FileNotFoundError, match=r"lacks the folder .*test/NORMAL"):
        list_images(tiny)


def test_a_missing_val_folder_is_told_and_accepted(tiny, capsys):
    shutil.rmtree(tiny / "val")
    assert set(list_images(tiny).split) == {"train", "test"}
    assert "no val folder" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "VALID", "Validation"])
def test_a_val_folder_under_another_name_is_used(tiny, capsys, name):
    before = list_images(tiny)
    (tiny / "val").rename(tiny / "aside")
    (tiny / "aside").rename(tiny / name)
    files = list_images(tiny)
    told = capsys.readouterr().out
    assert "no val folder" not in told and "NOT used" not in told
    assert ("is used as val" in told) == (name.lower() != "val")
    assert (
        files.drop(columns="path").equals(before.drop(columns="path"))
        and len(files) == 36
    )
    assert files.path.tolist() == [
        path.replace("val/", f"{name}/") for path in before.path
    ]
    assert (
        len(load_split(tiny, files[files.folder == "val"], 32, "val")[0])
        == (before.folder == "val").sum()
        == 4
    )


def test_folders_in_another_letter_case_are_used(tiny):
    before = list_images(tiny)
    for path in (*tiny.glob("*/*"), *tiny.iterdir()):
        path.rename(path.with_name("aside"))
        path.with_name("aside").rename(path.with_name(path.name.title()))
    files = list_images(tiny)
    assert files.drop(columns="path").equals(before.drop(columns="path"))
    assert set(files.path.str.rsplit("/", n=1).str[0]) == {
        f"{split}/{name}"
        for split in ("Train", "Val", "Test")
        for name in ("Normal", "Pneumonia")
    }


def test_what_lies_beside_the_splits_is_named(tiny, capsys):
    """A folder or an image is; a text, a table, what is hidden or of macOS, and Kaggle's copy of all images in itself are not."""
    shutil.copytree(tiny, tiny / "chest_xray")
    for name in ("__MACOSX", ".git"):
        (tiny / name).mkdir()
    for name in ("README.txt", "data.yaml", ".DS_Store"):
        (tiny / name).write_text("x")
    before = list_images(tiny)
    assert "NOT used" not in capsys.readouterr().out
    for name in ("valid/NORMAL", "holdout/NORMAL"):
        (tiny / name).mkdir(parents=True)
    (tiny / "IM-0001-0001.JPEG").write_bytes(b"x")
    next((tiny / "chest_xray/train/NORMAL").iterdir()).unlink()
    assert list_images(tiny).equals(before), "val itself is preferred to valid"
    told = capsys.readouterr().out
    assert told.startswith("NOT used: IM-0001-0001.JPEG, chest_xray, holdout, valid. ")
    assert "of train, val and test are: move there" in told


def test_a_class_folder_that_holds_only_subfolders_is_not_called_empty(tiny):
    shutil.move(tiny / "test/NORMAL", tiny / "aside")
    for name in ("b", "a", "c", "d"):
        (tiny / "test/NORMAL" / name).mkdir(parents=True)
    shutil.move(tiny / "aside", tiny / "test/NORMAL/a/images")
    with pytest.raises(
        ValueError,
        match=r"test/NORMAL holds subfolders \(a, b, c and 1 more\) but no files: move the images",
    ):
        list_images(tiny)


def rename_all(folder, name):
    """Give each image the name that `name(number, class)` says."""
    for number, path in enumerate(sorted(folder.rglob("*.jpeg"))):
        path.rename(path.with_name(name(number, path.parent.name)))


@pytest.mark.parametrize(
    "name",
    [
        lambda number, label: f"IM-0001-{number:04}-0001.jpeg",
        lambda number, label: f"IM-0001-{number:04}-0001.dcm",
        lambda number, label: f"IM-0001-{number:04}.jpeg",
        lambda number, label: f"IM-0001-0009-0001 ({number}).jpeg",
        lambda number, label: f"NORMAL-1-{number}.jpeg",
        lambda number, label: f"person1_bacteria_{number}.jpeg",  # in both classes
        lambda number, label: (
            f"IM-0001-{number}.jpeg" if label == "NORMAL" else f"scan {number}.jpeg"
        ),
    ],
)
def test_names_of_another_program_make_each_file_its_own_patient(tiny, name):
    rename_all(tiny, name)
    files = list_images(tiny)
    assert not files.known.any() and files.patient.is_unique and len(files) == 36
    assert files.finding.tolist() == [
        ("normal", "unknown")[label] for label in files.label
    ]
    for path in files.path:
        Image.new("L", (40, 40), 100).save(tiny / path, "JPEG")
    assert identify_dataset(tiny, files) == "other"


def test_the_same_name_in_two_folders_is_not_one_patient(tiny):
    """As 1.png in train, val and test is another image each time."""
    for folder in sorted(tiny.glob("*/*")):
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(path.with_name(f"{number}.jpeg"))
    assert list_images(tiny).patient.is_unique


def test_a_few_other_names_leave_the_patients_of_the_rest_as_they_are(tiny):
    before = list_images(tiny)
    (tiny / "train/PNEUMONIA/Thumbs.db").write_bytes(b"x")
    (tiny / "train/PNEUMONIA/scan.jpeg").write_bytes(b"x")
    for number in range(5):
        (tiny / f"train/NORMAL/notes{number}.txt").write_bytes(b"x")
    files = list_images(tiny)
    assert files.known.sum() == 36 and files[files.known].reset_index(drop=True).equals(
        before
    )
    assert (files.patient == files.path)[~files.known].all()


def test_one_image_a_class_is_too_little_and_said_so(tiny):
    files = list_images(tiny)
    one_each = files.groupby(["folder", "label"]).head(1)
    one_each = one_each[one_each.folder != "val"]
    with pytest.raises(ValueError, match="1 NORMAL image"):
        check_patients(one_each)


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("IM-0115-0001.jpeg", 0, ("IM-115", "normal", True)),
        ("NORMAL2-IM-0383-0001-0002.jpeg", 0, ("IM-383", "normal", True)),
        ("person1_bacteria_2.jpeg", 1, ("person1", "bacterial", True)),
        ("person1000_virus_1681.jpeg", 1, ("person1000", "viral", True)),
        ("scan7.png", 1, ("pneumonia scan7.png", "unknown", False)),
        ("NORMAL-1049278-0001.jpeg", 0, ("patient1049278", "normal", True)),
        ("BACTERIA-1008087-0001.jpeg", 1, ("patient1008087", "bacterial", True)),
        ("VIRUS-9564688-0002.jpeg", 1, ("patient9564688", "viral", True)),
        (
            "NORMAL-1049278-0001.jpeg",
            1,
            ("pneumonia NORMAL-1049278-0001.jpeg", "unknown", False),
        ),
        (
            "VIRUS-9564688-0002.jpeg",
            0,
            ("normal VIRUS-9564688-0002.jpeg", "normal", False),
        ),
    ],
)
def test_file_names_give_patient_and_finding(name, label, expected):
    assert parse_name(name, label) == expected


def test_the_names_of_the_third_version_give_patients_and_findings():
    """5,856 names as there: a patient's images are numbered, and a child with both infections is one patient."""
    names = [
        (f"{finding}-{1_000_000 + 7 * (number // 2)}-{number % 2 + 1:04}.jpeg", label)
        for finding, count, label in (
            ("NORMAL", 1583, 0),
            ("BACTERIA", 2780, 1),
            ("VIRUS", 1493, 1),
        )
        for number in range(count)
    ]
    parsed = pd.DataFrame(
        [parse_name(*name) for name in names], columns=["patient", "finding", "known"]
    )
    assert len(parsed) == 5856 and parsed.known.all()
    assert parsed.finding.value_counts().to_dict() == {
        "normal": 1583,
        "bacterial": 2780,
        "viral": 1493,
    }
    assert parsed.patient.nunique() == 1390 and parsed.groupby(
        "finding"
    ).patient.nunique().to_dict() == {"normal": 792, "bacterial": 1390, "viral": 747}


def test_the_kind_of_data_is_read_from_the_files(tiny):
    assert identify_dataset(tiny, list_images(tiny)) == "phantom"
    for path in tiny.rglob("*.jpeg"):
        Image.new("L", (40, 40), 100).save(path)
    assert identify_dataset(tiny, list_images(tiny)) == "chest-xray-pneumonia"
    for number, path in enumerate(sorted(tiny.rglob("*.jpeg"))):
        path.rename(path.with_name(f"scan{number}.jpeg"))
    assert identify_dataset(tiny, list_images(tiny)) == "other"


def test_a_file_that_cannot_be_opened_does_not_hide_the_kind(tiny):
    files = list_images(tiny)
    (tiny / files.path[0]).unlink()
    (tiny / files.path[1]).write_bytes(b"")
    assert identify_dataset(tiny, files) == "phantom"


def test_a_folder_one_too_high_is_told_apart(tiny):
    with pytest.raises(FileNotFoundError, match="one folder too high"):
        list_images(tiny.parent)


def test_unreadable_files_are_named_and_joined_to_one_table(tiny, capsys):
    files = list_images(tiny)
    chosen = [files.path[files.folder == split].iloc[4] for split in ("train", "test")]
    (tiny / chosen[0]).write_bytes(b"")
    (tiny / chosen[1]).unlink()
    loaded = [
        load_split(tiny, files[files.folder == split], 32, split)[2]
        for split in ("train", "val", "test")
    ]
    capsys.readouterr()
    table = check_unreadable(files, loaded)
    assert table.path.tolist() == chosen and table.index.tolist() == [0, 1]
    first, *lines = capsys.readouterr().out.splitlines()
    assert (
        first == "2 of 36 files could not be read:"
        and lines[0] == f"- {chosen[0]}: the file is empty"
    )
    assert (
        len(lines) == 2
        and lines[1].startswith(f"- {chosen[1]}: ")
        and "No such file" in lines[1]
    )
    assert check_unreadable(files, [loaded[1]]).empty
    assert capsys.readouterr().out == "0 of 36 files could not be read.\n"


def test_a_class_of_test_without_a_readable_file_stops_the_run(tiny):
    files = list_images(tiny)
    lost = files[files.path.str.startswith("test/NORMAL")][["path"]].assign(
        problem="the file is empty"
    )
    assert len(lost) == 3
    with pytest.raises(
        ValueError,
        match=f"No file in test/NORMAL can be read: replace {', '.join(lost.path)}",
    ):
        check_unreadable(files, [lost])
    check_unreadable(files, [lost[1:]])


def test_unreadable_files_count_as_missing_patients(tiny):
    files = list_images(tiny)
    own = files[
        (files.label == 1)
        | (files.folder == "test")
        | (files.patient == files.patient[0])
    ]
    lost = own[(own.label == 0) & (own.folder != "test")][["path"]].assign(
        problem="the file is empty"
    )
    with pytest.raises(ValueError, match=r"0 NORMAL image\(s\) of 0 patient\(s\)"):
        check_unreadable(own, [lost])


def test_too_many_unreadable_files_stop_the_run_with_the_first_name(tiny):
    paths = sorted((tiny / "train/PNEUMONIA").iterdir())
    for path in paths[:4]:
        path.write_bytes(b"junk")
    files = list_images(tiny)
    broken = load_split(tiny, files, 32, "test")[2]
    with pytest.raises(ValueError, match=f"4 of 36 files.*{paths[0].name}"):
        check_unreadable(files, [broken])
    many = pd.concat([files] * 40, ignore_index=True).assign(
        path=lambda table: [f"{n} {path}" for n, path in enumerate(table.path)]
    )
    lost = pd.DataFrame({"path": many.path[:15], "problem": "the file is empty"})
    with pytest.raises(ValueError, match="15 of 1440"):
        check_unreadable(many, [lost])
    check_unreadable(many, [lost[:7], lost[7:14]])  # 1 % of them is 14.4


def test_a_data_set_whose_classes_have_one_patient_is_refused_when_it_is_listed(tiny):
    """However many images it has."""
    for path in (*(tiny / "train/NORMAL").iterdir(), *(tiny / "val/NORMAL").iterdir()):
        path.rename(path.with_name(f"IM-0007-{path.stem}.jpeg"))
    with pytest.raises(
        ValueError,
        match=r"8 NORMAL image\(s\) of 1 patient\(s\): at least 2 .*Add images to train/NORMAL",
    ):
        list_images(tiny)


def test_only_the_whole_set_is_official(tiny, monkeypatch):
    assert not is_official(tiny, ChestXray.kaggle)
    monkeypatch.setattr(ChestXray, "counts", count_images(tiny))
    assert (
        is_official(str(tiny), ChestXray.kaggle)
        and not is_official(tiny, "none")
        and not is_official(tiny, ChestXray.mixed)
    )
    (tiny / "test/NORMAL/Thumbs.db").write_bytes(b"no image")
    assert is_official(tiny, ChestXray.kaggle)
    assert "test/NORMAL/Thumbs.db" in set(list_images(tiny).path), (
        "it is listed all the same"
    )
    next((tiny / "test/NORMAL").glob("*.jpeg")).unlink()
    assert not is_official(tiny, ChestXray.kaggle)


@pytest.mark.parametrize(
    ("kind", "official", "words"),
    [
        ("phantom", False, "PHANTOM radiographs"),
        ("other", False, "each file counts as a patient of its own"),
        ("chest-xray-pneumonia", True, "in the official split"),
        ("chest-xray-pneumonia", False, "cannot be compared with published ones"),
    ],
)
def test_the_data_are_told_in_words(tmp_path, kind, official, words):
    told = describe_data(
        tmp_path, pd.DataFrame({"path": ["a"] * 1234}), kind, ChestXray.kaggle, official
    )
    assert told.startswith(f"{tmp_path} holds 1,234 files") and words in told
    assert ("official split." in told) == official


def test_the_newest_version_that_kagglehub_has_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    for version in ("9", "10", "2"):
        (
            tmp_path / "datasets" / ChestXray.slug / "versions" / version / "chest_xray"
        ).mkdir(parents=True)
    assert [path.parent.name for path in find_mounted()[-3:]] == ["10", "9", "2"]
    assert [str(path) for path in find_mounted()[:-3]] == list(ChestXray.mounts)
