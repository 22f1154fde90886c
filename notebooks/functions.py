"""The notebook's functions as Python objects: `load("read_image", "score")`.

The notebook is the only source of its code. Scripts and tests reach a function by its name: its cell is parsed with `ast`,
and it is executed with just the imports, functions and classes that it needs. Nothing else of the notebook runs.
"""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

NOTEBOOK = Path(__file__).with_name("chest_xray_pneumonia.ipynb")


def read_cells(notebook=NOTEBOOK):
    """Return the code cells of a notebook as (tags, source)."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    return [(cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in cells if cell["cell_type"] == "code"]


def read_settings(notebook=NOTEBOOK):
    """Return the defaults in the cell tagged "parameters" as a dict."""
    source = next(source for tags, source in read_cells(notebook) if "parameters" in tags)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def find_definitions(notebook=NOTEBOOK):
    """Return {name: AST node} of every import, function and class at the top level of a cell (or of its `with` blocks)."""
    definitions = {}
    for _, source in read_cells(notebook):
        statements = ast.parse(source).body
        statements += [inner for node in statements if isinstance(node, ast.With) for inner in node.body]
        for node in statements:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                definitions[node.name] = node
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    single = ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], node.level)
                    definitions[alias.asname or alias.name.split(".")[0]] = ast.copy_location(single, node)
                    if alias.name.startswith("urllib."):  # both submodules bind the same name
                        definitions[alias.name] = definitions.pop("urllib")
    return definitions


def load(*wanted, notebook=NOTEBOOK):
    """Execute the named functions or classes, with all that they need; return them as attributes of one object.

    With no name, everything is loaded. Raises KeyError for a name that the notebook does not define.
    """
    definitions = find_definitions(notebook)
    needed, waiting = [], list(wanted or definitions)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.append(name)
        used = {inner.id for inner in ast.walk(definitions[name]) if isinstance(inner, ast.Name)}
        waiting += [other for other in definitions if other.split(".")[0] in used]
    module = ast.Module([node for name, node in definitions.items() if name in needed], [])
    module.body.sort(key=lambda node: not isinstance(node, (ast.Import, ast.ImportFrom)))
    namespace = {"__name__": "notebook"}
    exec(compile(ast.fix_missing_locations(module), str(notebook), "exec"), namespace)
    return SimpleNamespace(**{name: value for name, value in namespace.items() if not name.startswith("__")})
