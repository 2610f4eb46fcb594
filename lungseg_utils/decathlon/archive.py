"""Extract a tar safely: the only extractor of this package, and one that takes every archive for a hostile one.

Python's own filters of tarfile have been got round (CVE-2025-4517 and its kin), so tarfile only lists here. Every
member is judged before a byte is written, and the files are then written by this module, never by tarfile.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import unicodedata
from itertools import accumulate
from pathlib import Path

from lungseg_utils import runtime
from lungseg_utils.runtime import LungsegError

MOST_MEMBERS = 200_000
LONGEST_NAME = 1000  # characters, of a member with its folders
BLOCK = 512  # bytes, the unit of a tar
AGAIN = "delete it and download it again"


def extract(archive: Path, folder: Path) -> Path:
    """Unpack `archive`, a plain tar of one dataset, into the new `folder` and give the folder of its dataset.json.

    Raises LungsegError, before anything is written, for members that are not regular files or folders inside
    `folder`, for set-user-id bits and duplicates, for a cut or damaged tar and for one that has no room here.
    Members that macOS adds (`._*`, `.DS_Store`) are left out.
    """
    try:
        with tarfile.open(archive, "r:") as tar:  # uncompressed only: nothing in it can swell
            members = judge(tar, archive)
            needed, free = (
                sum(member.size for member in members.values()),
                shutil.disk_usage(folder.parent).free,
            )
            if needed > free:
                raise LungsegError(
                    folder.parent,
                    f"{needed / 1e6:,.0f} MB are needed to extract {archive.name}, "
                    f"{free / 1e6:,.0f} MB are free",
                    "free some space or choose another folder",
                )
            folder.mkdir()
            for name, member in runtime.progress(members.items(), f"extracting {archive.name}"):
                _write(tar, member, folder / name)
    except OSError as error:
        raise runtime.file_error(getattr(error, "filename", None) or folder, error) from error
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
    return folder / _top(members)


def judge(tar: tarfile.TarFile, archive: Path) -> dict[str, tarfile.TarInfo]:
    """Check every member of a tar and give the files to write, by their path inside the target."""

    def refuse(cause: str) -> LungsegError:
        return LungsegError(archive, runtime.printable(f"{cause}; nothing was extracted"), AGAIN)

    files: dict[str, tarfile.TarInfo] = {}
    kinds: dict[str, bool] = {}  # path as a careless file system sees it -> is it a folder
    size, end = archive.stat().st_size, 0
    for count, member in enumerate(tar, 1):
        shown = repr(member.name[:200])
        name = _inside(member.name)
        if count > MOST_MEMBERS:
            raise refuse(f"holds more than {MOST_MEMBERS:,} members")
        if len(member.name) > LONGEST_NAME or any(
            len(os.fsencode(part)) > 255 for part in member.name.split("/")
        ):
            raise refuse(f"its member {shown} has a longer name than a file system takes")
        if member.isreg() and name == "":
            raise refuse(f"its member {shown} is a file without a name")
        if name is None:
            raise refuse(f"its member {shown} would land outside the target folder")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise refuse(
                f"its member {shown} is a link, a device or another thing that is neither file nor folder"
            )
        if member.mode & 0o7000:
            raise refuse(f"its member {shown} asks for set-user-id or the like")
        end = max(
            end, member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
        )
        if member.size < 0 or end > size:
            raise refuse(
                f"its member {shown} claims {member.size:,} bytes, more than the archive holds: cut or forged"
            )
        key = unicodedata.normalize("NFC", name).casefold()
        if key in kinds and not (kinds[key] and member.isdir()):
            raise refuse(f"its member {shown} is there twice")
        kinds[key] = member.isdir()
        if (
            member.isreg()
            and not name.rsplit("/", 1)[-1].startswith("._")
            and not name.endswith(".DS_Store")
        ):
            files[name] = member
    for path in kinds:
        parents = accumulate(path.split("/")[:-1], "{}/{}".format)
        if not all(kinds.get(parent, True) for parent in parents):
            raise refuse(f"its member {path[:200]!r} lies inside a file")
    tar.fileobj.seek(end)
    if (
        tar.fileobj.read(BLOCK).strip(b"\0") or end + BLOCK > size
    ):  # tarfile takes a damaged header for the end
        raise refuse("is cut, or damaged after its last readable member")
    if _top(files) is None:
        raise refuse("holds no dataset.json: not a dataset in Decathlon layout")
    return files


def _inside(name: str) -> str | None:
    """Give the path of a member relative to the target, or None where it leads out of it on any system."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    unsafe = (
        name.startswith("/")
        or ".." in parts
        or any(c in "\\:" or not c.isprintable() for c in name)
    )
    return None if unsafe or any(part != part.rstrip(". ") for part in parts) else "/".join(parts)


def _top(names) -> str | None:
    tops = [
        name.removesuffix("dataset.json") for name in names if name.split("/")[-1] == "dataset.json"
    ]
    return min(tops, key=len) if tops and min(tops, key=len).count("/") <= 1 else None


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tar.extractfile(member) as source, open(path, "xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    if path.stat().st_size != member.size:
        raise tarfile.ReadError(
            f"{path.name} has {path.stat().st_size:,} bytes, not {member.size:,}"
        )
