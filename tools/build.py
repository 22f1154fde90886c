"""Build the notebook from its text and the package: `make notebook`.

With --check nothing is written; it fails if the committed notebook is stale.

The text is a script in jupytext's percent format. In it, an import from the package, at
the top level of a cell and with one of three comments, places code of the package:

    from cxr.images import read_image  # show     the source of what it names
    import cxr.download  # fold                   a folded cell: the rest of the module
    from cxr.evaluation import Estimate  # again  the source, run only if it is missing

One cell may fold several modules. A line `# imports of the package` becomes what the
modules import from elsewhere. The first code cell of a section is a folded one, which
begins with a check that section 0 has run.

All cells of a notebook share one namespace, so the builder refuses a second meaning of
a name. Then ruff checks the built notebook. It finds a name that is defined nowhere,
one that is needed at once (at the top level, in a decorator, default, base class or
type hint) but defined only later, and an import of the package. It does not find a
function that is called before a name in its body is defined. The tests that run the
notebook alone do.
"""

import argparse
import ast
import base64
import dis
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# jsonschema would import this parser of URIs, which takes seconds and is not needed.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
import jupytext  # noqa: E402
import nbformat  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TEXT = ROOT / "notebooks/chest_xray_pneumonia.py"
PACKAGE = ROOT / "cxr"

# comment_magics: otherwise a comment that begins with "ls" or "cat" becomes a command.
PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}
ALL_IMPORTS = "# imports of the package"
DIRECTIVE = re.compile(r"#\s*(show|fold|again)\b")
IMAGE_LIMIT = 18_000  # bytes of an embedded image: its cell can still be edited
MAIN_GUARD = "if __name__ == '__main__':"
DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
TAGS = {"parameters", "advanced", "hide-input"}
METADATA = {
    "accelerator": "GPU",
    "colab": {"provenance": [], "toc_visible": True},
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    # Without it, `nbconvert --to script` writes .txt.
    "language_info": {
        "name": "python",
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "codemirror_mode": {"name": "ipython", "version": 3},
    },
    # Without it, a jupytext that pairs all notebooks writes over the text.
    "jupytext": {"formats": "ipynb"},
}


class BuildError(Exception):
    """The notebook cannot be built; the message gives the name, and where it is."""


@dataclass
class Module:
    """A file of the package, split into the parts that the notebook needs."""

    file: str
    summary: str
    definitions: dict = field(default_factory=dict)  # {name: its source}
    imports: list = field(default_factory=list)  # as list_imports returns them
    used: set = field(default_factory=set)  # the names that its definitions mention


@dataclass
class Part:
    """A stretch of a code cell of the text: plain code, or a directive."""

    kind: str  # "code", "show", "fold" or "again"
    where: str
    source: str = ""
    module: str = ""
    names: list = field(default_factory=list)


# Names


def imported_module(statement):
    """Return the module that a statement imports, or imports from; "" if none."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module or ""
    return statement.names[0].name if isinstance(statement, ast.Import) else ""


def list_imports(statement):
    """Return (name, its meaning, a statement that imports only it) for an import."""
    found = []
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            meaning = alone = f"from {statement.module} import {ast.unparse(alias)}"
        else:
            alone = f"import {ast.unparse(alias)}"
            meaning = alone if alias.asname else alone.partition(".")[0]
        found.append((alias.asname or alias.name.partition(".")[0], meaning, alone))
    return found


def bound_names(code):
    """Return the names that code binds at its top level, as Python compiles it."""
    instructions = dis.get_instructions(compile(code, "code", "exec"))
    return {step.argval for step in instructions if step.opname == "STORE_NAME"}


def claim(meanings, name, meaning):
    """Record the meaning of a name in the notebook; refuse a second one."""
    if meanings.setdefault(name, meaning) != meaning:
        raise BuildError(f"{name} has two meanings: {meanings[name]}; {meaning}")


# The package


def read_module(path, meanings):
    """Split a file of the package into its external imports and its definitions.

    A definition includes the comments above it; the command `main` is left out.
    """
    package = path.parent.name
    file = f"{package}/{path.name}"
    source = path.read_text(encoding="utf-8")
    lines = source.split("\n")
    tree = ast.parse(source, file)
    document = " ".join((ast.get_docstring(tree) or "").split())
    if not document:
        raise BuildError(f"{file}: the docstring that gives the topic is missing")
    module = Module(file, re.split(r"\.(?: |$)", document)[0])
    end = tree.body[0].end_lineno
    for statement in tree.body[1:]:
        piece = "\n".join(lines[end : statement.end_lineno])
        end = statement.end_lineno
        if source_of_import := imported_module(statement):
            if source_of_import.partition(".")[0] != package:
                module.imports += list_imports(statement)
            continue
        names = bound_names(piece) if isinstance(statement, DEFINITIONS) else set()
        if names == {"main"} or ast.unparse(statement).startswith(MAIN_GUARD):
            continue
        if not names:
            line = lines[statement.lineno - 1]
            raise BuildError(f"{file}:{statement.lineno}: `{line}` defines nothing")
        for name in names:
            claim(meanings, name, f"defined in {file}:{statement.lineno}")
            module.definitions[name] = piece
        nodes = ast.walk(statement)
        module.used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return module


def read_package(path):
    """Return ({name: Module}, {name: its meaning in the notebook})."""
    modules, meanings = {}, {}
    for file in sorted(Path(path).glob("*.py")):
        modules[file.stem] = read_module(file, meanings)
    for module in modules.values():
        for name, meaning, _ in module.imports:
            claim(meanings, name, meaning)
    return modules, meanings


# The text


def read_cells(text_path=TEXT):
    """Return [(cell, number of its first line in the text)]."""
    text = Path(text_path).read_text(encoding="utf-8")
    position = 0
    cells = []
    for cell in jupytext.reads(text, fmt=PERCENT).cells:
        if cell.cell_type == "code":
            position = max(position, text.find("\n" + cell.source, position) + 1)
        cells.append((cell, text.count("\n", 0, position) + 1))
    return cells


def parse(source, line, file):
    """Return the syntax tree of a cell, with the line numbers of the file."""
    return ast.parse("\n" * (line - 1) + source, file)


def read_settings(text_path=TEXT):
    """Return the defaults in the cells tagged "parameters" and "advanced"."""
    found = {}
    for cell, line in read_cells(text_path):
        if not {"parameters", "advanced"}.intersection(cell.metadata.get("tags", [])):
            continue
        for statement in parse(cell.source, line, text_path).body:
            where = f"{text_path}:{statement.lineno}"
            try:
                name = statement.targets[0].id
                value = ast.literal_eval(statement.value)
            except (AttributeError, ValueError) as error:
                raise BuildError(f"{where}: a setting is NAME = literal") from error
            if name in found:
                raise BuildError(f"{where}: the setting {name} is already set above")
            found[name] = value
    return found


def split_cell(source, line, file, package):
    """Return the parts of a code cell, in order; its first line is `line`."""
    lines = source.split("\n")
    parts = []
    start = line
    for statement in parse(source, line, file).body:
        root, _, module = imported_module(statement).partition(".")
        word = DIRECTIVE.search(lines[statement.lineno - line])
        if root == package and word:
            code = "\n".join(lines[start - line : statement.lineno - line])
            parts.append(Part("code", f"{file}:{start}", code))
            part = Part(word[1], f"{file}:{statement.lineno}", module=module)
            if isinstance(statement, ast.ImportFrom):
                part.names = [alias.name for alias in statement.names]
            parts.append(part)
            start = statement.end_lineno + 1
    parts.append(Part("code", f"{file}:{start}", "\n".join(lines[start - line :])))
    return [part for part in parts if part.kind != "code" or part.source.strip()]


def embed_images(source, folder):
    """Return Markdown in which links to PNG files are replaced by their base64 content.

    Colab has no file but the notebook, and ignores attachments.
    """

    def embed(match):
        image = Path(folder, match[2])
        if not image.is_file() or image.stat().st_size > IMAGE_LIMIT:
            limit = f"{IMAGE_LIMIT:,} bytes"
            raise BuildError(f"the image {match[2]} is missing, or exceeds {limit}")
        encoded = base64.b64encode(image.read_bytes()).decode()
        return f"![{match[1]}](data:image/png;base64,{encoded})"

    return re.sub(r"!\[([^]]*)\]\(((?!\w+:)[^)\s]+\.png)\)", embed, source)


def list_shown(parts, modules):
    """Return the names that are shown; refuse invalid directives.

    The names have to exist, and each definition is placed once.
    """
    shown = []
    folded = []
    for part in parts:
        if part.module not in modules:
            raise BuildError(f"{part.where}: the package has no module {part.module}")
        for name in part.names:
            if name not in modules[part.module].definitions:
                file = modules[part.module].file
                raise BuildError(f"{part.where}: {file} defines no {name}")
        if part.kind == "show":
            chosen = part.names
            placed = shown
        elif part.kind == "fold":
            chosen = [part.module]
            placed = folded
        else:
            continue
        for name in chosen:
            if name in placed:
                raise BuildError(f"{part.where}: {name} is already placed above")
            placed.append(name)
    for name, module in modules.items():
        missing = module.definitions.keys() - shown
        if missing and name not in folded:
            names = ", ".join(sorted(missing))
            raise BuildError(f"{module.file}: {names} is placed nowhere")
    return shown


# The notebook


def check_meanings(part, meanings):
    """Refuse code of the text that gives a name a second meaning."""
    imported = set()
    for node in ast.walk(ast.parse(part.source)):
        if imported_module(node):
            for name, meaning, _ in list_imports(node):
                claim(meanings, name, meaning)
                imported.add(name)
    for name in sorted(bound_names(part.source) - imported):
        if name in meanings:
            known = meanings[name]
            raise BuildError(f"{part.where}: code below rebinds {name}, {known}")


def write_imports(modules, cell):
    """Return the imports of the package, without those that the cell has."""
    present = set()
    for node in ast.walk(ast.parse(cell)):
        if imported_module(node):
            present.update(alone for _, _, alone in list_imports(node))
    needed = set()
    for module in modules.values():
        needed.update(alone for name, _, alone in module.imports if name in module.used)

    def order(line):  # the standard library first, `import` before `from`
        root = line.split()[1].partition(".")[0]
        return root not in sys.stdlib_module_names, line.startswith("from"), line

    return "\n".join(sorted(needed - present, key=order))


def indent(source):
    """Return code indented by four spaces, except within strings."""
    nodes = list(ast.walk(ast.parse(source)))
    documents = [node.value for node in nodes if isinstance(node, ast.Expr)]
    inside = set()
    for node in nodes:
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node not in documents:
            inside.update(range(node.lineno + 1, node.end_lineno + 1))
    lines = source.split("\n")
    for number, line in enumerate(lines, 1):
        if line and number not in inside:
            lines[number - 1] = "    " + line
    return "\n".join(lines)


def place(part, modules, shown):
    """Return the code that replaces a directive."""
    definitions = modules[part.module].definitions
    if part.kind == "fold":
        rest = [source for name, source in definitions.items() if name not in shown]
        return "\n".join(dict.fromkeys(rest))  # a, b = 1, 2 once
    sources = [definitions[name].strip("\n") for name in part.names]
    if part.kind == "show":
        return "\n\n\n".join(dict.fromkeys(sources))
    blocks = []
    for name, source in zip(part.names, sources):
        comment = "" if blocks else "  # after a restart this section can begin here"
        blocks.append(f'if "{name}" not in globals():{comment}\n{indent(source)}')
    return "\n\n".join(blocks)


def write_code(parts, modules, shown, meanings, guard=()):
    """Return the source of a code cell; `guard`: code ahead of the helper functions."""
    folded = [modules[part.module] for part in parts if part.kind == "fold"]
    blocks = []
    for part in parts:
        if part.kind == "code":
            check_meanings(part, meanings)
            blocks.append(part.source)
            continue
        block = place(part, modules, shown).strip("\n")
        if part.kind == "fold":
            module = modules[part.module]
            block = f"# {module.file}: {module.summary}\n\n{block}"
        blocks.append(block)
    if folded:
        files = ", ".join(module.file for module in folded)
        blocks = [f"# @title Helper functions: {files}", *guard, *blocks]
    source = "\n\n\n".join(block.strip("\n") for block in blocks)
    return re.sub(
        f"^{ALL_IMPORTS}$",
        lambda _: write_imports(modules, source),
        source,
        flags=re.MULTILINE,
    )


class CellIds:
    """Names cells by the heading above, so that a new cell renames none elsewhere."""

    def __init__(self):
        self.seen = Counter()
        self.heading = "start"
        self.number = 0

    def name(self, cell, parts):
        for part in parts:
            if part.kind == "fold":
                return f"module-{part.module}"
            if part.kind == "show":
                return f"show-{part.names[0]}"
        text = re.sub(r"^```.*?^```", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        titles = re.findall(r"^#+\s+(.*)", text, re.MULTILINE)
        if cell.cell_type == "markdown" and titles:
            slug = re.sub(r"[^a-z0-9]+", "-", titles[-1].lower())[:40].strip("-")
            slug = slug or "section"
            self.seen[slug] += 1
            is_repeated = self.seen[slug] > 1
            self.heading = f"{slug}_{self.seen[slug]}" if is_repeated else slug
            self.number = 0
        self.number += 1
        return f"{self.heading}-{self.number}"


def write_guard(number):
    """Return code that says what to run where a section starts in an empty kernel."""
    return (
        'if "section" not in globals():\n'
        "    raise RuntimeError(\n"
        f'        "Section {number} needs what section 0 defines: "\n'
        '        "run section 0 first."\n'
        "    )\n"
        f"section.require({number})"
    )


def list_guards(cells, modules):
    """Return {number of a cell: its guard} for the first code cell of each section.

    `cells`: [(cell, parts)]. A numbered heading ("## 3. …") starts a section. Section 0
    has no guard, nor has a notebook whose package does not track sections. Raises
    BuildError for a section that does not start with a folded cell.
    """
    guards, waiting = {}, 0
    for number, (cell, parts) in enumerate(cells if "sections" in modules else []):
        if cell.cell_type == "markdown":
            for found in re.findall(r"^## (\d+)\. ", cell.source, re.MULTILINE):
                waiting = int(found)
        elif waiting:
            if not any(part.kind == "fold" for part in parts):
                raise BuildError(f"section {waiting} does not start with a folded cell")
            guards[number], waiting = write_guard(waiting), 0
    return guards


def check_names(text, package):
    """Check the built notebook with ruff for undefined names."""
    banned = f'lint.flake8-tidy-imports.banned-api."{package}".msg'
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache"]
    ruff += ["--select=F403,F811,F821,TID251", "--output-format=json"]
    ruff += ["--config", f'{banned} = "the notebook has to run alone"']
    ruff += ["--stdin-filename=notebook.ipynb", "-"]
    done = subprocess.run(
        ruff, input=text, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode not in (0, 1):
        raise BuildError(f"ruff failed: {done.stderr}")
    cells = json.loads(text)["cells"]
    problems = []
    for found in json.loads(done.stdout):
        cell = cells[found["cell"] - 1]
        line = cell["source"][found["location"]["row"] - 1].strip()
        problems.append(f"cell {cell['id']}, `{line}`: {found['message']}")
    if problems:
        raise BuildError("\n".join(problems))


def build(text_path=TEXT, package_path=PACKAGE):
    """Return the notebook as an nbformat node, or raise BuildError."""
    text_path = Path(text_path)
    package = Path(package_path).name
    file = f"{text_path.parent.name}/{text_path.name}"
    modules, meanings = read_package(package_path)
    cells = []
    for cell, line in read_cells(text_path):
        is_code = cell.cell_type == "code"
        parts = split_cell(cell.source, line, file, package) if is_code else []
        cells.append((cell, parts))
    directives = [part for _, parts in cells for part in parts if part.kind != "code"]
    shown, ids = list_shown(directives, modules), CellIds()
    guards = list_guards(cells, modules)
    for number, (cell, parts) in enumerate(cells):
        cell.id = ids.name(cell, parts)
        tags = cell.metadata.get("tags", [])
        if unknown := set(tags) - TAGS:
            raise BuildError(f"{file}: unknown tag {', '.join(unknown)}")
        if cell.cell_type == "code":
            guard = [guards[number]] if number in guards else []
            cell.source = write_code(parts, modules, shown, meanings, guard)
        else:
            cell.source = embed_images(cell.source, text_path.parent)
        if cell.id.startswith("module-"):
            tags = ["hide-input"]
        folded = FOLDED if "hide-input" in tags else {}
        cell.metadata = {**folded, "tags": tags} if tags else {}
    banner = (
        f"Generated by `make notebook`: in the repository, edit {file} and {package}/."
    )
    written = [cell for cell, _ in cells]
    written[0].source = f"<!-- {banner} -->\n\n{written[0].source}"
    metadata = METADATA | {"generated": banner}
    node = nbformat.from_dict(
        {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    )
    nbformat.validate(node)
    check_names(render(node), package)
    return node


def render(node):
    """Return the text of the notebook's file, as nbformat writes it."""
    return nbformat.writes(node).rstrip("\n") + "\n"


def main(arguments=None, text_path=TEXT, package_path=PACKAGE):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if the committed notebook is stale",
    )
    check = parser.parse_args(arguments).check
    path = text_path.with_suffix(".ipynb")
    try:
        wanted = render(build(text_path, package_path)).encode()
    except BuildError as error:
        sys.exit(f"No notebook was built. {error}")
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}"
        sys.exit(f"No notebook was built. {where}: {error.msg}")
    if not check:
        path.write_bytes(wanted)
    elif not path.exists() or path.read_bytes() != wanted:
        sys.exit(f"{path.name} is stale: run `make notebook`, and commit the result.")


if __name__ == "__main__":
    main()
