"""The data set is found, listed without losing a file, and identified."""

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
from cxr.split import find_duplicates, group_patients, split_by_patient


def test_without_a_network_phantoms_are_drawn_once_and_found_again(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "cxr.dataset.write_phantoms", lambda folder: write_phantoms(folder, 4, 2, 2)
    )
    folder = find_data(tmp_path, "")
    assert "No download" in capsys.readouterr().out
    assert count_images(folder)["train/PNEUMONIA"] == 3
    monkeypatch.setattr("cxr.dataset.write_phantoms", None)
    assert find_data(tmp_path, "") == folder


def test_downloaded_data_are_used(tmp_path, monkeypatch):
    requested = []
    monkeypatch.setattr("cxr.dataset.download_data", requested.append)
    assert find_data(tmp_path, "") == tmp_path / "data/chest_xray"
    assert requested == [tmp_path / "data/chest_xray"]


def test_existing_data_are_used_and_a_named_folder_comes_first(tiny, capsys):
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
def test_a_mounted_data_set_is_used_where_it_is(tiny, tmp_path, monkeypatch, place):
    """As Colab and Kaggle mount it, or as kagglehub has downloaded it."""
    monkeypatch.setattr(ChestXray, "mounts", (str(tmp_path / "mounted/chest_xray"),))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "../1/chest_xray").mkdir(parents=True)
    tiny.rename(tmp_path / place / "chest_xray")
    assert find_data(tmp_path / "home", "") == tmp_path / place / "chest_xray"
    assert not (tmp_path / "home").exists()


def test_hidden_files_do_not_count_and_others_are_never_dropped(tiny):
    before = len(list_images(tiny))
    (tiny / "train/NORMAL/.DS_Store").write_bytes(b"x")
    (tiny / "train/NORMAL/._IM-0001-0001.jpeg").write_bytes(b"x")
    (tiny / "train/NORMAL/notes.txt").write_bytes(b"x")
    files = list_images(tiny)
    assert len(files) == before + 1 and "train/NORMAL/notes.txt" in set(files.path)


def test_a_mounted_folder_that_cannot_be_read_is_skipped(
    tiny, tmp_path, monkeypatch, capsys
):
    """Errno 5, as Google Drive gives for a while, when a folder is searched."""

    def fail(folder):
        raise OSError(5, "Input/output error")

    requested = []
    monkeypatch.setattr(ChestXray, "mounts", (str(tiny),))
    monkeypatch.setattr("cxr.release.list_names", fail)
    monkeypatch.setattr("cxr.dataset.download_data", requested.append)
    assert find_data(tmp_path, "") == tmp_path / "data/chest_xray"
    assert len(requested) == 1
    assert capsys.readouterr().out == f"{tiny} cannot be read (Input/output error).\n"
    assert not is_official(tiny, ChestXray.kaggle)


def test_unused_entries_are_named(tiny, capsys):
    """A third class, a folder within a class, and files beside the classes."""
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
    lines = capsys.readouterr().out.splitlines()
    (message,) = (line for line in lines if "NOT used" in line)
    assert message.startswith(
        "NOT used: test/COVID, train/COVID, train/NORMAL/more, val/IM-0001-0001.jpeg. "
    )
    for number in range(9):
        (tiny / f"val/{number}").mkdir()
    list_images(tiny)
    assert "train/NORMAL/more, val/0, val/1 and 8 more. " in capsys.readouterr().out


def test_links_are_listed_broken_or_not(tiny):
    names = ["broken.jpeg", "loop.jpeg", "to-file.jpeg", "to-folder.jpeg"]
    file = next((tiny / "val/NORMAL").iterdir())
    for name, target in zip(names, ("gone", "loop.jpeg", file.resolve(), tiny / "val")):
        (tiny / "train/NORMAL" / name).symlink_to(target)
    os.mkfifo(tiny / "train/NORMAL/pipe.jpeg")  # opening it would wait forever
    files = list_images(tiny)
    is_new = files.path.str.split("/").str[-1].isin([*names, "pipe.jpeg"])
    assert files.path[is_new].tolist() == [f"train/NORMAL/{name}" for name in names]
    is_listed = files.path.str.startswith("train/NORMAL/")
    assert count_images(tiny)["train/NORMAL"] == is_listed.sum()
    unreadable = load_split(tiny, files[files.folder == "train"], 32, "train")[2]
    assert unreadable.path.tolist() == [
        f"train/NORMAL/{name}"
        for name in ("broken.jpeg", "loop.jpeg", "to-folder.jpeg")
    ]


@pytest.mark.parametrize("place", ["train/NORMAL", "test"])
def test_a_name_that_is_not_utf8_is_refused_by_name(tiny, place):
    """It would be impossible to write predictions.csv, after all training."""
    try:
        (tiny / place / os.fsdecode(b"caf\xe9.jpeg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (tiny / "train/NORMAL/café \u3042\u00a0.jpeg").write_bytes(b"x")
    message = r"1 file names in .* not UTF-8, the first is b'.*/caf\\xe9.jpeg': rename"
    with pytest.raises(ValueError, match=message) as caught:
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


def test_a_missing_val_folder_is_reported_and_accepted(tiny, capsys):
    shutil.rmtree(tiny / "val")
    assert set(list_images(tiny).folder) == {"train", "test"}
    assert "no val folder" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "VALID", "Validation"])
def test_a_val_folder_under_another_name_is_used(tiny, capsys, name):
    before = list_images(tiny)
    (tiny / "val").rename(tiny / "aside")
    (tiny / "aside").rename(tiny / name)
    files = list_images(tiny)
    printed = capsys.readouterr().out
    assert "no val folder" not in printed and "NOT used" not in printed
    assert ("is used as val" in printed) == (name.lower() != "val")
    assert len(files) == 36
    assert files.drop(columns="path").equals(before.drop(columns="path"))
    expected = [path.replace("val/", f"{name}/") for path in before.path]
    assert files.path.tolist() == expected
    x, *_ = load_split(tiny, files[files.folder == "val"], 32, "val")
    assert len(x) == (before.folder == "val").sum() == 4


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


def test_folders_and_images_beside_the_splits_are_named(tiny, capsys):
    """Texts, tables, hidden files and Kaggle's second copy of all images are not."""
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
    message = "NOT used: IM-0001-0001.JPEG, chest_xray, holdout, valid. "
    assert capsys.readouterr().out.startswith(message)


def test_a_class_folder_that_holds_only_subfolders_is_not_called_empty(tiny):
    shutil.move(tiny / "test/NORMAL", tiny / "aside")
    for name in ("b", "a", "c", "d"):
        (tiny / "test/NORMAL" / name).mkdir(parents=True)
    shutil.move(tiny / "aside", tiny / "test/NORMAL/a/images")
    message = r"test/NORMAL holds subfolders \(a, b, c and 1 more\) but no files: move"
    with pytest.raises(ValueError, match=message):
        list_images(tiny)


def rename_all(folder, name):
    """Rename each image to `name(number, class)`."""
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
    """Such as 1.png in train, val and test."""
    for folder in sorted(tiny.glob("*/*")):
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(path.with_name(f"{number}.jpeg"))
    assert list_images(tiny).patient.is_unique


def test_a_few_unknown_names_do_not_change_the_patients_of_the_rest(tiny):
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


def test_one_training_image_per_class_is_refused(tiny):
    files = list_images(tiny)
    files = files.groupby(["folder", "label"]).head(1)
    with pytest.raises(ValueError, match="1 NORMAL image"):
        check_patients(files[files.folder != "val"])


def test_two_patients_per_class_and_one_test_image_per_class_are_split(tiny):
    """The smallest set that is accepted has both classes in each part."""
    shutil.rmtree(tiny / "val")
    for name in ("NORMAL", "PNEUMONIA"):
        patients = set()
        for path in sorted((tiny / "train" / name).iterdir()):
            patient = parse_name(path.name, int(name == "PNEUMONIA"))[0]
            if patient in patients or len(patients) >= 2:
                path.unlink()
            patients.add(patient)
        for path in sorted((tiny / "test" / name).iterdir())[1:]:
            path.unlink()
    files = list_images(tiny)
    x, files, _ = load_split(tiny, files, 32, "Loading")
    is_test = files.folder == "test"
    assert sorted(files.label[is_test]) == [0, 1]
    train = files[~is_test]
    hashes, _ = find_duplicates(x[~is_test], train)
    split = split_by_patient(train, group_patients(train.patient, hashes), 0.15, 0)
    assert sorted(zip(split, train.label)) == [
        ("train", 0),
        ("train", 1),
        ("val", 0),
        ("val", 1),
    ]


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
    """5,856 such names; a child with both infections is one patient."""
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
    assert parsed.patient.nunique() == 1390
    patients = parsed.groupby("finding").patient.nunique().to_dict()
    assert patients == {"normal": 792, "bacterial": 1390, "viral": 747}


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


def test_a_folder_one_too_high_is_recognized(tiny):
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
    assert first == "2 of 36 files could not be read:"
    assert len(lines) == 2
    assert lines[0] == f"- {chosen[0]}: the file is empty"
    assert lines[1].startswith(f"- {chosen[1]}: ") and "No such file" in lines[1]
    assert check_unreadable(files, [loaded[1]]).empty
    assert capsys.readouterr().out == "0 of 36 files could not be read.\n"


def test_a_class_of_test_without_a_readable_file_stops_the_run(tiny):
    files = list_images(tiny)
    unreadable = files[files.path.str.startswith("test/NORMAL")][["path"]]
    unreadable = unreadable.assign(problem="the file is empty")
    assert len(unreadable) == 3
    names = ", ".join(unreadable.path)
    message = f"No file in test/NORMAL can be read: replace {names}"
    with pytest.raises(ValueError, match=message):
        check_unreadable(files, [unreadable])
    check_unreadable(files, [unreadable[1:]])


def test_unreadable_files_count_as_missing_patients(tiny):
    files = list_images(tiny)
    is_first_patient = files.patient == files.patient[0]
    files = files[(files.label == 1) | (files.folder == "test") | is_first_patient]
    is_lost = (files.label == 0) & (files.folder != "test")
    unreadable = files[is_lost][["path"]].assign(problem="the file is empty")
    with pytest.raises(ValueError, match=r"0 NORMAL image\(s\) of 0 patient\(s\)"):
        check_unreadable(files, [unreadable])


def test_too_many_unreadable_files_stop_the_run_with_the_first_name(tiny):
    paths = sorted((tiny / "train/PNEUMONIA").iterdir())
    for path in paths[:4]:
        path.write_bytes(b"junk")
    files = list_images(tiny)
    unreadable = load_split(tiny, files, 32, "test")[2]
    with pytest.raises(ValueError, match=f"4 of 36 files.*{paths[0].name}"):
        check_unreadable(files, [unreadable])
    many = pd.concat([files] * 40, ignore_index=True)
    many["path"] = [f"{number} {path}" for number, path in enumerate(many.path)]
    unreadable = pd.DataFrame({"path": many.path[:15], "problem": "the file is empty"})
    with pytest.raises(ValueError, match="15 of 1440"):
        check_unreadable(many, [unreadable])
    check_unreadable(many, [unreadable[:7], unreadable[7:14]])  # 1% of them is 14.4


def test_a_class_with_one_patient_is_refused_however_many_images_it_has(tiny):
    for path in (*(tiny / "train/NORMAL").iterdir(), *(tiny / "val/NORMAL").iterdir()):
        path.rename(path.with_name(f"IM-0007-{path.stem}.jpeg"))
    message = r"8 NORMAL image\(s\) of 1 patient\(s\): .*Add images to train/NORMAL"
    with pytest.raises(ValueError, match=message):
        list_images(tiny)


def test_only_the_whole_set_is_official(tiny, monkeypatch):
    assert not is_official(tiny, ChestXray.kaggle)
    monkeypatch.setattr(ChestXray, "counts", count_images(tiny))
    assert is_official(str(tiny), ChestXray.kaggle)
    assert not is_official(tiny, "none")
    assert not is_official(tiny, ChestXray.mixed)
    (tiny / "test/NORMAL/Thumbs.db").write_bytes(b"not an image")
    assert is_official(tiny, ChestXray.kaggle)
    assert "test/NORMAL/Thumbs.db" in set(list_images(tiny).path)
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
def test_the_data_are_described(tmp_path, kind, official, words):
    files = pd.DataFrame({"path": ["a"] * 1234})
    text = describe_data(tmp_path, files, kind, ChestXray.kaggle, official)
    assert text.startswith(f"{tmp_path} holds 1,234 files") and words in text
    assert ("official split." in text) == official


def test_the_newest_version_that_kagglehub_has_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    versions = tmp_path / "datasets" / ChestXray.slug / "versions"
    for version in ("9", "10", "2"):
        (versions / version / "chest_xray").mkdir(parents=True)
    assert [path.parent.name for path in find_mounted()[-3:]] == ["10", "9", "2"]
    assert [str(path) for path in find_mounted()[:-3]] == list(ChestXray.mounts)
