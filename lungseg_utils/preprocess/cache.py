"""Prepared scans on disk: made once, memory-mapped, made again when what they depend on changes."""

import errno
import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from lungseg_utils import volume
from lungseg_utils.decathlon import Case
from lungseg_utils.on_ray import work_on_ray
from lungseg_utils.preprocess.lungs import MARGIN_MM
from lungseg_utils.preprocess.prepared import CLIP_HU, Prepared, prepare
from lungseg_utils.runtime import (
    LungsegError,
    file_error,
    home,
    progress,
    require_writable,
    warn,
    writing,
)

CACHE_VERSION = 6  # raise it whenever preparing the same scan results in other voxels


def prepare_cases(
    cases: Sequence[Case],
    *,
    spacing_mm: float = 3.0,
    folder: str | Path | None = None,
    workers: int = 2,
    ray: bool = False,
) -> list[Prepared]:
    """Prepare `cases` through the cache under `folder` (default `data/processed`), memory-mapped.

    A case is one of a set, or anything else that names its `id`, `image` and `label`.
    A file of the cache is named by the case and a hash of its content; its folder by a hash of the
    parameters. Files that are damaged or belong to an earlier version of the scan are made again,
    with a warning. Sets whose cases have the same names share the folder: each file knows where its
    scan and its label lie. With `ray` the workers of a Ray cluster prepare what is missing first.
    """
    key = _digest(json.dumps([CACHE_VERSION, float(spacing_mm), CLIP_HU, MARGIN_MM]).encode())
    folder = require_writable(Path(folder or home() / "data" / "processed") / key)
    prepare_one = CachedPreparation(folder.absolute(), float(spacing_mm))
    if ray:
        _prepare_on_ray(cases, prepare_one)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        prepared = list(progress(pool.map(prepare_one, cases), "preparing scans", total=len(cases)))
    if prepare_one.changed:
        names = sorted(set(prepare_one.changed))
        listed = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        warn(f"{listed}: the scan or its label has changed; prepared again")
    return prepared


class CachedPreparation:
    """Prepare one case, or read it from `folder`; `changed` are those that had been another."""

    def __init__(self, folder: Path, spacing_mm: float):
        self.folder = folder
        self.spacing_mm = spacing_mm
        self.changed: list[str] = []

    def __call__(self, case: Case) -> Prepared:
        """Return `case`, memory-mapped."""
        sources = [path for path in (case.image, case.label) if path]
        is_crop = getattr(case, "is_crop", False)
        try:
            digest = _digest(*(path.read_bytes() for path in sources))
        except OSError as error:
            raise file_error(error.filename or case.image, error) from error
        name = f"{case.id}-{digest}{'-crop' if is_crop else ''}.safetensors"
        path = self.folder / name
        if path.exists():
            prepared = load(path)
            if prepared is not None:
                return prepared
            warn(f"{path}: damaged; prepared again")
        if _remove_stale(path, case.id, sources):
            self.changed.append(case.id)
        scan = replace(volume.read(case.image), name=case.id)
        label = volume.read_label(case.label, like=scan) if case.label else None
        prepared = prepare(scan, label=label, spacing_mm=self.spacing_mm, is_crop=is_crop)
        save(path, prepared, sources)
        return load(path) or prepared


def _prepare_on_ray(cases: Sequence[Case], prepare_one: CachedPreparation) -> None:
    """Fill the cache by the workers of a Ray cluster; raise the failures as one error."""

    def begin() -> Callable[[Case], str]:
        return lambda case: prepare_one(case).name  # the arrays stay in the cache

    largest_first = sorted(
        cases,
        key=lambda case: case.image.stat().st_size if case.image.is_file() else 0,
        reverse=True,
    )
    results = progress(work_on_ray(largest_first, begin), "preparing scans", total=len(cases))
    failures = {
        case.id: str(outcome) or "each process that prepared it died"
        for case, outcome in results
        if isinstance(outcome, Exception)
    }
    if failures:
        causes = "; ".join(f"{name}: {cause}" for name, cause in sorted(failures.items()))
        raise LungsegError(f"{len(failures)} of {len(cases)} scans", causes)


def _remove_stale(path: Path, case_id: str, sources: Sequence[Path]) -> bool:
    """Remove earlier versions of this case from the cache; return whether there were any."""
    found = False
    for other in path.parent.glob(f"{glob.escape(case_id)}-*.safetensors"):
        is_of_case = other != path and len(other.name) == len(path.name)
        if is_of_case and _sources_of(other) == _resolved(sources):
            other.unlink(missing_ok=True)
            found = True
    return found


def save(path: Path, prepared: Prepared, sources: Sequence[Path] = ()) -> None:
    """Write one prepared scan whole: plain tensors and a line of JSON, nothing executable."""
    arrays = {name: getattr(prepared, name) for name in ("hu", "region", "lungs", "label")}
    facts = {
        "name": prepared.name,
        "box": [[side.start, side.stop] for side in prepared.box],
        "spacing_mm": prepared.spacing_mm,
        "sources": _resolved(sources),
        "is_crop": prepared.is_crop,
    }
    stored = {name: np.ascontiguousarray(part) for name, part in arrays.items() if part is not None}
    # not save_file, which leaves a file of another name behind when it is killed
    content = to_bytes(stored, {"facts": json.dumps(facts)})
    with writing(path) as partial:
        partial.write_bytes(content)


def load(path: Path) -> Prepared | None:
    """Map a file of the cache into memory in one piece, one open file a case; None if damaged."""
    try:
        content = np.memmap(path, np.uint8, "r")
        with safe_open(path, framework="numpy") as file:  # checks the header and the sizes
            facts = json.loads(file.metadata()["facts"])
        arrays = _map_arrays(content)
        return Prepared(
            name=facts["name"],
            hu=arrays["hu"],
            region=arrays["region"],
            lungs=arrays["lungs"],
            label=arrays.get("label"),
            box=tuple(slice(*side) for side in facts["box"]),  # type: ignore[arg-type]
            spacing_mm=tuple(facts["spacing_mm"]),
            is_crop=facts.get("is_crop", False),
        )
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # the file is sound, too many are open
            raise file_error(path, error, "Allow more open files: ulimit -n 4096") from error
        return None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _map_arrays(content: np.ndarray) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file (uint8, as mapped) without copying them."""
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8:start].tobytes())
    header.pop("__metadata__")
    dtypes = {"I16": np.int16, "U8": np.uint8}
    arrays = {}
    for name, tensor in header.items():
        first, last = tensor["data_offsets"]
        values = content[start + first : start + last].view(dtypes[tensor["dtype"]])
        arrays[name] = values.reshape(tensor["shape"])
    return arrays


def _sources_of(path: Path) -> list[str] | None:
    """Return the scan and label that a file of the cache was made from; None if it names none."""
    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["facts"])["sources"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _resolved(paths: Sequence[Path]) -> list[str]:
    return [str(path.resolve()) for path in paths]


def _digest(*contents: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
