"""The Colab badges lead to one place, and CONTRIBUTING.md can lead them elsewhere."""

import re
import shutil
import subprocess

import yaml
from conftest import ROOT

TEXTS = ("README.md", "README.fr.md", "notebooks/chest_xray_pneumonia.py")
NOTEBOOK = "notebooks/chest_xray_pneumonia.ipynb"
BADGE = r"\[!\[Open In Colab\]\([^)]*/colab-badge\.svg\)\]\(([^)]*)\)(.*)"


def read_badge(path):
    """Return the address that the one badge of a file leads to, and what follows it."""
    (found,) = re.findall(BADGE, path.read_text(encoding="utf-8"))
    return found


def test_all_badges_of_the_repository_lead_to_one_address():
    addresses = {read_badge(ROOT / name)[0] for name in (*TEXTS, NOTEBOOK)}
    assert len(addresses) == 1


def test_two_lines_of_the_documentation_lead_the_badges_to_another_repository(tmp_path):
    for name in (*TEXTS, "CITATION.cff"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    advice = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```\n(perl .*?)^```", advice, re.MULTILINE | re.DOTALL)
    for owner in ("somebody", "ada"):
        script = lines.replace("OWNER/NAME", f"{owner}/lungs.2")
        subprocess.run(["sh", "-ec", script.splitlines()[0]], cwd=tmp_path, check=True)
    subprocess.run(["sh", "-ec", script.splitlines()[1]], cwd=tmp_path, check=True)
    address = (
        f"https://colab.research.google.com/github/ada/lungs.2/blob/main/{NOTEBOOK}"
    )
    for name in TEXTS:
        assert read_badge(tmp_path / name) == (address, "")
        changed = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        original = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert sum(new != old for new, old in zip(changed, original, strict=True)) == 1
    citation = yaml.safe_load((tmp_path / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == "https://github.com/ada/lungs.2"


def test_the_citation_names_the_project_the_data_and_their_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert citation["message"] and citation["title"]
    assert all("name" in author for author in citation["authors"])
    references = citation["references"]
    dois = [reference["doi"] for reference in references]
    assert dois == ["10.17632/rscbjbr9sj", "10.1016/j.cell.2018.02.010"]
    for reference in references:
        assert reference["type"] and reference["title"] and reference["authors"]
