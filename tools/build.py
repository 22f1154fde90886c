"""Builds the notebook from its text and the package: `make notebook`; with --check it only says whether the committed one is stale.

The text is a script in jupytext's percent format. Three directives, imports with a comment, place code of the package:
`from cxr.images import read_image  # show` becomes the source of what it names, `import cxr.download  # fold` one folded cell with
the rest of that module (code of the text above it in the cell stays above it), `from cxr.measure import enclose  # again` the
source under `if "enclose" not in globals():`. A line `# imports of the package` becomes what all modules import, once.
All names in a notebook are global, so whatever would mean something else there than in the package is refused.
"""

import argparse
import ast
import base64
import graphlib
import re
import symtable
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
TEXT, PACKAGE = ROOT / "notebooks/chest_xray_pneumonia.py", ROOT / "cxr"
METADATA = {"accelerator": "GPU", "colab": {"provenance": [], "toc_visible": True},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
CELL_METADATA = {"": {}, "parameters": {"tags": ["parameters"]}, "hide-input": FOLDED | {"tags": ["hide-input"]},
                 "hide-input advanced": FOLDED | {"tags": ["hide-input", "advanced"]}}  # settings: papermill's come after "parameters"
PICTURE_LIMIT = 18_000  # bytes of a picture in the text, so that the cell stays one that a reader can edit
# comment_magics: else a comment that begins with "ls" or "cat" would become a command.
PERCENT = {"extension": ".py", "format_name": "percent", "comment_magics": False}
ALL_IMPORTS = "# imports of the package"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)


class BuildError(Exception):
    """The sources cannot become a notebook; the message names the name and the file."""


@dataclass
class Chunk:
    """A definition (function, class, constant) or an import of a module, with the comment lines directly above."""
    name: str
    module: str
    node: ast.stmt
    where: str
    source: str
    first: int

    def __post_init__(self):
        self.uses = global_names(self.source)[0]
        self.block = isinstance(self.node, (*FUNCTIONS, ast.ClassDef))


@dataclass
class Part:
    """A stretch of a cell of the text: "code" with its source, or a directive with its module and names."""
    kind: str
    where: str
    source: str = ""
    module: str = ""
    names: tuple = ()


# Reading Python


def parse(source, file, line=1):
    """Return the tree, with line numbers as in the file; refuse what is no Python or would differ in a notebook."""
    try:
        tree = ast.increment_lineno(ast.parse(source), line - 1)
    except SyntaxError as error:
        raise BuildError(f"{file}:{line + (error.lineno or 1) - 1}: {error.msg}") from error
    for node in ast.walk(tree):
        if isinstance(node, IMPORTS) and any(alias.name == "*" for alias in node.names):
            raise BuildError(f"{file}:{node.lineno}: `{ast.unparse(node)}` does not say what it imports")
        if isinstance(node, ast.ImportFrom) and node.level:
            raise BuildError(f"{file}:{node.lineno}: `{ast.unparse(node)}` is relative")
    return tree


def refuse_file_names(tree, file):
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in ("__file__", "__name__"):
            raise BuildError(f"{file}:{node.lineno}: {node.id} means something else in a notebook")


def bindings(node):
    """Yield (name, the thing that it means, what is imported) for each name of an import."""
    for alias in node.names:
        full = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
        if isinstance(node, ast.ImportFrom) or alias.asname:
            yield alias.asname or alias.name, full, full
        else:
            yield full.split(".")[0], full.split(".")[0], full  # import a.b binds a


def is_own(node, package):
    """Whether this is an import from the package."""
    return isinstance(node, IMPORTS) and any(full.split(".")[0] == package for _, _, full in bindings(node))


class Unmerge(ast.NodeTransformer):
    """Makes generators of comprehensions: since Python 3.12 symtable counts the variables of those to the scope around."""

    def visit_ListComp(self, node):
        self.generic_visit(node)
        elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        return ast.GeneratorExp(ast.Tuple(elements, ast.Load()), node.generators)

    visit_SetComp = visit_DictComp = visit_ListComp


def global_names(source):
    """Return the names that a source reads from the global scope, function bodies included, and those that it binds there."""
    top = symtable.symtable(ast.unparse(Unmerge().visit(ast.parse(source))), "source", "exec")
    tables, used, bound = [top], set(), set()
    for table in tables:
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used.add(symbol.get_name())
            if (symbol.is_assigned() or symbol.is_imported()) and (table is top or symbol.is_declared_global()):
                bound.add(symbol.get_name())
        tables += table.get_children()
    return used, bound


def names_at_once(node, hints=True):
    """Return the names that a definition reads when it is executed, so not those in the bodies of functions."""
    waiting, found = [node], set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (*FUNCTIONS, ast.Lambda)):
            waiting += getattr(node, "decorator_list", []) + node.args.defaults + node.args.kw_defaults
            waiting += [part for part in ast.walk(node.args) if isinstance(part, ast.arg)]
            waiting += [getattr(node, "returns", None)] if hints else []
        elif node is not None:
            waiting += [part for part in ast.iter_child_nodes(node) if hints or part is not getattr(node, "annotation", None)]
    return found


def module_imports(tree):
    """Yield the imports outside functions and classes."""
    waiting = [tree]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, IMPORTS):
            yield node
        elif not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


# The package


def read_sources(package=PACKAGE):
    """Return {module: source} of the package's files, by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(Path(package).glob("*.py"))}


def defined_names(node):
    """Return the names that a top-level statement defines; [] where it does more than that."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) and node.value else []
    targets = [inner for target in targets for inner in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [target.id for target in targets] if all(isinstance(target, ast.Name) for target in targets) else []


class Module:
    """A file of the package: its imports from elsewhere, those from the package, and its definitions without `main`."""

    def __init__(self, name, source, package):
        self.name, self.file, self.package = name, f"{package}/{name}.py", package
        self.imports, self.own, self.definitions, self.command = [], [], {}, []
        self.lines, body = source.split("\n"), parse(source, self.file).body
        self.document = body and ast.get_docstring(ast.Module(body, []))
        if not self.document:
            raise BuildError(f"{self.file}:1: the module {name} has no docstring that says what may live in it")
        for node in body[1:]:
            self.add(node, is_last=node is body[-1])

    def add(self, node, is_last):
        where = f"{self.file}:{node.lineno}"
        if isinstance(node, ast.If) and is_last and ast.unparse(node.test) == "__name__ == '__main__'":
            self.command.append(node)
            return
        refuse_file_names(node, self.file)
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
        while self.lines[first - 2].startswith("#"):
            first -= 1
        names, source = defined_names(node), "\n".join(self.lines[first - 1:node.end_lineno])
        if names == ["main"]:
            self.command.append(node)
        elif is_own(node, self.package):
            self.check_own(node, where)
            self.own.append(node)
        elif isinstance(node, IMPORTS) and getattr(node, "module", "") != "__future__":
            self.imports.append(Chunk("", self.name, node, where, source, first))
        elif not names or self.name == "__init__":
            raise BuildError(f"{where}: `{ast.unparse(node).splitlines()[0]}` does more than define, in {self.name}")
        else:
            for inner in ast.walk(node):
                if is_own(inner, self.package):
                    raise BuildError(f"{self.file}:{inner.lineno}: `{ast.unparse(inner)}` in {names[0]} would fail in the notebook")
            for name in names:
                if name in self.definitions:
                    raise BuildError(f"{name} is defined in {self.definitions[name].where} and again in {where}")
                self.definitions[name] = Chunk(name, self.name, node, where, source, first)

    def check_own(self, node, where):
        if isinstance(node, ast.Import) or node.module == self.package:
            raise BuildError(f"{where}: `{ast.unparse(node)}` imports a module: write from {self.package}.module import name")
        if any(alias.asname for alias in node.names):
            raise BuildError(f"{where}: `{ast.unparse(node)}` gives a second name to what has one in the notebook")

    def needed_imports(self):
        """Return the imports that more than the command line needs."""
        needed = set().union(*(one.uses for one in self.definitions.values()))
        spare = set().union(*(global_names(ast.unparse(node))[0] for node in self.command)) - needed
        return [chunk for chunk in self.imports if not spare.issuperset(name for name, *_ in bindings(chunk.node))]

    def imports_of(self, names):
        """Return the imports, as (name, what), that stand behind these names."""
        return {(name, full) for chunk in self.imports for name, _, full in bindings(chunk.node) if name in names}


def claim(claims, name, thing, where):
    """Note in {name: (thing, where)} what a name means; refuse a second meaning."""
    known, first = claims.setdefault(name, (thing, where))
    if known != thing or (thing == "defined" and where != first):
        raise BuildError(f"{name} means two things: {known} in {first}, {thing} in {where}")


def read_package(path=PACKAGE):
    """Return ({module: Module}, {name: (meaning, where)}); refuse modules that do not fit together."""
    modules = {name: Module(name, source, Path(path).name) for name, source in read_sources(path).items()}
    claims, order = {}, {}
    for module in modules.values():
        for one in module.definitions.values():
            claim(claims, one.name, "defined", one.where)
        for node in module.own:
            source = node.module.partition(".")[2]
            order.setdefault(module.name, []).append(source)
            for alias in node.names:
                if source not in modules or alias.name not in modules[source].definitions:
                    raise BuildError(f"{module.file}:{node.lineno}: {Path(path).name}/{source}.py defines no {alias.name}")
    try:
        graphlib.TopologicalSorter(order).prepare()
    except graphlib.CycleError as error:
        raise BuildError("imports go round: " + " <- ".join(modules[name].file for name in error.args[1])) from error
    for module in modules.values():
        for chunk in module.imports:
            for name, thing, _ in bindings(chunk.node):
                claim(claims, name, f"import of {thing}", chunk.where)
        for one in module.definitions.values():
            for name in sorted(names_at_once(one.node, hints=False) - set(module.definitions)):
                if claims.get(name, ("",))[0] == "defined":
                    raise BuildError(f"{one.where}: {one.name} needs {name} ({claims[name][1]}) already when it is defined")
    return modules, claims


def find_definitions(package=PACKAGE):
    """Return {name: (module, node, source)} of every function, class and constant of the package."""
    return {name: (module.name, one.node, one.source) for module in read_package(package)[0].values()
            for name, one in module.definitions.items()}


# The text


def read_cells(text_path=TEXT):
    """Return [(cell, number of its first line in the text)]."""
    text, position, cells = Path(text_path).read_text(encoding="utf-8"), 0, []
    for cell in jupytext.reads(text, fmt=PERCENT).cells:
        if cell.cell_type == "code":
            position = max(position, text.find("\n" + cell.source, position) + 1)
        cells.append((cell, text.count("\n", 0, position) + 1))
    return cells


def read_settings(text_path=TEXT):
    """Return the defaults in the cell tagged "parameters", and in those tagged "advanced" above it, as a dict."""
    found = {}
    for cell, line in read_cells(text_path):
        tags = {"parameters", "advanced"}.intersection(cell.metadata.get("tags", []))
        for node in parse(cell.source, text_path, line).body if tags else []:
            try:
                name, value = node.targets[0].id, ast.literal_eval(node.value)
            except (AttributeError, ValueError) as error:
                raise BuildError(f"{text_path}:{line}: the cell of the settings holds more than NAME = literal") from error
            if name in found:
                raise BuildError(f"{text_path}:{line}: the setting {name} is set in a cell above, too")
            found[name] = value
        if "parameters" in tags:
            return found
    raise BuildError(f"{text_path}: no cell is tagged parameters")


def embed_pictures(source, folder, where):
    """Return Markdown with each PNG beside the text in it, as base64: Colab has nothing but the notebook, and ignores attachments."""
    def embed(found):
        picture = Path(folder, found[2])
        if not picture.is_file() or picture.stat().st_size > PICTURE_LIMIT:
            raise BuildError(f"{where}: the picture {found[2]} is missing, or has more than {PICTURE_LIMIT:,} bytes")
        return f"![{found[1]}](data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()})"

    return re.sub(r"!\[([^]]*)\]\(((?!\w+:)[^)\s]+\.png)\)", embed, source)


def split_cell(source, line, file, package):
    """Return the parts of a code cell, in order; `file` and `line` say where it stands."""
    lines, parts, done = source.split("\n"), [], 0

    def add_code(end):
        code = "\n".join(lines[done:end])
        tree = parse(code, file, line + done)
        refuse_file_names(tree, file)
        for node in ast.walk(tree):
            if is_own(node, package):
                raise BuildError(f"{file}:{node.lineno}: `{ast.unparse(node)}` is no directive: at the top level of a cell, "
                                 "end its first line with # show, # fold or # again")
        if code.strip():
            blank = len(code) - len(code.lstrip("\n"))
            parts.append(Part("code", f"{file}:{line + done + blank}", code.strip("\n")))

    for node in parse(source, file, line).body:
        first, end = node.lineno - line, node.end_lineno - line + 1
        where, found = f"{file}:{node.lineno}", re.search(r"#\s*(show|fold|again)\s*(#.*)?$", lines[first])
        if not found or not is_own(node, package):
            continue
        single = isinstance(node, ast.Import)
        alone = ";" not in "".join(lines[first:end]) and (not single or len(node.names) == 1)
        if not alone or (single and found[1] != "fold") or any(alias.asname for alias in node.names):
            raise BuildError(f"{where}: `{lines[first]}` must name, alone, without aliases, what of one module it means")
        add_code(first)
        done = end
        module = (node.names[0].name if single else node.module).partition(".")[2]
        parts.append(Part(found[1], where, "", module, () if single else tuple(alias.name for alias in node.names)))
    add_code(len(lines))
    return parts


# The notebook


def join(chunks):
    """Return the chunks' sources as one: imports and constants as close as they stood, all else two lines apart."""
    text, last = "", None
    for one in chunks:
        if last and one.node is last.node:
            continue  # a, b = 1, 2
        near = last and not one.block and not last.block
        gap = "" if not last else "\n\n\n" if not near else "\n" if one.first == last.node.end_lineno + 1 else "\n\n"
        text, last = text + gap + one.source, one
    return text


def write_again(chunks):
    """Return the sources of the chunks, each executed only where its name is missing."""
    blocks = []
    for one in chunks:
        nodes = list(ast.walk(ast.parse(one.source)))
        documents = [node.body[0].value for node in nodes if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and ast.get_docstring(node)]
        kept = {line for node in nodes if isinstance(node, (ast.Constant, ast.JoinedStr)) and node not in documents
                and ast.get_source_segment(one.source, node).lstrip("rbfRBF").startswith(('"""', "'''"))
                for line in range(node.lineno + 1, node.end_lineno + 1)}  # the insides of strings
        lines = ["    " * (bool(line) and number not in kept) + line for number, line in enumerate(one.source.split("\n"), 1)]
        why = "" if blocks else "  # after a restart this section can begin here"
        blocks.append("\n".join([f'if "{one.name}" not in globals():{why}', *lines]))
    return "\n\n".join(blocks)


class Headings:
    """Gives ids to cells: the latest heading and a number within it, so that new cells elsewhere change nothing."""

    def __init__(self):
        self.seen, self.base, self.number = {}, "start", 0

    def name(self, cell):
        found = re.findall(r"^#{1,6}\s+(.*)", re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S), re.M)
        if cell.cell_type == "markdown" and found:
            slug = re.sub(r"[^a-z0-9]+", "-", found[-1].lower())[:40].strip("-") or "section"
            self.seen[slug] = self.seen.get(slug, 0) + 1
            self.base, self.number = slug if self.seen[slug] == 1 else f"{slug}_{self.seen[slug]}", 0
        self.number += 1
        return f"{self.base}-{self.number}"


class Book:
    """What is placed where in the notebook, as far as it is written."""

    def __init__(self, package_path):
        self.package = Path(package_path).name
        self.modules, self.claims = read_package(package_path)
        self.taken = set(self.claims)
        self.definitions = {name: one for module in self.modules.values() for name, one in module.definitions.items()}
        self.placed, self.bound, self.placing, self.folds, self.hoisted = set(), set(), {}, {}, False

    def plan(self, parts):
        """Note which part places what; refuse directives that name nothing, and what is placed twice or nowhere."""
        for part in parts:
            if part.kind == "code":
                continue
            if part.module not in self.modules:
                raise BuildError(f"{part.where}: {self.package}/{part.module}.py does not exist")
            for name in part.names:
                if name not in self.modules[part.module].definitions:
                    raise BuildError(f"{part.where}: {self.package}/{part.module}.py defines no {name}")
            places = {"show": self.placing, "fold": self.folds, "again": {}}[part.kind]
            for name in part.names if part.kind == "show" else [part.module]:
                if name in places:
                    raise BuildError(f"{part.where}: {name} of {self.package}/{part.module}.py is placed already, in {places[name]}")
                places[name] = part.where
        for one in self.definitions.values():
            if one.name not in self.placing and one.module not in self.folds:
                raise BuildError(f"{one.where}: {one.name} is placed nowhere: show it, or fold {self.modules[one.module].file}")

    def require_imports(self, one, names, where):
        for name, full in sorted(self.modules[one.module].imports_of(names)):
            if (name, full) not in self.bound and not (name == full and any(name == other for other, _ in self.bound)):
                raise BuildError(f"{where}: {one.name} ({one.where}) needs {name}, an import of {full} that no earlier cell has")

    def require(self, names, where):
        """Refuse code that uses these names while one of them, or what it uses in turn, is not yet in the notebook."""
        waiting, seen = [(name, "") for name in sorted(names)], set()
        while waiting:
            name, user = waiting.pop(0)
            one = self.definitions.get(name)
            if one is None or name in seen:
                continue
            seen.add(name)
            if name not in self.placed:
                raise BuildError(f"{where}: uses {user}{name} ({one.where}), which comes only later in the notebook")
            self.require_imports(one, one.uses, where)
            waiting += [(other, f"{user}{name} -> ") for other in sorted(one.uses)]

    def place(self, chunks, where):
        """Note that these definitions stand here; refuse what they need at once, or nobody imports later, and have not."""
        for one in chunks:
            self.placed.add(one.name)
            at_once = names_at_once(one.node)
            for name in sorted(at_once & set(self.definitions) - self.placed):
                raise BuildError(f"{where}: {one.name} needs {name} ({self.definitions[name].where}), which comes only later")
            self.require_imports(one, at_once if one.module in self.folds else one.uses, where)
        return join(chunks)

    def write_code(self, part):
        """Return plain code of the text; refuse what it binds otherwise than the package, and what it uses too early."""
        file, _, line = part.where.rpartition(":")
        tree = parse(part.source, file, int(line))
        imported = list(module_imports(tree))
        for node in imported:
            for name, thing, full in bindings(node):
                claim(self.claims, name, f"import of {thing}", f"{file}:{node.lineno}")
                self.bound.add((name, full))
        used, bound = global_names(part.source)
        for name in sorted((bound & self.taken) - {name for node in imported for name, *_ in bindings(node)}):
            raise BuildError(f"{find_line(tree, name, part.where)}: binds {name} anew, {self.claims[name][0]} in {self.claims[name][1]}")
        for name in sorted(used):
            self.require([name], find_line(tree, name, part.where))
        return re.sub(f"^{ALL_IMPORTS}$", lambda _: self.write_imports(), part.source, flags=re.M)

    def write_imports(self):
        """Return what the modules import and no cell has yet imported, each thing once, the standard library first."""
        plain, groups = set(), {}
        for module in self.modules.values():
            for node in (chunk.node for chunk in module.needed_imports()):
                for name, _, full in bindings(node):
                    if (name, full) in self.bound:
                        continue
                    self.bound.add((name, full))
                    if isinstance(node, ast.Import):
                        plain.add(f"import {full}" + f" as {name}" * (name not in (full, full.split(".")[0])))
                    else:
                        alias = full.rsplit(".", 1)[1]
                        groups.setdefault(node.module, set()).add(alias + f" as {name}" * (name != alias))
        lines = sorted(plain) + [f"from {source} import {', '.join(sorted(names))}" for source, names in sorted(groups.items())]
        standard = [line for line in lines if line.split()[1].split(".")[0] in sys.stdlib_module_names]
        single = [line.removeprefix("import ") for line in standard if line.startswith("import ") and " as " not in line]
        together = ["import " + some.rstrip(",") for some in textwrap.wrap(", ".join(single), 120)]  # a dozen to a line
        rest = [line for line in standard if line.removeprefix("import ") not in single]
        self.hoisted = True
        return "\n".join(together + rest + [line for line in lines if line not in standard])

    def write_fold(self, parts):
        """Return a folded cell: title, imports, what is placed again, and the rest of the module."""
        fold = next(part for part in parts if part.kind == "fold")
        extra = [part for part in parts if part is not fold and part.kind != "again" and (part.kind != "code" or part is not parts[0])]
        if extra:
            raise BuildError(f"{extra[0].where}: in the cell that folds {self.modules[fold.module].file} only code may stand, above it")
        module = self.modules[fold.module]
        imports = [] if self.hoisted else module.needed_imports()
        self.bound |= {(name, full) for chunk in imports for name, _, full in bindings(chunk.node)}
        sentence = re.split(r"(?<=[.!?])\s", " ".join(module.document.split()), maxsplit=1)[0].removesuffix(".")
        title = f"# @title {module.file}: {sentence}"
        guard = self.write_code(parts[0]) if parts[0].kind == "code" else ""
        again = [write_again([self.definitions[name] for name in part.names]) for part in parts if part.kind == "again"]
        rest = self.place([one for name, one in module.definitions.items() if name not in self.placing], fold.where)
        return "\n\n\n".join(filter(None, ["\n".join(filter(None, [title, guard, join(imports)])), *again, rest]))

    def write_cell(self, parts):
        """Return the source of a code cell, and what its id begins with if it is not the text's own."""
        shown = [name for part in parts if part.kind == "show" for name in part.names]
        if any(part.kind == "fold" for part in parts):
            name, text = "module-" + next(part.module for part in parts if part.kind == "fold"), self.write_fold(parts)
        else:
            name, text = f"show-{shown[0]}" if shown else "", ""
            for part in parts:
                chunks = [self.definitions[name] for name in part.names]
                source = {"code": lambda: self.write_code(part), "again": lambda: write_again(chunks),
                          "show": lambda: self.place(chunks, part.where)}[part.kind]()
                above = text.rsplit("\n", 1)[-1]  # a comment, such as a title, stays on what it is about
                text += ("\n" if above.startswith("#") else "\n\n\n") * bool(text) + source
        self.placed |= {name for part in parts if part.kind == "again" for name in part.names}
        return name, text


def find_line(tree, name, where):
    """Return `where` with the number of the first line that names `name`."""
    lines = [node.lineno for node in ast.walk(tree) if name in (getattr(node, "id", None), getattr(node, "name", None))]
    file, _, line = where.rpartition(":")
    return f"{file}:{min(lines, default=line)}"


def build(text_path=TEXT, package_path=PACKAGE):
    """Return the notebook as an nbformat node; raise BuildError where it would not mean what the sources mean."""
    book, headings, written = Book(package_path), Headings(), []
    file = "/".join(Path(text_path).parts[-2:])
    cells = [(cell, f"{file}:{line}", split_cell(cell.source, line, file, book.package) if cell.cell_type == "code" else [])
             for cell, line in read_cells(text_path)]
    book.plan([part for _, _, parts in cells for part in parts])
    for cell, where, parts in cells:
        is_code = cell.cell_type == "code"
        name, source = book.write_cell(parts) if is_code else ("", embed_pictures(cell.source, Path(text_path).parent, where))
        tag = "hide-input" if name.startswith("module-") else " ".join(cell.metadata.get("tags", []))
        if tag not in CELL_METADATA or cell.cell_type == "raw":
            raise BuildError(f"{where}: a {cell.cell_type} cell with the tags '{tag}' has no place in the notebook")
        written.append({"cell_type": cell.cell_type, "id": name or headings.name(cell), "metadata": CELL_METADATA[tag],
                        "source": re.sub(r"[ \t]+$", "", source, flags=re.M).strip("\n")})
        if cell.cell_type == "code":
            written[-1] |= {"execution_count": None, "outputs": []}
    node = nbformat.from_dict({"cells": written, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5})
    nbformat.validate(node)
    return node


def render(node):
    """Return the text of the notebook's file, as nbformat writes it."""
    return nbformat.writes(node).rstrip("\n") + "\n"


def main(arguments=None, text_path=TEXT, package_path=PACKAGE):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the committed notebook is stale")
    check, path = parser.parse_args(arguments).check, Path(text_path).with_suffix(".ipynb")
    try:
        wanted = render(build(text_path, package_path)).encode()
    except BuildError as error:
        sys.exit(f"No notebook was built. {error}")
    if not check:
        path.write_bytes(wanted)
    elif not path.exists() or path.read_bytes() != wanted:
        sys.exit(f"{path.name} is not what its sources build: run `make notebook`, and commit what it writes.")


if __name__ == "__main__":
    main()
