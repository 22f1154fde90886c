"""What the README quotes was printed by a benchmark."""

import pytest
from conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.md")), ids=lambda path: path.name)
def test_the_readme_quotes_the_benchmarks_word_by_word(path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for paragraph in path.read_text(encoding="utf-8").strip().split("\n\n"):
        assert paragraph in readme, f"benchmarks/{path.name} was made anew: copy it into README.md"
