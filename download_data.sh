#!/usr/bin/env bash
# Get the chest X-rays into a folder, with the notebook's own functions (its section 1), so the two cannot drift apart.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ] || [ $# -gt 1 ]; then
    cat <<'EOF'
Usage: ./download_data.sh [DIR]

Download the data set paultimothymooney/chest-xray-pneumonia into DIR (default: data/chest_xray), which will hold
train/, val/ and test/ with NORMAL/ and PNEUMONIA/ in each. No account is needed. Sources, in this order: the kaggle
command, Kaggle's public address, the authors' original at Mendeley (which has no val folder).

Nothing happens if DIR is complete. A download that was cut off goes on where it stopped. About 4 GB of disk are needed.
Exit code: 0 only if DIR holds the whole data set.
EOF
    [ $# -le 1 ]
    exit
fi

python=$here/.venv/bin/python
[ -x "$python" ] || python=$(command -v python3) || { echo "download_data.sh: Python 3 is needed." >&2; exit 1; }
exec "$python" - "$here/notebooks" "${1:-$here/data/chest_xray}" <<'EOF'
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import functions

try:
    notebook = functions.load("download_data", "count_images", "ChestXray", "DownloadError")
except ImportError as error:
    sys.exit(f"download_data.sh: {error}. Run `make install` first, or: pip install -r requirements.txt")
folder = Path(sys.argv[2])
whole = notebook.ChestXray.counts, notebook.ChestXray.mendeley_counts
if notebook.count_images(folder) in whole:
    print(f"{folder} is complete: nothing to download.")
    sys.exit()
try:
    notebook.download_data(folder)
except (notebook.DownloadError, OSError) as error:
    sys.exit(f"download_data.sh: {error}")
except KeyboardInterrupt:
    sys.exit("download_data.sh: interrupted; run it again to go on from there.")
print(f"{folder}: {sum(notebook.count_images(folder).values()):,} images, checked.")
EOF
