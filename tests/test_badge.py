"""The Colab badges all lead to one place, and setting it changes nothing else."""

import shutil

import badge
import build
import pytest
import yaml
from conftest import ROOT

ADDRESS = "https://colab.research.google.com/github/ada/lungs.2/blob/main/notebooks/chest_xray_pneumonia.ipynb"


@pytest.fixture
def copy(tmp_path):
    """Copies of all files that name the repository, before it has an address."""
    for name in (*badge.WORDS, badge.CITATION, "docs/first_screen.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    badge.write_address(tmp_path, None)
    return tmp_path


def read_all(folder):
    return {name: (folder / name).read_bytes() for name in (*badge.WORDS, badge.CITATION)}


def test_all_badges_of_the_repository_lead_to_one_address():
    addresses = {badge.read_address((ROOT / name).read_text(encoding="utf-8")) for name in (*badge.WORDS, badge.NOTEBOOK)}
    assert len(addresses) == 1, "run: make badge REPO=owner/name"
    citation = yaml.safe_load((ROOT / badge.CITATION).read_text(encoding="utf-8"))
    repository = citation.get("repository-code", "").removeprefix("https://github.com/")
    assert addresses == {f"{badge.COLAB}/github/{repository}/blob/main/{badge.NOTEBOOK}" if repository else f"{badge.COLAB}/"}


def test_setting_the_address_changes_one_line_of_each_file_and_can_be_undone(copy):
    before = read_all(copy)
    badge.write_address(copy, "other/first")
    assert set(badge.write_address(copy, "ada/lungs.2")) == set(before)
    for name, content in read_all(copy).items():
        old, new = before[name].split(b"\n"), content.split(b"\n")
        if name == badge.CITATION:
            assert content == before[name] + b"repository-code: https://github.com/ada/lungs.2\n"
            continue
        assert len(old) == len(new)
        (line,) = [line for line, other in zip(new, old) if line != other]
        assert line.decode().count(f"]({ADDRESS}) ") == 1
    assert badge.write_address(copy, "ada/lungs.2") == []
    badge.write_address(copy, None)
    assert read_all(copy) == before


@pytest.mark.parametrize(("repository", "address"), [("ada/lungs.2", ADDRESS), (None, "https://colab.research.google.com/")])
def test_the_notebook_that_is_built_leads_to_the_address_of_its_text(copy, repository, address):
    badge.write_address(copy, repository)
    build.main([], copy / badge.TEXT)
    assert badge.read_address((copy / badge.NOTEBOOK).read_text(encoding="utf-8")) == address
    cells = build.nbformat.read(copy / badge.NOTEBOOK, as_version=4).cells
    (place,) = [number for number, cell in enumerate(cells) if "Open In Colab" in cell.source]
    assert place == 0 and cells[0].cell_type == "markdown" and f"]({address}) " in cells[0].source


def test_a_lost_badge_is_reported_before_anything_is_written(copy):
    (copy / "README.fr.md").write_text("nothing", encoding="utf-8")
    before = read_all(copy)
    with pytest.raises(ValueError, match=r"README\.fr\.md: 0 badges"):
        badge.write_address(copy, "ada/lungs")
    assert read_all(copy) == before


@pytest.mark.parametrize("word", ["", "lungs", "https://github.com/ada/lungs", "ada/lungs.git", "ada/", "-ada/lungs", "ada-/lungs",
                                  "ada/lungs/tree", "ada/lu ngs", "ada/..", "ada/lungs\n", "a" * 40 + "/lungs"])
def test_what_is_no_repository_is_refused_with_advice(word):
    with pytest.raises(SystemExit, match="REPO must be owner/name"):
        badge.check_repository(word)


@pytest.mark.parametrize("word", ["ada/lungs", "a-d-a/Lungs_2.0", "a" * 39 + "/x"])
def test_a_repository_is_accepted(word):
    assert badge.check_repository(word) == word


def test_the_citation_names_the_project_the_data_and_their_paper():
    citation = yaml.safe_load((ROOT / badge.CITATION).read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT" and citation["message"] and citation["title"]
    assert all("name" in author for author in citation["authors"])
    assert [one["doi"] for one in citation["references"]] == ["10.17632/rscbjbr9sj", "10.1016/j.cell.2018.02.010"]
    for one in citation["references"]:
        assert one["type"] and one["title"] and one["authors"]
