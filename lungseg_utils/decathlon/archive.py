"""Extract a tar safely: the only extractor of this package, and one that trusts no archive.

Python's own filters of tarfile have been got round (CVE-2025-4517 and its kin), so tarfile only
lists here. Every member is judged before a byte is written, and the files are then written by this
module, never by tarfile.
"""

import os
import shutil
import tarfile
import unicodedata
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import IO, cast

from lungseg_utils.runtime import LungsegError, file_error, printable, progress

MOST_MEMBERS = 200_000
LONGEST_NAME = 1000  # characters, of a member with its folders
BLOCK = 512  # bytes, the unit of a tar
AGAIN = "Delete it and download it again"


def extract(archive: Path, folder: Path) -> Path:
    """Unpack `archive`, a plain tar of one dataset, into the new `folder`.

    Returns the folder of its dataset.json. Raises LungsegError, before anything is written, for
    members that are not regular files or folders inside `folder`, for set-user-id bits and
    duplicates, for a cut or damaged tar and for one that has no room here. Members that macOS adds
    (`._*`, `.DS_Store`) are left out.
    """
    try:
        with tarfile.open(archive, "r:") as tar:  # uncompressed only: nothing in it can swell
            members = judge(tar, archive)
            needed = sum(member.size for member in members.values())
            free = shutil.disk_usage(folder.parent).free
            if needed > free:
                raise LungsegError(
                    folder.parent,
                    f"{needed / 1e6:,.0f} MB are needed to extract {archive.name}, "
                    f"{free / 1e6:,.0f} MB are free",
                    "Free some space or choose another folder",
                )
            folder.mkdir()
            for name, member in progress(members.items(), f"extracting {archive.name}"):
                _write(tar, member, folder / name)
    except OSError as error:
        raise file_error(getattr(error, "filename", None) or folder, error) from error
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise LungsegError(
            archive, f"is not a whole, plain tar archive ({error})", AGAIN
        ) from error
    return folder / (_top(members) or "")


def judge(tar: tarfile.TarFile, archive: Path) -> dict[str, tarfile.TarInfo]:
    """Check every member of a tar; return the files to write, by their path inside the target."""

    def refuse(cause: str) -> LungsegError:
        return LungsegError(archive, printable(f"{cause}; nothing was extracted"), AGAIN)

    files: dict[str, tarfile.TarInfo] = {}
    is_folder: dict[str, bool] = {}  # by path, as a careless file system sees it
    size = archive.stat().st_size
    end = 0
    for count, member in enumerate(tar, 1):
        shown = f"its member {member.name[:200]!r}"
        name = _inside(member.name)
        cause = _why_unsafe(member, name)
        if count > MOST_MEMBERS:
            raise refuse(f"holds more than {MOST_MEMBERS:,} members")
        if name is None or cause:
            raise refuse(f"{shown} {cause}")
        blocks = -(-member.size // BLOCK) if member.isreg() else 0
        end = max(end, member.offset_data + blocks * BLOCK)
        if member.size < 0 or end > size:
            raise refuse(
                f"{shown} claims {member.size:,} bytes, more than the archive holds: cut or forged"
            )
        key = unicodedata.normalize("NFC", name).casefold()
        if key in is_folder and not (is_folder[key] and member.isdir()):
            raise refuse(f"{shown} is there twice")
        is_folder[key] = member.isdir()
        is_of_macos = name.rsplit("/", 1)[-1].startswith("._") or name.endswith(".DS_Store")
        if member.isreg() and not is_of_macos:
            files[name] = member
    for path in is_folder:
        parents = accumulate(path.split("/")[:-1], "{}/{}".format)
        if not all(is_folder.get(parent, True) for parent in parents):
            raise refuse(f"its member {path[:200]!r} lies inside a file")
    tar.fileobj.seek(end)  # tarfile takes a damaged header for the end
    if tar.fileobj.read(BLOCK).strip(b"\0") or end + BLOCK > size:
        raise refuse("is cut, or damaged after its last readable member")
    if _top(files) is None:
        raise refuse("holds no dataset.json: not a dataset in Decathlon layout")
    return files


def _why_unsafe(member: tarfile.TarInfo, name: str | None) -> str:
    """Return what is wrong with a member by itself, "" for nothing; `name` is its path inside."""
    if len(member.name) > LONGEST_NAME or any(
        len(os.fsencode(part)) > 255 for part in member.name.split("/")
    ):
        return "has a longer name than a file system takes"
    if name is None:
        return "would land outside the target folder"
    if member.isreg() and name == "":
        return "is a file without a name"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "is a link, a device or another thing that is neither file nor folder"
    return "asks for set-user-id or the like" if member.mode & 0o7000 else ""


def _inside(name: str) -> str | None:
    """Return a member's path relative to the target, None where it leads out on any system."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unsafe = (
        name.startswith("/")
        or ".." in parts
        or any(c in "\\:" or not c.isprintable() for c in name)
    )
    return None if unsafe or any(part != part.rstrip(". ") for part in parts) else "/".join(parts)


def _top(names: Iterable[str]) -> str | None:
    """Return the outermost folder of a dataset.json, None where it lies too deep or nowhere."""
    found = [name for name in names if name.split("/")[-1] == "dataset.json"]
    top = min(found, key=len, default="//").removesuffix("dataset.json")
    return top if top.count("/") <= 1 else None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = cast("IO[bytes]", tar.extractfile(member))  # None for folders alone
    with source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
