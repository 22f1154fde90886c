"""The texts: commands and links work; the French README has the same numbers."""

import re
from collections import Counter
from itertools import zip_longest

import pytest
import run
from conftest import ROOT

NAMES = ("README.md", "README.fr.md")
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md")
OTHERS += ("docs/README.md", "docs/results.md", "docs/metrics.md")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def find_anchors(text):
    """Return the anchors of the headings, as GitHub names them."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", without_code, re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_every_link_within_the_repository_leads_somewhere(name):
    source = ROOT / name
    text = re.sub(r"<!--.*?-->", "", read(name), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https://)([^)]+)\)", text)
    folders = r"(notebooks|cxr|tools|data|tests|benchmarks|docs|\.ci)/"
    words = re.findall(r"`([\w./-]+)`", text)
    paths = [word for word in words if re.match(folders, word)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for link in links:
        path, _, anchor = link.partition("#")
        target = source.parent / path if path else source
        assert target.exists(), link
        if anchor:
            assert anchor in find_anchors(target.read_text(encoding="utf-8")), link
    assert links or name == "CONTRIBUTING.md"


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
    """Return the code blocks and the inline code of a Markdown text."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    blocks = re.findall(r"^```\n(.*?)\n```", text, re.MULTILINE | re.DOTALL)
    return blocks + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def find_numbers(text, french=False):
    """Return the numbers of a Markdown text, as written in English.

    Those in code, addresses and comments are left out.
    """
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
    english = (
        "5,856 of 0.95, 95%, 3.10–3.13, 10, 20 and 1,235,512 "
        "`9` [x](8.html) <!-- 7 -->\n```\n6\n```\n"
    )
    french = "5\u202f856 sur 0,95, 95\u202f%, 3.10–3.13, 10, 20 et 1\u202f235\u00a0512"
    expected = ["5856", "0.95", "95", "3.10", "3.13", "10", "20", "1235512"]
    assert find_numbers(english) == find_numbers(french, french=True) == expected


def test_the_french_readme_has_the_same_figures_and_commands():
    english, french = (read(name) for name in NAMES)
    pairs = zip_longest(find_numbers(english), find_numbers(french, french=True))
    seen = []
    for pair in pairs:
        seen.append(pair)
        assert pair[0] == pair[1], (
            f"README.md and README.fr.md differ after {seen[-6:]}"
        )
    assert len(seen) > 50
    assert Counter(find_code(english)) == Counter(find_code(french))


def test_each_readme_leads_to_the_other_at_its_top():
    assert "](README.fr.md)" in read("README.md")[:200]
    assert "](README.md)" in read("README.fr.md")[:200]
