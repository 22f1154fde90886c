"""The README: what it quotes was printed by a benchmark, its commands and links work, and the French one says the same."""

import re
from collections import Counter
from itertools import zip_longest

import pytest
import run
from conftest import ROOT

NAMES = ("README.md", "README.fr.md")
QUOTE = re.compile(r"<!-- from (benchmarks/[\w.-]+\.md) -->\n(.*?)<!-- end -->", re.DOTALL)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def find_unfaithful(text, root):
    """Return what is wrong with the quotes "from benchmarks/NAME.md … end" of a README, in words.

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


def test_the_readme_quotes_the_benchmarks_word_by_word():
    assert find_unfaithful(read("README.md"), ROOT) == []


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
def test_the_readme_leads_to_every_benchmark(path):
    readme = read("README.md")
    assert f"](benchmarks/{path.name})" in readme or f"<!-- from benchmarks/{path.name} -->" in readme


@pytest.mark.parametrize("name", NAMES)
def test_every_link_within_the_repository_leads_somewhere(name):
    shown = re.sub(r"<!--.*?-->", "", read(name), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", shown) if not link.startswith("https://")]
    folders = r"(notebooks|cxr|tools|data|tests|benchmarks|docs|\.ci)/"
    paths = [word for word in re.findall(r"`([\w./-]+)`", shown) if re.match(folders, word)]
    assert [path for path in links + paths if not (ROOT / path).exists()] == []
    assert len(links) > 5 and len(paths) > 5


@pytest.mark.parametrize("name", NAMES)
def test_its_make_commands_exist_and_their_settings_too(name):
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    commands = re.findall(r"\bmake ([a-z-]+)((?: [A-Z_]+=\S+)*)$", "\n".join(find_code(read(name))), re.MULTILINE)
    assert {"run", "test", "benchmark", "badge"} <= {target for target, _ in commands}
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
