"""The builder: what directives become, what it refuses, and what is committed."""

import ast
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import build
import jupytext.cli
import nbformat
import pytest
from conftest import ROOT
from nbconvert import ScriptExporter

SAMPLE = {
    "cxr/__init__.py": '"""A package."""\n',
    "cxr/storage.py": '''"""Files that are there whole. It knows nothing of films."""

import argparse
import json
import os.path
from pathlib import Path

ROOM = 10  # bytes
LOW, HIGH = 1, 2

LIMIT = {name: ROOM for name in ("a", "b")}


def write(path, content):
    """Write one file."""
    Path(path).write_text(json.dumps(content) + os.path.sep)


class StorageError(OSError):
    """No room."""


def main():
    argparse.ArgumentParser()


if __name__ == "__main__":
    main()
''',
    "cxr/films.py": '''"""Films as lists of numbers."""

import functools
import math

from cxr.storage import LIMIT, StorageError, write

DEPTH = 3


# A film is read once.
@functools.cache
def read_film(size: int, fault: type[StorageError] = None) -> list:
    """Return a film.

    Two paragraphs.
    """
    return [math.sqrt(size)] * DEPTH


def keep_film(film, path):
    if len(film) > LIMIT["a"]:
        raise StorageError("too long")
    write(path, film)
''',
    "cxr/measure.py": '''"""Scores."""

import math

from cxr.films import read_film


def score(size):
    """Return a score."""
    return math.fsum(read_film(size))


def tell(size):
    """Return a sentence.

    In two lines.
    """
    text = f"""The score
is {score(size)}"""
    return text
''',
    "book/tour.py": """# %% [markdown]
# # Films
#
# A tour.

# %%
import sys

import math

# imports of the package

# cat is no command here

# %% tags=["hide-input", "advanced"]
# @title More settings
STEPS = [1, 2]

# %% tags=["parameters"]
# @title Settings
SIZE = 16  # @param {type:"integer"}
NAME = "one"

# %% [markdown]
# ## 1. Read
# ```
# # no heading
# ```

# %%
from cxr.storage import ROOM, write  # fold

# %%
if SIZE < 0:
    raise RuntimeError
import cxr.films  # fold

# %%
from cxr.films import (  # show
    read_film,
)

film = read_film(SIZE)

# %%
assert film == [4, 4, 4], "a film"

# %% [markdown]
# ## 2. Measure, and tell

# %%
from cxr.measure import score  # show
from cxr.measure import tell  # show

print(score(SIZE), ROOM)

# %% tags=["hide-input"]
print(tell(SIZE))
""",
}
STORAGE, FILMS, MEASURE = "cxr/storage.py", "cxr/films.py", "cxr/measure.py"
TOUR = "book/tour.py"
FOLD = "import cxr.films  # fold"
LAST = "print(tell(SIZE))"


def write_sample(folder, *changes):
    """Write the sample with changes (file, old text or "" for its end, new text).

    Return the paths of text and package, as `build` takes them.
    """
    sources = dict(SAMPLE)
    for file, old, new in changes:
        assert old in sources[file]
        if old:
            sources[file] = sources[file].replace(old, new, 1)
        else:
            sources[file] += new
    for file, source in sources.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(source, encoding="utf-8")
    return folder / TOUR, folder / "cxr"


def build_sample(folder, *changes):
    return build.build(*write_sample(folder, *changes))


def code_of(node):
    return {cell.id: cell.source for cell in node.cells if cell.cell_type == "code"}


def run_cells(sources, folder):
    """Run sources in an interpreter without the package; return what it printed."""
    code = """import json, sys
sys.modules["cxr"] = None
for source in json.load(sys.stdin):
    exec(compile(source, "cell", "exec"), globals())"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=json.dumps(list(sources)),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What is built


def test_the_notebook_runs_without_the_package(tmp_path):
    cells = code_of(build_sample(tmp_path)).values()
    assert run_cells(cells, tmp_path) == "12.0 10\nThe score\nis 12.0\n"


def test_show_becomes_the_source_with_its_comments_and_decorators(tmp_path):
    cells = code_of(build_sample(tmp_path))
    assert (
        cells["show-read_film"]
        == '''# A film is read once.
@functools.cache
def read_film(size: int, fault: type[StorageError] = None) -> list:
    """Return a film.

    Two paragraphs.
    """
    return [math.sqrt(size)] * DEPTH


film = read_film(SIZE)'''
    )
    assert re.findall(r"^\S.*", cells["show-score"], re.MULTILINE) == [
        "def score(size):",
        "def tell(size):",
        'is {score(size)}"""',
        "print(score(SIZE), ROOM)",
    ]


def test_fold_becomes_a_folded_cell_with_what_is_not_shown(tmp_path):
    node = build_sample(tmp_path)
    assert (
        code_of(node)["module-films"]
        == """# @title Helper functions: cxr/films.py


if SIZE < 0:
    raise RuntimeError


# cxr/films.py: Films as lists of numbers

DEPTH = 3


def keep_film(film, path):
    if len(film) > LIMIT["a"]:
        raise StorageError("too long")
    write(path, film)"""
    )
    (cell,) = [cell for cell in node.cells if cell.id == "module-films"]
    assert cell.metadata["cellView"] == "form"
    assert cell.metadata["jupyter"] == {"source_hidden": True}
    assert cell.metadata["tags"] == ["hide-input"]


def test_one_cell_folds_several_modules(tmp_path):
    both = f"{FOLD}\nimport cxr.storage  # fold"
    changes = [
        (TOUR, "from cxr.storage import ROOM, write  # fold", "LEVEL = 0"),
        (TOUR, FOLD, both),
    ]
    code = code_of(build_sample(tmp_path, *changes))["module-films"]
    assert code.startswith("# @title Helper functions: cxr/films.py, cxr/storage.py\n")
    for file in (FILMS, STORAGE):
        assert code.count(f"\n# {file}: ") == 1
    assert "def keep_film" in code and "class StorageError" in code


def test_a_section_says_what_to_run_in_an_empty_kernel(tmp_path):
    """Where the package tracks sections, each begins with a folded cell that checks."""
    text_path, package = write_sample(tmp_path)
    (package / "sections.py").write_text('"""Sections."""\n\nTRACKED = True\n')
    text = re.sub(r"# ## \d\. ", "# ## ", text_path.read_text())
    text = text.replace(FOLD, f"{FOLD}\nimport cxr.sections  # fold\nsection = None")
    text += "\n# %% [markdown]\n# ## 2. Later\n\n# %%\nimport cxr.more  # fold\n"
    text_path.write_text(text)
    (package / "more.py").write_text('"""More."""\n\nMORE = True\n')
    code = code_of(build.build(text_path, package))
    guarded = [name for name, source in code.items() if "not in globals()" in source]
    assert "module-more" in guarded and "module-films" not in guarded
    with pytest.raises(RuntimeError, match=r"Section 2 .*run section 0 first"):
        exec(code["module-more"], {})
    required = []
    exec(code["module-more"], {"section": SimpleNamespace(require=required.append)})
    assert required == [2]

    text_path.write_text(text.replace("import cxr.more  # fold", "print(1)"))
    (package / "more.py").unlink()
    with pytest.raises(build.BuildError, match="section 2 does not start"):
        build.build(text_path, package)


def test_the_command_of_a_module_is_left_out_with_what_only_it_imports(tmp_path):
    cells = code_of(build_sample(tmp_path))
    assert cells["module-storage"].endswith('"""No room."""')
    assert "argparse" not in "\n".join(cells.values())


def test_imports_of_the_package_stand_once_in_one_cell(tmp_path):
    code = "\n".join(code_of(build_sample(tmp_path)).values())
    assert re.findall(r"^(?:import|from) .*", code, re.MULTILINE) == [
        "import sys",
        "import math",  # both are the text's own
        "import functools",
        "import json",
        "import os.path",
        "from pathlib import Path",
    ]


def test_names_of_one_assignment_can_be_shown_together(tmp_path):
    show = "from cxr.storage import LOW, HIGH  # show\nprint(LOW, HIGH)"
    cells = code_of(build_sample(tmp_path, (TOUR, LAST, show)))
    assert cells["show-LOW"] == "LOW, HIGH = 1, 2\n\n\nprint(LOW, HIGH)"
    assert "LOW" not in cells["module-storage"]


def test_again_defines_what_a_restart_took_and_nothing_else(tmp_path):
    again = (
        "from cxr.storage import StorageError  # again\n"
        "from cxr.films import read_film  # again\n"
        "from cxr.measure import score, tell  # again\n"
    )
    node = build_sample(tmp_path, (TOUR, "", f"\n# %%\n{again}print(tell(9))\n"))
    source = node.cells[-1].source
    restarted = f"import math, functools\nDEPTH = 3\n{source}"
    # The string that `tell` returns has its second line at the margin, as it was.
    assert run_cells([restarted], tmp_path) == "The score\nis 9.0\n"
    assert '\n        """Return a sentence.\n\n        In two lines.' in source
    kept = "tell = score = read_film = lambda size: 'mine'"
    assert run_cells([f"{kept}\n{restarted}"], tmp_path) == "mine\n"


def test_again_can_stand_in_a_folded_cell(tmp_path):
    again = f"from cxr.storage import write  # again\n{FOLD}"
    cell = code_of(build_sample(tmp_path, (TOUR, FOLD, again)))["module-films"]
    assert 'if "write" not in globals():' in cell
    assert cell.index("def write") < cell.index("def keep_film")


def test_a_comment_that_looks_like_a_command_stays_a_comment(tmp_path):
    cell = code_of(build_sample(tmp_path))["films-2"]
    assert cell.endswith("\n\n# cat is no command here")


def test_a_picture_in_the_text_becomes_part_of_the_notebook(tmp_path):
    """As Colab gets nothing but the notebook; what has an address stays a link."""
    line = "![lungs](../docs/lungs.png) and ![a badge](https://example.org/badge.png)."
    text, package = write_sample(tmp_path, (TOUR, "A tour.", line))
    with pytest.raises(build.BuildError, match=r"\.\./docs/lungs\.png is missing"):
        build.build(text, package)
    (tmp_path / "docs").mkdir()
    picture = tmp_path / "docs/lungs.png"
    picture.write_bytes(b"\x89PNG\r\n")
    source = build.build(text, package).cells[0].source
    assert "![lungs](data:image/png;base64,iVBORw0K) and ![a badge](https:" in source
    picture.write_bytes(bytes(build.IMAGE_LIMIT + 1))
    with pytest.raises(build.BuildError, match=r"or exceeds 18,000 bytes"):
        build.build(text, package)


# Cells and metadata


def test_tags_and_folding_are_kept_and_no_outputs(tmp_path):
    node = build_sample(tmp_path)
    found = {cell.id: cell.metadata for cell in node.cells if cell.metadata}
    assert {name: metadata["tags"] for name, metadata in found.items()} == {
        "films-3": ["hide-input", "advanced"],
        "films-4": ["parameters"],
        "module-storage": ["hide-input"],
        "module-films": ["hide-input"],
        "2-measure-and-tell-2": ["hide-input"],
    }
    assert "cellView" in found["films-3"] and "cellView" not in found["films-4"]
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_a_new_cell_leaves_the_ids_under_other_headings(tmp_path):
    before = [cell.id for cell in build_sample(tmp_path).cells]
    first = "# %%\nfrom cxr.storage"
    new = f"# %%\nsize = 3\n\n# %% [markdown]\n# More.\n\n{first}"
    after = [cell.id for cell in build_sample(tmp_path, (TOUR, first, new)).cells]
    assert len(after) == len(set(after)) == len(before) + 2
    assert set(after) - set(before) == {"1-read-3", "1-read-4"}
    assert set(before) <= set(after)


def test_equal_long_and_foreign_headings_give_different_valid_ids(tmp_path):
    long = "A heading that is far too long for the id of a cell, is it"
    titles = ["How to", "How to", "How to 2", f"{long} not", f"{long}?", "Ωμέγα"]
    more = [f"\n# %% [markdown]\n# ### {title}\n\n# %%\n1\n" for title in titles]
    node = build_sample(tmp_path, (TOUR, "", "".join(more)))
    names = [cell.id for cell in node.cells]
    assert len(set(names)) == len(names)
    first = names.index("how-to-1")
    assert names[first : first + 4] == [
        "how-to-1",
        "how-to-2",
        "how-to_2-1",
        "how-to_2-2",
    ]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)


def test_the_file_is_valid_and_what_nbformat_writes(tmp_path):
    node = build_sample(tmp_path, (TOUR, "A tour", "Ein Rundgang für alle –"))
    nbformat.validate(node)
    nbformat.write(node, tmp_path / "other.ipynb")
    text = build.render(node)
    assert text.encode() == (tmp_path / "other.ipynb").read_bytes()
    assert "für alle –" in text


def test_the_same_sources_give_the_same_bytes(tmp_path):
    text, package = write_sample(tmp_path)
    wanted = build.render(build.build(text, package)).encode()
    code = f"""import sys
sys.path.insert(0, {str(ROOT / "tools")!r})
import build
notebook = build.build({str(text)!r}, {str(package)!r})
sys.stdout.buffer.write(build.render(notebook).encode())"""
    environment = {"PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=environment
    )
    assert done.stdout == wanted


def test_the_notebook_says_that_it_is_generated_and_from_what(tmp_path):
    node = build_sample(tmp_path)
    for place in (node.cells[0].source.split("\n")[0], node.metadata["generated"]):
        assert "make notebook" in place and TOUR in place and "cxr/" in place
    assert node.cells[0].source.startswith("<!--")  # so it is hidden when displayed
    assert "-->\n\n# Films" in node.cells[0].source


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the built sample, which a test may change."""
    folder = tmp_path_factory.mktemp("built")
    text, package = write_sample(folder)
    build.main([], text, package)
    return folder / "book"


@pytest.fixture
def workshop(built, tmp_path):
    return shutil.copytree(built, tmp_path / "book")


def test_nbconvert_makes_a_python_script_of_it(workshop):
    script, about = ScriptExporter().from_filename(workshop / "tour.ipynb")
    assert about["output_extension"] == ".py"
    assert "def read_film" in script


def test_a_jupytext_that_pairs_all_notebooks_leaves_the_text_alone(workshop):
    (workshop / "jupytext.toml").write_text('formats = "ipynb,py:percent"')
    before = (workshop / "tour.py").read_bytes()
    jupytext.cli.jupytext(["--sync", str(workshop / "tour.ipynb")])
    assert (workshop / "tour.py").read_bytes() == before


def test_nbstripout_has_nothing_to_remove(workshop):
    before = (workshop / "tour.ipynb").read_bytes()
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "tour.ipynb"]
    subprocess.run(command, cwd=workshop, check=True)
    assert (workshop / "tour.ipynb").read_bytes() == before


# What is refused: changes of the sample, then what the message has to say, with the
# lines that it names (as file:number) put in their place

REFUSED = {
    "a name that nobody defines": (
        [(MEASURE, "return text", "return texts")],
        ["show-score", "return texts", "Undefined name `texts`"],
    ),
    "a name that is used before its cell": (
        [(TOUR, "import sys", "import sys\nread_film(1)")],
        ["films-2", "read_film(1)"],
    ),
    "a default that is defined later": (
        [
            (MEASURE, "score(size):", "score(size=LAST):"),
            (MEASURE, "", "\nLAST = 1\n"),
            (TOUR, "import score ", "import score, LAST "),
        ],
        ["show-score", "def score(size=LAST)"],
    ),
    "a base class that is placed later": (
        [
            (FILMS, "", "\n\nclass FilmError(ScoreError):\n    pass\n"),
            (MEASURE, "", "\n\nclass ScoreError(Exception):\n    pass\n"),
            (TOUR, "import tell ", "import tell, ScoreError "),
        ],
        ["module-films", "ScoreError"],
    ),
    "an import that stands nowhere": (
        [(TOUR, "# imports of the package\n", "")],
        ["functools", "json"],
    ),
    "a second name for what the package has": (
        [
            (MEASURE, "import read_film", "import read_film as read"),
            (MEASURE, "math.fsum(read_film", "math.fsum(read"),
        ],
        ["show-score", "`read`"],
    ),
    "a module of the package": (
        [
            (MEASURE, "from cxr.films import read_film", "import cxr.films"),
            (MEASURE, "fsum(read_film", "fsum(cxr.films.read_film"),
        ],
        ["show-score", "`cxr`"],
    ),
    "an import of the package in a function": (
        [(MEASURE, "    return text", "    import cxr.storage\n    return text")],
        ["show-score", "the notebook has to run alone"],
    ),
    "an import that is no directive": (
        [(TOUR, LAST, "import cxr.storage")],
        ["2-measure-and-tell-2", "the notebook has to run alone"],
    ),
    "a star": ([(TOUR, "import sys", "from sys import *")], ["from sys import *"]),
    "defined in two modules": (
        [(MEASURE, "", "\n\ndef write():\n    pass\n")],
        ["write", "def write():", "def write(path, content):"],
    ),
    "defined twice in a module": (
        [(MEASURE, "", "\n\ndef tell():\n    pass\n")],
        ["tell", "def tell(size):", "def tell():"],
    ),
    "imported as two things": (
        [(MEASURE, "import math", "import numpy as math")],
        ["math", "import numpy as math"],
    ),
    "imported by the text as another thing": (
        [
            (
                TOUR,
                "import sys",
                "try:\n    import json as functools\nfinally:\n    pass",
            )
        ],
        ["functools", "import json as functools"],
    ),
    "imported and defined": (
        [(MEASURE, "import math", "import math\nfrom os import write")],
        ["write", "from os import write", "def write(path"],
    ),
    "rebound by an assignment": (
        [(TOUR, "film = read", "DEPTH = read")],
        ["rebinds DEPTH", "DEPTH = 3"],
    ),
    "rebound by a function": (
        [(TOUR, LAST, "def score():\n    pass")],
        ["rebinds score", "def score(size):"],
    ),
    "rebound by a loop": (
        [(TOUR, LAST, "if SIZE:\n    for score in []:\n        pass")],
        ["rebinds score", "def score(size):"],
    ),
    "an import of the package rebound": (
        [(TOUR, "film = read", "json = read")],
        ["json", "import json"],
    ),
    "defined twice by the text": (
        [(TOUR, LAST, "def one():\n    pass\n\n\ndef one():\n    pass")],
        ["2-measure-and-tell-2", "one"],
    ),
    "shown twice": (
        [(TOUR, LAST, "from cxr.measure import tell  # show")],
        ["import tell  # show", "tell is already placed above"],
    ),
    "folded twice": ([(TOUR, LAST, FOLD)], [FOLD, "films is already placed above"]),
    "placed nowhere": (
        [(MEASURE, "", "\nFEW = 3\n")],
        ["cxr/measure.py", "FEW is placed nowhere"],
    ),
    "a module that is placed nowhere": (
        [(TOUR, FOLD, ""), (TOUR, "read_film,", "read_film, DEPTH,")],
        ["cxr/films.py", "keep_film is placed nowhere"],
    ),
    "placed only again": (
        [(TOUR, "import tell  # show", "import tell  # again")],
        ["tell is placed nowhere"],
    ),
    "no such module": (
        [(TOUR, FOLD, "import cxr.movies  # fold")],
        ["import cxr.movies", "no module movies"],
    ),
    "no such name to show": (
        [(TOUR, "import tell", "import tells")],
        ["import tells", "cxr/measure.py defines no tells"],
    ),
    "no such name to fold": (
        [(TOUR, "ROOM, write ", "ROOM, writ ")],
        ["import ROOM, writ ", "cxr/storage.py defines no writ"],
    ),
    "no such name again": (
        [(TOUR, LAST, "from cxr.films import nothing  # again")],
        ["import nothing", "cxr/films.py defines no nothing"],
    ),
    "the command of a module": (
        [(TOUR, LAST, "from cxr.storage import main  # show")],
        ["import main", "cxr/storage.py defines no main"],
    ),
    "code that runs at import": (
        [(FILMS, "DEPTH = 3", "DEPTH = 3\nprint(DEPTH)")],
        ["print(DEPTH): `print(DEPTH)` defines nothing"],
    ),
    "an import that depends": (
        [(FILMS, "import math", "if 1:\n    import math")],
        ["if 1:: `if 1:` defines nothing"],
    ),
    "no docstring": ([(MEASURE, '"""Scores."""', "")], ["cxr/measure.py", "docstring"]),
    "an unknown tag": ([(TOUR, 'tags=["hide-input"]', 'tags=["hide"]')], ["hide"]),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses_and_names_what_and_where(tmp_path, changes, words):
    with pytest.raises(build.BuildError) as refusal:
        build_sample(tmp_path, *changes)
    message = re.sub(
        r"(\w+/\w+\.py):(\d+)",
        lambda at: (tmp_path / at[1]).read_text().split("\n")[int(at[2]) - 1],
        str(refusal.value),
    )
    assert [word for word in words if word not in message] == [], message


ALLOWED = {
    "local names as in the package": [
        (TOUR, "import sys", "def f(score):\n    tell = score\n    return tell"),
        (TOUR, LAST, f"print([score for score in [1]])\n{LAST}"),
    ],
    "an import that the package has, too": [(TOUR, "import sys", "import os")],
    "an import of the package by the command": [
        (STORAGE, "    argparse.", "    from cxr.films import DEPTH\n    argparse.")
    ],
    "a note for ruff": [
        (TOUR, "ROOM, write  # fold", "ROOM, write  # fold  # noqa: F401")
    ],
}


@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_harmless_is_built_and_runs(tmp_path, changes):
    cells = code_of(build_sample(tmp_path, *changes)).values()
    assert run_cells(cells, tmp_path).endswith("The score\nis 12.0\n")


# Settings, as `make run` and others read them


def test_settings_are_read_from_both_cells(tmp_path):
    text, _ = write_sample(tmp_path)
    settings = {"STEPS": [1, 2], "SIZE": 16, "NAME": "one"}
    assert build.read_settings(text) == settings


@pytest.mark.parametrize(
    ("new", "words"),
    [("STEPS = 4 * 4", "NAME = literal"), ("SIZE = 1\nSIZE = 2", "setting SIZE")],
)
def test_a_setting_is_a_literal_and_stands_once(tmp_path, new, words):
    text, _ = write_sample(tmp_path, (TOUR, "STEPS = [1, 2]", new))
    with pytest.raises(build.BuildError, match=rf"tour\.py:\d+: .*{words}"):
        build.read_settings(text)


# The command


def test_the_command_writes_the_notebook_and_check_tells_when_it_is_stale(tmp_path):
    text, package = write_sample(tmp_path)
    notebook = text.with_suffix(".ipynb")
    with pytest.raises(SystemExit, match="make notebook"):
        build.main(["--check"], text, package)
    assert not notebook.exists()
    build.main([], text, package)
    build.main(["--check"], text, package)
    assert nbformat.read(notebook, 4) == build.build(text, package)
    written = notebook.read_bytes()
    write_sample(tmp_path, (MEASURE, "Return a score", "Return the score"))
    with pytest.raises(SystemExit, match=r"tour\.ipynb is stale.*make notebook"):
        build.main(["--check"], text, package)
    assert notebook.read_bytes() == written


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (MEASURE, "return text", "return texts", "texts"),
        (MEASURE, "return text", "return text text", r"cxr/measure\.py"),
        (TOUR, "film = read_film", "film = = read_film", r"book/tour\.py"),
    ],
)
def test_a_fault_ends_in_a_sentence_and_leaves_the_notebook(
    built, tmp_path, file, old, new, words
):
    folder = shutil.copytree(built.parent, tmp_path / "copy")
    before = (folder / "book/tour.ipynb").read_bytes()
    text, package = write_sample(folder, (file, old, new))
    for arguments in ([], ["--check"]):
        with pytest.raises(SystemExit, match=f"No notebook was built.*{words}"):
            build.main(arguments, text, package)
    assert (folder / "book/tour.ipynb").read_bytes() == before


# The repository


def list_functions(*trees):
    """Return {name: code} of the functions and classes at the top level of trees."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for tree in trees for node in tree.body if isinstance(node, kinds)]
    return [(node.name, ast.dump(node)) for node in nodes]


def test_the_committed_notebook_is_what_its_sources_build():
    committed = build.TEXT.with_suffix(".ipynb").read_bytes()
    is_same = committed == build.render(build.build()).encode()
    assert is_same, "the notebook is stale: run `make notebook` and commit the result"


def test_every_function_of_the_package_stands_once_in_the_notebook_as_it_is():
    node = nbformat.read(build.TEXT.with_suffix(".ipynb"), as_version=4)
    placed = list_functions(*map(ast.parse, code_of(node).values()))
    for path in build.PACKAGE.glob("*.py"):
        for function in list_functions(ast.parse(path.read_text(encoding="utf-8"))):
            if function[0] != "main":
                assert placed.count(function) == 1, function[0]
                assert [name for name, _ in placed].count(function[0]) == 1


def read_layers():
    """Return {module: line of the list in CONTRIBUTING.md}, counted from its top."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if re.search(r"\bstorage\b", block)]
    lines = [line.split(maxsplit=1)[1] for line in block.splitlines()]
    return {
        name: number
        for number, line in enumerate(lines)
        for name in line.split(" (")[0].split(", ")
    }


def test_modules_import_only_from_their_line_of_the_list_and_lower_ones():
    layers = read_layers()
    paths = [path for path in build.PACKAGE.glob("*.py") if path.stem != "__init__"]
    assert layers.keys() == {path.stem for path in paths}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            root, _, module = (getattr(node, "module", None) or "").partition(".")
            if root == "cxr":
                assert layers[module] >= layers[path.stem], (path.name, module)
