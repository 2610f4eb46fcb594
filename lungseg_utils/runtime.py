"""Where things are, how they fail, and what the machine can do: paths, errors, files, device."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
COPY = ".lungseg"  # the file that makes a folder a copy of the course
WARNINGS: ContextVar[list[str]] = ContextVar("WARNINGS")  # where somebody collects this thread's
NO_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


class LungsegError(Exception):
    """A bad input or a failure that the user can fix: what it concerns, the cause and the remedy.

    The cause is made one line, as it may quote hostile input. The remedy begins with a capital.
    """

    def __init__(self, subject: object, cause: str, remedy: str = "") -> None:
        self.subject = printable(subject)
        self.cause = printable(" ".join(cause.rstrip(".").splitlines()))
        self.remedy = remedy[:1].upper() + remedy[1:].rstrip(".")
        end = "" if self.cause.endswith("?") else "."
        text = f"{self.subject}: {self.cause}{end}"
        super().__init__(f"{text} {self.remedy}." if remedy else text)

    def __reduce__(self) -> tuple:  # so that it crosses process borders whole
        return type(self), (self.subject, self.cause, self.remedy)


def printable(text: object) -> str:
    """Return `text` on one line: control characters of a hostile file name are escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in str(text)
    )


def warn(message: str) -> None:
    """Print a warning on standard error, above any progress bar; `WARNINGS` may collect it."""
    WARNINGS.get([]).append(printable(message))
    with tqdm.external_write_mode(file=sys.stderr):
        print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def progress(items: Iterable, description: str, total: int | None = None) -> tqdm:
    """Wrap `items` in a progress bar on standard error, shown on a terminal only."""
    bar = tqdm(items, desc=description, total=total, disable=not sys.stderr.isatty(), leave=False)
    if getattr(bar, "ncols", 80) == -1:  # as of a terminal of size 0 × 0, which does not know it
        bar.ncols, bar.nrows = 80, 24
    return bar


# --- files ----------------------------------------------------------------------------------------


def home() -> Path:
    """Return the folder of `data` and `runs`: $LUNGSEG_HOME, a copy of the course, or the clone.

    The working directory serves where there is no clone, or where it cannot be written.
    """
    if os.environ.get("LUNGSEG_HOME"):
        return Path(os.path.expanduser(os.environ["LUNGSEG_HOME"])).resolve()
    is_clone = (ROOT / "pyproject.toml").is_file() and os.access(ROOT, os.W_OK)
    copies = [p for p in (Path.cwd(), *Path.cwd().parents) if os.path.isfile(p / COPY)]
    return copies[0] if copies else ROOT if is_clone else Path.cwd()


def resolve(path: str | Path, default: str) -> Path:
    """Resolve a path parameter against `home()`; an empty one means `default`."""
    chosen = Path(os.path.expanduser(path or default))
    return chosen if chosen.is_absolute() else home() / chosen


def require_writable(folder: str | Path) -> Path:
    """Make `folder` and check that it can be written, before any work is done for it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # has no name on most systems: a kill leaves none
            pass
    except OSError as error:
        raise file_error(folder, error, "choose another folder or fix its permissions") from error
    return folder


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: yield a path beside it, flush that to disk, rename it.

    The only way in which this package writes results. A run that is killed leaves at most a hidden
    `.partial-…` file, which the next writer of the same file removes.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise LungsegError(path, "a folder or device, no file", "give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        name = _shorten(path.name)
        for stale in path.parent.glob(f".partial-*-{glob.escape(name)}"):
            if _is_left_over(stale):
                stale.unlink(missing_ok=True)
        partial = path.parent / f".partial-{os.getpid()}.{_machine()}-{name}"
        try:
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, LungsegError):
            raise
        except Exception:
            # torch and safetensors report a full disk in words of their own: ask the disk itself
            with open(partial, "ab") as file:
                file.write(bytes(1 << 16))
            raise
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(path, error) from error


def _shorten(name: str) -> str:
    """Return `name`, or its hash and end where no prefix would fit with it into 255 bytes."""
    encoded = os.fsencode(name)
    if len(encoded) <= 220:
        return name
    return f"{zlib.crc32(encoded):08x}{encoded[-200:].decode(errors='ignore')}"


def _machine() -> str:
    """Return a short name of this machine: several may write to one disk."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_left_over(partial: Path) -> bool:
    """Return whether the writer of `partial` has ended; on another machine, after a silent day."""
    pid, _, machine = partial.name.split("-")[1].partition(".")
    if machine in ("", _machine()) and sys.platform != "win32":  # where os.kill sends a Ctrl-C
        return not _is_running(pid)
    with contextlib.suppress(OSError):
        return time.time() - partial.stat().st_mtime > 86400
    return False


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:
        pass  # another user's process
    return True


def file_error(path: str | Path, error: OSError, remedy: str = "") -> LungsegError:
    """Turn an operating-system error about `path` into one that names the remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        existing = next((p for p in Path(path).absolute().parents if p.exists()), Path("/"))
        free_mb = shutil.disk_usage(existing).free / 1e6
        return LungsegError(
            path,
            f"no room to write it ({free_mb:,.0f} MB free on this disk, or a quota is reached)",
            "free some space or choose another folder",
        )
    return LungsegError(
        path, (error.strerror or str(error)).lower(), remedy or "check the path and its permissions"
    )


# --- machine --------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, on every device."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def pick_device(name: str = "auto") -> torch.device:
    """Return the torch device `name`; "auto" takes a CUDA GPU, then Apple's, then the CPU."""
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind in available if available[kind])
    kind = name.split(":")[0]
    if kind not in available:
        raise LungsegError("device", f"unknown device {name!r}", "use one of auto, cpu, cuda, mps")
    if not available[kind]:
        raise LungsegError(
            "device", f"{name!r} is not available on this machine", "use device='cpu' or 'auto'"
        )
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LungsegError(
            "device",
            f"{name!r}: this machine has {torch.cuda.device_count()} GPUs, counted from 0",
            "use device='cuda' or 'auto'",
        )
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a machine or device had no memory left: torch has a class for CUDA's only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    is_worded = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return is_worded or isinstance(error, MemoryError)


def pick_precision(device: torch.device) -> torch.dtype:
    """Return the fastest dtype that the hardware really has: bfloat16, else float32.

    bfloat16 in emulation is slower than float32, so the processor is asked, and oneDNN's limit.
    """
    import torch

    has_bf16 = False
    if device.type == "cuda":
        with torch.cuda.device(device):  # of several GPUs each may be another
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in NO_BF16:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32
