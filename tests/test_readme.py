"""What is read first: commands and links work; the French README has the same figures."""

import re
from collections import Counter
from itertools import zip_longest

import pytest
import run
from conftest import ROOT

NAMES, RESULTS = ("README.md", "README.fr.md"), "docs/results.md"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def find_anchors(text):
    """Return the places that links can lead to, as GitHub names them."""
    headings = re.findall(
        r"^#+ (.*)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M
    )
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("name", [*NAMES, "CONTRIBUTING.md", "docs/README.md", RESULTS])
def test_every_link_within_the_repository_leads_somewhere(name):
    shown, here = re.sub(r"<!--.*?-->", "", read(name), flags=re.DOTALL), ROOT / name
    links = [
        link
        for link in re.findall(r"\]\(([^)]+)\)", shown)
        if not link.startswith("https://")
    ]
    folders = r"(notebooks|cxr|tools|data|tests|benchmarks|docs|\.ci)/"
    paths = [
        word for word in re.findall(r"`([\w./-]+)`", shown) if re.match(folders, word)
    ]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for link in links:
        path, _, place = link.partition("#")
        target = here.parent / path if path else here
        assert target.exists(), link
        assert not place or place in find_anchors(target.read_text(encoding="utf-8")), (
            link
        )
    assert len(links) > 5 or name == "CONTRIBUTING.md"


@pytest.mark.parametrize("name", NAMES)
def test_its_make_commands_exist_and_their_settings_too(name):
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    commands = re.findall(
        r"\bmake ([a-z-]+)((?: [A-Z_]+=\S+)*)$",
        "\n".join(find_code(read(name))),
        re.MULTILINE,
    )
    assert {"run", "test"} <= {target for target, _ in commands}
    for target, settings in commands:
        assert target in targets
        if target == "run":
            run.parse_settings(settings.split())


def find_code(text):
    """Return the code blocks of a Markdown text and what it has between backticks."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    return re.findall(r"^```\n(.*?)\n```", text, re.MULTILINE | re.DOTALL) + re.findall(
        r"(?<!`)`([^`\n]+)`(?!`)", text
    )


def find_numbers(text, french=False):
    """Return the numbers of a Markdown text as written in English, without those in code, addresses and comments."""
    text = re.sub(
        r"<!--.*?-->|^```.*?^```|`[^`\n]+`|\]\([^)]*\)",
        " ",
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
    if french:
        text = re.sub(r"(?<=\d)[\u00a0\u202f](?=\d{3}\b)", "", text)
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    else:
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return re.findall(r"\d+(?:\.\d+)*", text)


def test_numbers_are_read_in_both_languages():
    english = find_numbers(
        "5,856 of 0.95, 95 %, 3.10–3.13, 10, 20 and 1,235,512 `9` [x](8.html) <!-- 7 -->\n```\n6\n```\n"
    )
    french = find_numbers(
        "5\u202f856 sur 0,95, 95\u202f%, 3.10–3.13, 10, 20 et 1\u202f235\u00a0512",
        french=True,
    )
    assert (
        english
        == french
        == ["5856", "0.95", "95", "3.10", "3.13", "10", "20", "1235512"]
    )


def test_the_french_readme_has_the_same_figures_and_commands():
    english, french = (read(name) for name in NAMES)
    pairs = zip_longest(find_numbers(english), find_numbers(french, french=True))
    seen = []
    for pair in pairs:
        seen.append(pair)
        assert pair[0] == pair[1], f"README.md and README.fr.md part after {seen[-6:]}"
    assert len(seen) > 50
    assert Counter(find_code(english)) == Counter(find_code(french))


def test_each_readme_leads_to_the_other_at_its_top():
    assert (
        "](README.fr.md)" in read("README.md")[:200]
        and "](README.md)" in read("README.fr.md")[:200]
    )
