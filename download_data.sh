#!/usr/bin/env bash
# Get the chest X-rays into a folder, with the notebook's own functions (its section 1), so the two cannot drift apart.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=$(command -v "${PYTHON:-$here/.venv/bin/python}" || command -v python3) || { echo "download_data.sh: Python 3 is needed." >&2; exit 1; }
exec "$python" - "$here" "$@" <<'PYTHON'
import argparse
import sys
from pathlib import Path

here = Path(sys.argv.pop(1))
parser = argparse.ArgumentParser("download_data.sh", usage="./download_data.sh [--keep-archive] [DIR]", description=(
    "Download the data set paultimothymooney/chest-xray-pneumonia into DIR, which will hold train/, val/ and test/ with NORMAL/ and "
    "PNEUMONIA/ in each. No account is needed. Sources, in this order: the kaggle command, Kaggle's public address, the authors' "
    "original at Mendeley (which has no val folder). Nothing happens if DIR is complete; a download that was cut off goes on where it "
    "stopped. About 4 GB of disk are needed."), epilog="Exit code: 0 only if DIR holds the whole, checked data set.",
    allow_abbrev=False)
parser.add_argument("DIR", nargs="?", type=Path, default=here / "data" / "chest_xray", help="default: data/chest_xray")
parser.add_argument("--keep-archive", action="store_true", help="keep the zip beside DIR (2.5 GB), where the next download finds it")
arguments = parser.parse_args()
folder = arguments.DIR.absolute()

sys.path.insert(0, str(here / "notebooks"))
import functions

try:
    notebook = functions.load("download_data", "is_whole", "count_images", "DownloadError", "StorageError")
except ImportError as error:
    sys.exit(f"download_data.sh: {error}. Run `make install` first, or: pip install -r requirements.txt")
if notebook.is_whole(folder):
    print(f"{folder} is complete: nothing to download.")
    sys.exit()
try:
    notebook.download_data(folder, arguments.keep_archive)
except (notebook.DownloadError, notebook.StorageError) as error:
    sys.exit(f"download_data.sh: {error}.")
except KeyboardInterrupt:
    sys.exit("\ndownload_data.sh: interrupted; run it again to go on from there.")
print(f"{folder}: {sum(notebook.count_images(folder).values()):,} images, checked.")
PYTHON
