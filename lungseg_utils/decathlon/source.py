"""Find and parse a dataset.json, whatever it really holds."""

import json
import os
from collections import Counter
from pathlib import Path

from lungseg_utils.runtime import LungsegError, file_error

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
LARGEST_JSON = 50_000_000  # bytes; Task06's has some 6,000
RESTORE = "Restore it from the archive of the dataset"


def find_root(folder: Path, warnings: list[str]) -> Path:
    """Find the folder of dataset.json: `folder`, else the one above, else the only one below."""
    if folder.name == "dataset.json" and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise LungsegError(
            folder,
            "is a file, not a folder" if folder.exists() else "no such folder",
            "Name the folder that holds dataset.json; `lungseg phantom` or `lungseg download` "
            "makes one",
        )
    if os.path.lexists(folder / "dataset.json"):
        return folder
    above = folder.resolve().parent
    is_inner = folder.resolve().name in FOLDERS and (above / "dataset.json").is_file()
    try:
        near = (
            [above] if is_inner else sorted(path.parent for path in folder.glob("*/dataset.json"))
        )
    except OSError as error:
        raise file_error(folder, error) from error
    if len(near) == 1:
        warnings.append(f"{folder}: has no dataset.json; using {near[0]}, which has one")
        return near[0]
    if near:
        raise LungsegError(
            folder,
            f"holds {len(near)} datasets ({', '.join(path.name for path in near[:5])})",
            "Name one of them",
        )
    raise LungsegError(
        folder,
        "has no dataset.json",
        "Name the folder that holds dataset.json, imagesTr and labelsTr",
    )


def read_json(path: Path) -> dict:
    """Parse a dataset.json, byte-order mark or not; a LungsegError names the line at fault."""
    repeated: list[str] = []

    def without_repeats(pairs: list[tuple[str, object]]) -> dict:
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST_JSON else None
    except OSError as error:
        raise file_error(path, error) from error
    if data is None:
        raise LungsegError(
            path, f"has {path.stat().st_size:,} bytes, too many for a dataset.json", RESTORE
        )
    if not data.strip(b" \t\r\n\0\xef\xbb\xbf"):
        raise LungsegError(path, "line 1: is empty", RESTORE)
    try:
        content = json.loads(data, object_pairs_hook=without_repeats)  # bytes: a mark is skipped
    except json.JSONDecodeError as error:
        raise LungsegError(
            path,
            f"line {error.lineno}: malformed JSON: {error.msg.lower()}, column {error.colno}",
            f"Fix that line, or {RESTORE.lower()}",
        ) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LungsegError(
            path, f"line {line}: is not UTF-8 text (byte {error.start:,})", RESTORE
        ) from error
    except RecursionError as error:
        raise LungsegError(
            path, "line 1: brackets are nested too deep for a dataset.json", RESTORE
        ) from error
    except (ValueError, MemoryError) as error:  # a number of thousands of digits, for one
        raise LungsegError(path, f"line 1: cannot be read as JSON: {error}", RESTORE) from error
    if not isinstance(content, dict):
        raise LungsegError(
            path,
            f'line 1: holds a {type(content).__name__}, not an object with "training"',
            RESTORE,
        )
    if repeated:
        raise LungsegError(
            path, f"the key {repeated[0][:60]!r} occurs twice in one object", "Keep one of the two"
        )
    return content
