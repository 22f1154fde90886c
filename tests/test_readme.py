"""What is read first: figures are those that were printed or reported, commands and links work, and the French README says the same."""

import re
import statistics
from collections import Counter
from itertools import zip_longest

import pytest
import run
from conftest import ROOT

NAMES, RESULTS = ("README.md", "README.fr.md"), "docs/results.md"
QUOTE = re.compile(r"<!-- from (benchmarks/[\w.-]+\.md) -->\n(.*?)<!-- end -->", re.DOTALL)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def find_unfaithful(text, root):
    """Return what is wrong with the quotes "from benchmarks/NAME.md … end" of a text, in words.

    A quote consists of whole paragraphs (or tables) of its file. An empty one keeps a place for a file that does not exist yet.
    """
    wrong = []
    if len(QUOTE.findall(text)) != text.count("<!-- from "):
        wrong.append("a quote has no end")
    for name, quote in QUOTE.findall(text):
        quoted = quote.strip().split("\n\n") if quote.strip() else []
        printed = (root / name).read_text(encoding="utf-8").strip().split("\n\n") if (root / name).exists() else []
        if printed and not quoted:
            wrong.append(f"{name} exists now: quote it, or remove its place")
        wrong += [f"{name} does not have: {paragraph}" for paragraph in quoted if paragraph not in printed]
    return wrong


def test_the_results_quote_the_benchmarks_word_by_word():
    assert len(QUOTE.findall(read(RESULTS))) > 5
    assert [wrong for name in (*NAMES, RESULTS) for wrong in find_unfaithful(read(name), ROOT)] == []


@pytest.mark.parametrize(("quote", "wrong"), [
    ("<!-- from benchmarks/a.md -->\nIt is 0.91.\n\n| a |\n|---|\n| 2 |\n<!-- end -->", ""),
    ("<!-- from benchmarks/later.md -->\n<!-- end -->", ""),
    ("<!-- from benchmarks/a.md -->\nIt is 0.92.\n<!-- end -->", "does not have: It is 0.92."),
    ("<!-- from benchmarks/a.md -->\n| 2 |\n<!-- end -->", "does not have: | 2 |"),
    ("<!-- from benchmarks/a.md -->\n<!-- end -->", "exists now"),
    ("<!-- from benchmarks/later.md -->\nIt is 0.91.\n<!-- end -->", "does not have"),
    ("<!-- from benchmarks/a.md -->\nIt is 0.91.\n", "no end")])
def test_a_quote_that_nobody_printed_is_found(tmp_path, quote, wrong):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/a.md").write_text("It is 0.91.\n\n| a |\n|---|\n| 2 |\n", encoding="utf-8")
    found = find_unfaithful(quote, tmp_path)
    assert wrong in " ".join(found) if wrong else not found


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.md")), ids=lambda path: path.name)
def test_the_results_lead_to_every_benchmark(path):
    assert f"](../benchmarks/{path.name})" in read(RESULTS)


def read_rows(text):
    """Return {first cell: its other cells} of the rows of all tables."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n") if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_our_row_sums_up_the_seeds_which_fit_the_folder():
    results, readme = read_rows(read(RESULTS)), read_rows(read("README.md"))
    seeds = [[float(cell) for cell in results[seed]] for seed in ("0", "1", "2")]
    for accuracy, sensitivity, specificity, _ in seeds:
        found, passed = round(390 * sensitivity / 100), round(234 * specificity / 100)  # whole films
        assert [round(100 * found / 390, 2), round(100 * passed / 234, 2)] == [sensitivity, specificity]
        assert round(100 * (found + passed) / 624, 2) == pytest.approx(accuracy, abs=0.011)
    (ours,) = [cells for name, cells in readme.items() if name.startswith("**this notebook**")]
    for cell, scores, digits in zip(ours[2:], zip(*seeds), (1, 1, 1, 3)):
        mean, low, high = (f"{one:.{digits}f}" for one in (statistics.mean(scores), min(scores), max(scores)))
        assert cell == f"**{mean}** ({low}–{high})"
    for films, begin in (("557", "its 3 networks"), ("67", "the same, on the 67")):
        (told,) = [cells[2:] for name, cells in readme.items() if name.startswith(begin)]
        (known,) = [cells for name, cells in results.items() if name.startswith(f"the {films} ")]
        assert told == [known[0], "–", *known[1:]]


def test_the_readme_takes_a_minute():
    lines = read("README.md").split("\n")
    first = "\n".join(lines[:12])
    assert "](docs/tutorial.ipynb)" in first and "Open In Colab" in first
    tables = [len(re.findall(r"^\|---", read(name), re.M)) for name in NAMES]
    assert tables == [3, 3]  # results, features, what is where
    told = " ".join(read("README.md").split())
    assert "measured by the maintainers, once" in told and "have been looked at once" in told


def find_anchors(text):
    """Return the places that links can lead to, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*NAMES, "CONTRIBUTING.md", "docs/README.md", RESULTS])
def test_every_link_within_the_repository_leads_somewhere(name):
    shown, here = re.sub(r"<!--.*?-->", "", read(name), flags=re.DOTALL), ROOT / name
    links = [link for link in re.findall(r"\]\(([^)]+)\)", shown) if not link.startswith("https://")]
    folders = r"(notebooks|cxr|tools|data|tests|benchmarks|docs|\.ci)/"
    paths = [word for word in re.findall(r"`([\w./-]+)`", shown) if re.match(folders, word)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for link in links:
        path, _, place = link.partition("#")
        target = here.parent / path if path else here
        assert target.exists(), link
        assert not place or place in find_anchors(target.read_text(encoding="utf-8")), link
    assert len(links) > 5 or name == "CONTRIBUTING.md"


@pytest.mark.parametrize("name", NAMES)
def test_its_make_commands_exist_and_their_settings_too(name):
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    commands = re.findall(r"\bmake ([a-z-]+)((?: [A-Z_]+=\S+)*)$", "\n".join(find_code(read(name))), re.MULTILINE)
    assert {"run", "test", "badge"} <= {target for target, _ in commands}
    for target, settings in commands:
        assert target in targets
        if target == "run":
            run.parse_settings(settings.split())


def find_code(text):
    """Return the code blocks of a Markdown text and what it has between backticks."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.findall(r"^```\n(.*?)\n```", text, re.MULTILINE | re.DOTALL) + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def find_numbers(text, french=False):
    """Return the numbers of a Markdown text as written in English, without those in code, addresses and comments."""
    text = re.sub(r"<!--.*?-->|^```.*?^```|`[^`\n]+`|\]\([^)]*\)", " ", text, flags=re.MULTILINE | re.DOTALL)
    if french:
        text = re.sub(r"(?<=\d)[\u00a0\u202f](?=\d{3}\b)", "", text)
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    else:
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return re.findall(r"\d+(?:\.\d+)*", text)


def test_numbers_are_read_in_both_languages():
    english = find_numbers("5,856 of 0.95, 95 %, 3.10–3.13, 10, 20 and 1,235,512 `9` [x](8.html) <!-- 7 -->\n```\n6\n```\n")
    french = find_numbers("5\u202f856 sur 0,95, 95\u202f%, 3.10–3.13, 10, 20 et 1\u202f235\u00a0512", french=True)
    assert english == french == ["5856", "0.95", "95", "3.10", "3.13", "10", "20", "1235512"]


def test_the_french_readme_has_the_same_figures_and_commands():
    english, french = (read(name) for name in NAMES)
    pairs = zip_longest(find_numbers(english), find_numbers(french, french=True))
    seen = []
    for pair in pairs:
        seen.append(pair)
        assert pair[0] == pair[1], f"README.md and README.fr.md part after {seen[-6:]}"
    assert len(seen) > 50
    assert Counter(find_code(english)) == Counter(find_code(french))
    assert QUOTE.sub(r"\1", english).count("benchmarks/") == QUOTE.sub(r"\1", french).count("benchmarks/")


def test_each_readme_leads_to_the_other_at_its_top():
    assert "](README.fr.md)" in read("README.md")[:200] and "](README.md)" in read("README.fr.md")[:200]
