"""Find the address of this repository on GitHub; `make address` writes it where it stands."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = re.compile(r"(?:https://|ssh://git@|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")
BADGE = re.compile(r"mybinder\.org/v2/gh/([\w.-]+/[\w.-]+)/HEAD")  # the README's: as all have it
FILES = ("README.md", "notebooks/0*.ipynb")  # OWNER/NAME stands there until it is known


def find_address(root: Path = ROOT) -> str:
    """Return https://github.com/OWNER/NAME of git's `origin`; "" where it is none."""
    asked = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        known = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        known = ""
    found = GITHUB.fullmatch(known)
    return f"https://github.com/{found[1]}" if found else ""


def write_address(root: Path = ROOT) -> list[Path]:
    """Write this repository's OWNER/NAME into badges, commands and cells; return what changed."""
    name = find_address(root).removeprefix("https://github.com/")
    if not name:
        sys.exit("error: git's origin is not on GitHub. Set it with `git remote`.")
    before = BADGE.search((root / "README.md").read_text(encoding="utf-8"))[1]
    changed = []
    for path in (path for kind in FILES for path in sorted(root.glob(kind))):
        text = path.read_text(encoding="utf-8")
        if before != name and before in text:
            path.write_text(text.replace(before, name), encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


if __name__ == "__main__":
    print(*(path.name for path in write_address()), sep="\n")
