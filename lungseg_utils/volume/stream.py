"""The bytes of a file, plain or gzipped by content, in order and never more than asked for."""

from __future__ import annotations

import stat
from pathlib import Path

from isal import igzip_lib

from lungseg_utils.runtime import LungsegError, file_error, warn

CHUNK = 1 << 20
TAIL = 1 << 16  # bytes after the last voxel that are ignored with a warning; more are an error
GZIP = b"\x1f\x8b"
AGAIN = "Copy or download it again"
NIFTI_NEEDED = "Give a .nii or .nii.gz file"
LOOKS_LIKE = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive",
    b"\x89HDF": "an HDF5 file",
    b"NRRD": "an NRRD file",
    b"\x93NUMPY": "a NumPy array",
    b"ObjectType": "a MetaImage header",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
}


def describe(start: bytes) -> str:
    """Describe what a file that begins with `start` looks like."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page"
    if start[128:132] == b"DICM":
        return "a single DICOM file (give a scan as the folder of its series; import an outline)"
    for magic, name in LOOKS_LIKE.items():
        if start.startswith(magic):
            return name
    if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        return "a text file"
    return "zeros only" if not any(start) else "unknown binary data"


class Stream:
    """A regular file, read from its start to its end.

    What is gzipped is inflated with isal, which checks the checksum.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise LungsegError(path, "a folder, where a NIfTI file is needed", NIFTI_NEEDED)
            if not stat.S_ISREG(status.st_mode):
                raise LungsegError(path, "not a regular file", NIFTI_NEEDED)
            if status.st_size == 0:
                raise LungsegError(path, "empty (0 bytes)", AGAIN)
            self.file = path.open("rb")
        except (FileNotFoundError, ValueError) as error:  # ValueError: a NUL in the name
            cause = "a link to a file that is not there" if path.is_symlink() else "no such file"
            raise LungsegError(path, cause, "Check the path") from error
        except OSError as error:
            raise file_error(path, error) from error
        self.size = status.st_size
        self.gzipped = self.file.read(2) == GZIP
        self.file.seek(0)
        self.decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        self.position = 0  # bytes of content, inflated, that were handed out
        self.junk = 0  # bytes after the last gzip member
        self.cut = False  # a gzip member ended too soon

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.file.close()
        if isinstance(error, OSError):
            raise file_error(self.path, error) from error
        if isinstance(error, MemoryError):
            raise LungsegError(
                self.path, "does not fit in memory", "Use a machine with more of it"
            ) from error

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, or fewer where the content ends."""
        content = bytearray()
        while len(content) < count:
            missing = count - len(content)
            piece = self._inflate(missing) if self.gzipped else self.file.read(missing)
            if not piece:
                break
            content += piece
        self.position += len(content)
        return bytes(content)

    def fill(self, buffer: memoryview, expected: int) -> None:
        """Fill `buffer` from the content, or raise where that ends too soon.

        `expected` is the whole number of bytes that the header asks for.
        """
        done = 0
        while done < len(buffer):
            if self.gzipped:
                piece = self._inflate(min(CHUNK, len(buffer) - done))
                count = len(piece)
                buffer[done : done + count] = piece
            else:
                count = self.file.readinto(buffer[done:])
            done += count
            self.position += count
            if not count:
                raise self.truncated(expected)

    def finish(self) -> None:
        """Check that the content ends here and, if gzipped, that its checksum holds."""
        end = self.position
        surplus = len(self.read(TAIL + 1))
        if surplus > TAIL:
            raise LungsegError(
                self.path,
                f"goes on after its last voxel (byte {end:,}): the header does not fit the data",
                AGAIN,
            )
        if self.cut:
            raise self.truncated(end)
        if surplus or self.junk:
            warn(f"{self.path}: {surplus + self.junk:,} bytes after the last voxel are ignored")

    def truncated(self, expected: int) -> LungsegError:
        """Return the error of a content that ends before its `expected` bytes."""
        got = f"{self.position:,}" if self.position < expected else "no closing checksum"
        return LungsegError(self.path, f"truncated: expected {expected:,} bytes, got {got}", AGAIN)

    def _inflate(self, count: int) -> bytes:
        """Return up to `count` inflated bytes; none where the content ends."""
        while True:
            data = b""
            if self.decoder.eof:  # another gzip member may follow; anything else is junk
                data = self.decoder.unused_data or self.file.read(CHUNK)
                if not data.startswith(GZIP):
                    self.junk += len(data.strip(b"\0"))
                    return b""
                self.decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
            elif self.decoder.needs_input:
                data = self.file.read(CHUNK)
                if not data:
                    self.cut = True
                    return b""
            try:
                piece = self.decoder.decompress(data, count)
            # the stub calls this class an instance
            except igzip_lib.IsalError as error:  # type: ignore[misc]
                raise LungsegError(
                    self.path, f"damaged: the gzip data do not hold together ({error})", AGAIN
                ) from error
            if piece:
                return piece
