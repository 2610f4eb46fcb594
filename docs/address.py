"""Find the address of this repository on GitHub, for the site's links to it."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = re.compile(r"(?:https://|ssh://git@|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")


def find_address() -> str:
    """Return https://github.com/OWNER/NAME of git's `origin`; "" where it is none."""
    asked = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    try:
        known = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        known = ""
    found = GITHUB.fullmatch(known)
    return f"https://github.com/{found[1]}" if found else ""
