#!/usr/bin/env python3
"""Write this repository's address into every place that names it: `make badge REPO=owner/name`, or python tools/badge.py owner/name.

The places: the "Open in Colab" badge of README.md, README.fr.md and of the notebook's text, and `repository-code` in CITATION.cff;
`make badge` then builds the notebook. Nothing else in these files changes. Until an address is set, the badge leads to Colab's own
dialog for opening a notebook, and the words beside it say what to choose there.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, TEXT = "notebooks/chest_xray_pneumonia.ipynb", "notebooks/chest_xray_pneumonia.py"
COLAB = "https://colab.research.google.com"
IMAGE = f"{COLAB}/assets/colab-badge.svg"
LINE = re.compile(r"\[!\[Open In Colab\]\(" + re.escape(IMAGE) + r"\)\]\(([^)]*)\)[^\"\\\n]*")
WORDS = {  # file: the words beside the badge without an address, and with one; no quotation mark, as it stands in JSON too
    "README.md": (f"Choose *Upload*, give it `{NOTEBOOK}`, and press *Runtime → Run all*.", "Press *Runtime → Run all*."),
    "README.fr.md": (f"Choisissez *Importer*, donnez-lui `{NOTEBOOK}`, puis *Exécution → Tout exécuter*.",
                     "Puis *Exécution → Tout exécuter*."),
    TEXT: ("Choose *Upload* there, and give it this notebook.", "Run it on a free GPU, with nothing to install."),
}
CITATION = "CITATION.cff"


def check_repository(text):
    """Return "owner/name" as it is; exit, with advice, if GitHub could have no such repository."""
    owner, name = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){0,38}", r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}(?<!\.git)"
    if not re.fullmatch(f"{owner}/{name}", text):
        sys.exit(f"make badge: REPO must be owner/name, as in the address github.com/owner/name, not {text!r}: "
                 "make badge REPO=owner/name")
    return text


def read_address(text):
    """Return the address that the one badge of a file leads to; exit if there is not exactly one."""
    found = LINE.findall(text)
    if len(found) != 1:
        raise ValueError(f"{len(found)} badges instead of one")
    return found[0]


def write_address(root, repository):
    """Write the address ("owner/name", or None for none) into the files under `root`; return the names of those that changed.

    Raises ValueError, before anything is written, if a file has not exactly one badge.
    """
    address = f"{COLAB}/github/{repository}/blob/main/{NOTEBOOK}" if repository else f"{COLAB}/"
    contents = {}
    for name, words in WORDS.items():
        text = (root / name).read_bytes().decode("utf-8")
        try:
            read_address(text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        line = f"[![Open In Colab]({IMAGE})]({address}) {words[bool(repository)]}"
        contents[name] = text, LINE.sub(lambda _, line=line: line, text)
    text = (root / CITATION).read_bytes().decode("utf-8")
    code = f"repository-code: https://github.com/{repository}\n" if repository else ""
    contents[CITATION] = text, re.sub(r"^repository-code:.*\n", "", text, flags=re.MULTILINE) + code
    changed = [name for name, (old, new) in contents.items() if new != old]
    for name in changed:
        (root / name).write_bytes(contents[name][1].encode("utf-8"))
    return changed


def main():
    repository = check_repository(sys.argv[1] if len(sys.argv) == 2 else "")
    try:
        changed = write_address(ROOT, repository)
    except (OSError, ValueError) as error:
        sys.exit(f"make badge: {error}")
    print(f"The badges lead to {repository} now. Changed: {', '.join(changed) or 'nothing, they did before'}.")


if __name__ == "__main__":
    main()
