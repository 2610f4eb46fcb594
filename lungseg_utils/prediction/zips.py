"""Extract a .zip of one DICOM series; like any archive, it is not trusted.

What a member is called never decides where it is written: the files get numbers for names, in one
new folder. Every member is judged before a byte is written.
"""

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from lungseg_utils.decathlon.archive import MOST_MEMBERS
from lungseg_utils.runtime import LungsegError, file_error

MOST_BYTES = 2**34  # four times the largest scan
MOST_RATIO = 100  # deflate makes a tenth of a CT, a thousandth of a bomb
HARMLESS_BYTES = 2**26  # whatever the ratio
BY_HAND = "Unzip it yourself, look at what it holds, and give the folder"
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def extract(archive: Path, folder: Path) -> None:
    """Write the files of `archive` into the new `folder`, called by number and their own name.

    Raises LungsegError, before anything is written, for members with an absolute path or "..",
    links, encryption, for what swells like a bomb or has no room here, and for a damaged archive.
    """
    try:
        if archive.exists() and not archive.is_file():  # a named pipe would never end
            raise LungsegError(archive, "not a regular file", "Give a .zip archive or a folder")
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in _judged(opened, archive) if not _is_junk(member)]
            needed = sum(member.file_size for member in members)
            free = shutil.disk_usage(folder.parent).free
            if needed > free:
                raise LungsegError(
                    folder.parent,
                    f"{needed / 1e6:,.0f} MB are needed to extract {archive.name}, "
                    f"{free / 1e6:,.0f} MB are free",
                    "Free some space, or set TMPDIR to another folder",
                )
            folder.mkdir()
            for number, member in enumerate(members, 1):
                name = re.sub(r"[^\w.-]", "_", member.filename.split("/")[-1], flags=re.ASCII)
                member.filename = f"{number:06d}-{name[-100:]}"  # where `extract` writes it
                opened.extract(member, folder)
    except OSError as error:
        raise file_error(error.filename or folder, error) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        raise LungsegError(
            archive, f"not a whole .zip archive ({error})", "Copy or download it again"
        ) from error


def _judged(opened: zipfile.ZipFile, archive: Path) -> list[zipfile.ZipInfo]:
    """Return the files of an archive; raise LungsegError for one that nobody should extract."""

    def refuse(cause: str) -> LungsegError:
        return LungsegError(archive, f"{cause}; nothing was extracted", BY_HAND)

    members = opened.infolist()
    if len(members) > MOST_MEMBERS:
        raise refuse(f"holds more than {MOST_MEMBERS:,} members")
    for member in members:
        cause = _why_unsafe(member)
        if cause:
            raise refuse(f"its member {member.filename[:200]!r} {cause}")
    size = sum(member.file_size for member in members)
    most = max(HARMLESS_BYTES, MOST_RATIO * archive.stat().st_size)
    if size > min(most, MOST_BYTES):
        raise refuse(f"would swell to {size / 1e6:,.0f} MB, which no scan does")
    return [member for member in members if not member.is_dir()]


def _why_unsafe(member: zipfile.ZipInfo) -> str:
    """Return what is wrong with a member, "" for nothing."""
    name = member.orig_filename.replace("\\", "/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith("/") or ".." in name.split("/") or ":" in name or "\0" in name:
        return "would land outside the target folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link, a device or another thing that is neither file nor folder"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in METHODS:
        return f"is compressed by method {member.compress_type}, which is not read here"
    return "" if member.file_size >= 0 else "has a negative size"


def _is_junk(member: zipfile.ZipInfo) -> bool:
    """Return whether a member is what macOS adds, or hidden."""
    return any(part.startswith((".", "__MACOSX")) for part in member.filename.split("/"))
