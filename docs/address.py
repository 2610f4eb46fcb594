"""Find the address of this repository on GitHub, and write it where a link needs it.

    python docs/address.py [ADDRESS]

ADDRESS is https://github.com/OWNER/NAME; without it, git's remote `origin` is asked. It is written
into the first code cell of each notebook that imports something, which installs the package on
Google Colab, and into the README, as badges. Run it once in a fork, and commit what it changed.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GITHUB = re.compile(r"(?:https://|ssh://git@|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")
INSTALLED_FROM = re.compile(r"git\+(ADDRESS|https://github\.com/[\w./-]+)")
BADGES = re.compile(r"(?<=<!-- badges -->\n).*?(?=<!-- end of badges -->)", re.DOTALL)
FIRST = "notebooks/01_explore_data.ipynb"


def find_address(given: str = "") -> str:
    """Return https://github.com/OWNER/NAME of `given`, else of git's `origin`; "" of neither."""
    asked = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    try:
        known = given or subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        known = ""
    found = GITHUB.fullmatch(known)
    return f"https://github.com/{found[1]}" if found else ""


def badges(address: str) -> str:
    """Return the README's badges: the course on Binder, and its first notebook on Colab."""
    name = address.removeprefix("https://github.com/")
    binder = f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/notebooks"
    colab = f"https://colab.research.google.com/github/{name}/blob/main/{FIRST}"
    return (
        f"[![Open the course on Binder](docs/_static/binder.svg)]({binder})\n"
        f"[![Open the first notebook on Google Colab](docs/_static/colab.svg)]({colab})\n"
    )


def write_address(address: str, root: Path = ROOT) -> list[Path]:
    """Write the address into README and notebooks; return the files that changed."""
    changed = []
    for path in (root / "README.md", *sorted((root / "notebooks").glob("0*.ipynb"))):
        before = path.read_text(encoding="utf-8")
        after = INSTALLED_FROM.sub(f"git+{address}", before)
        after = BADGES.sub(badges(address), after)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            changed.append(path)
    return changed


def main() -> None:
    """Read the argument, write the address and print what changed."""
    address = find_address(*sys.argv[1:2])
    if not address:
        sys.exit("error: no address on GitHub. Give it: python docs/address.py ADDRESS")
    for path in write_address(address):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
