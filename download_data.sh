#!/usr/bin/env bash
# Download the chest X-rays: python -m cxr.download, from any folder.
# Kaggle's copy (of version 2) is tried first. Mendeley's version 3 has no val folder,
# other file names, and other NORMAL test images: see "release" in cxr/release.py.
set -eu

fail() {
    echo "download_data.sh: $1" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${PYTHON:-$here/.venv/bin/python}" || command -v python3) ||
    fail "Python 3 is needed."
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
if ! error=$("$python" -c "import cxr.download" 2>&1); then
    advice="Run \`make install\` first, or: pip install -r requirements.txt"
    fail "${error##*$'\n'}. $advice"
fi
# Without a named folder: data/chest_xray of the repository.
case "$*" in "" | --keep-archive) cd "$here" ;; esac
exec "$python" -m cxr.download "$@"
