#!/usr/bin/env bash
# Get the chest X-rays into a folder: python -m cxr.download, from any folder. Kaggle's copy (of version 2) is tried first. Mendeley's
# version 3 has no val folder, other file names and other films among the healthy of test: see "release" in cxr/release.py.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${PYTHON:-$here/.venv/bin/python}" || command -v python3) || { echo "download_data.sh: Python 3 is needed." >&2; exit 1; }
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
lacks=$("$python" -c "import cxr.download" 2>&1) ||
    { echo "download_data.sh: ${lacks##*$'\n'}. Run \`make install\` first, or: pip install -r requirements.txt" >&2; exit 1; }
case "$*" in "" | --keep-archive) cd "$here" ;; esac  # no folder is named: data/chest_xray of the repository
exec "$python" -m cxr.download "$@"
