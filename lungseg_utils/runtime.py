"""Where things are, how they fail, and what the machine can do: paths, errors, files, seeds, device."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


class LungsegError(Exception):
    """A bad input or a failure that the user can fix: what it concerns, the cause and the remedy."""

    def __init__(self, subject: object, cause: str, remedy: str = ""):
        self.subject = printable(subject)
        self.cause = printable(
            " ".join(cause.rstrip(".").splitlines())
        )  # it may quote hostile input
        self.remedy = remedy[:1].upper() + remedy[1:].rstrip(".")
        text = f"{self.subject}: {self.cause}."
        super().__init__(f"{text} {self.remedy}." if remedy else text)

    def __reduce__(self):  # so that it crosses process borders whole
        return type(self), (self.subject, self.cause, self.remedy)


def printable(text: object) -> str:
    """Show `text` on one line: control characters of a hostile file name are escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in str(text)
    )


def warn(message: str) -> None:
    """Say on standard error that something is odd but goes on."""
    print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def home() -> Path:
    """Give the folder that `data` and `runs` live in: $LUNGSEG_HOME, the repository, or the working directory.

    A clone that cannot be written (a shared, read-only one) falls back to the working directory, and an
    installation without a repository round it does the same.
    """
    if os.environ.get("LUNGSEG_HOME"):
        return Path(os.path.expanduser(os.environ["LUNGSEG_HOME"])).resolve()
    is_clone = (ROOT / "pyproject.toml").is_file() and os.access(ROOT, os.W_OK)
    return ROOT if is_clone else Path.cwd()


def resolve(path: str | Path, default: str) -> Path:
    """Turn a parameter into a path: "" is `default` under `home()`, a relative one counts from there too."""
    chosen = Path(os.path.expanduser(path or default))
    return chosen if chosen.is_absolute() else home() / chosen


# --- files -----------------------------------------------------------------------------------------------------


def require_writable(folder: str | Path) -> Path:
    """Make `folder` and see that it can be written, before any work is done for it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(
            dir=folder
        ):  # without a name where the system can: a kill leaves nothing
            pass
    except OSError as error:
        raise file_error(folder, error, "choose another folder or mend its permissions") from error
    return folder


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: yield a path beside it, flush that to the disk, then rename it.

    The only way in which this package writes results. A run that is killed leaves at most a hidden
    `.partial-…` file, which the next writer of the same file removes.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise LungsegError(path, "a folder or device, no file", "give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        name = _shortened(path.name)
        for stale in path.parent.glob(f".partial-*-{_glob_escape(name)}"):
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
        except (
            Exception
        ):  # torch and safetensors tell of a full disk in words of their own: ask the disk itself
            with open(partial, "ab") as file:
                file.write(bytes(1 << 16))
            raise
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise file_error(path, error) from error


def _shortened(name: str) -> str:
    """Give `name`, or a hash and its end where what a partial file has before it would not fit into 255 bytes."""
    encoded = os.fsencode(name)
    return (
        name
        if len(encoded) <= 220
        else f"{zlib.crc32(encoded):08x}{encoded[-200:].decode(errors='ignore')}"
    )


def _glob_escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _machine() -> str:
    """Give a short name of this machine: several may write to one disk, and know only their own processes."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_left_over(partial: Path) -> bool:
    """Tell whether the writer of `partial` is gone; one that cannot be asked for, if it has not written for a day."""
    pid, _, machine = partial.name.split("-")[1].partition(".")
    if machine in ("", _machine()) and sys.platform != "win32":  # where os.kill would send a Ctrl-C
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
    """Turn an operating-system error about `path` into one that tells the remedy."""
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


def progress(items: Iterable, description: str, total: int | None = None) -> Iterable:
    """Wrap `items` in a progress bar on standard error, shown on a terminal only."""
    from tqdm import tqdm

    return tqdm(items, desc=description, total=total, disable=not sys.stderr.isatty(), leave=False)


# --- machine ---------------------------------------------------------------------------------------------------


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, on every device."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next array: to get it from the kernel anew takes time.

    It changes no number, and where there is another allocator (macOS, Windows, musl) it does nothing.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        for parameter, value in (
            (-1, 2**31 - 1),
            (-2, 2**28),
            (-4, 0),
        ):  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX
            libc.mallopt(parameter, value)


def pick_device(name: str = "auto"):
    """Give the torch device called `name`; "auto" takes a CUDA GPU, then Apple's, then the CPU."""
    import torch

    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
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
    """Tell whether a machine or a device had no memory left: torch has an error of its own for CUDA's only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(w in str(error) for w in words)
    )


def pick_precision(device):
    """Give the fastest dtype that the hardware really has: bfloat16, else float32.

    bfloat16 in emulation is slower than float32, so the processor is asked, never assumed.
    """
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):  # of several GPUs each may be another
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        has_bf16 = False
    return torch.bfloat16 if has_bf16 else torch.float32
