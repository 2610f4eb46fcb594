"""Prepared scans on disk: made once, memory-mapped afterwards, made anew when anything they depend on changes."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from lungseg_utils import volume
from lungseg_utils.decathlon import Case
from lungseg_utils.preprocess import CLIP_HU, Prepared, prepare
from lungseg_utils.preprocess.lungs import MARGIN_MM
from lungseg_utils.preprocess.oblique import straighten
from lungseg_utils.runtime import file_error, home, progress, require_writable, warn, writing

CACHE_VERSION = 5  # raise it whenever preparing gives other voxels for the same scan


def prepare_cases(
    cases: tuple[Case, ...] | list[Case],
    *,
    spacing_mm: float = 3.0,
    folder: str | Path | None = None,
    workers: int = 2,
) -> list[Prepared]:
    """Prepare `cases` through the cache under `folder` (default `data/processed`); arrays are memory-mapped.

    A file of the cache is named by the case and a hash of its content; its folder by a hash of the parameters.
    Files that are damaged or belong to an earlier version of the scan are made anew, and that is said. Sets whose
    cases have the same names share the folder: each file knows where its scan and its label lie.
    """
    key = _digest(json.dumps([CACHE_VERSION, float(spacing_mm), CLIP_HU, MARGIN_MM]).encode())
    folder = require_writable(Path(folder or home() / "data" / "processed") / key)
    changed = []

    def one(case: Case) -> Prepared:
        sources = [path for path in (case.image, case.label) if path]
        contents = [_content(path) for path in sources]
        path = folder / f"{case.id}-{_digest(*contents)}.safetensors"
        del contents
        if path.exists():
            prepared = load(path)
            if prepared is not None:
                return prepared
            warn(f"{path}: damaged; made anew")
        for stale in folder.glob(f"{glob.escape(case.id)}-*.safetensors"):
            if (
                stale != path
                and len(stale.name) == len(path.name)
                and _sources_of(stale) == _resolved(sources)
            ):
                changed.append(case.id)
                stale.unlink(missing_ok=True)
        scan = volume.read(case.image)
        label = volume.read_label(case.label, like=scan) if case.label else None
        upright, label = _straighten_both(scan, label)
        save(path, prepare(upright, label=label, spacing_mm=spacing_mm), sources)
        return load(path)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        prepared = list(progress(pool.map(one, cases), "preparing scans", total=len(cases)))
    if changed:
        names = ", ".join(sorted(set(changed))[:3]) + (" …" if len(set(changed)) > 3 else "")
        warn(f"{names}: the scan or its label has changed; prepared anew")
    return prepared


def _straighten_both(
    scan: volume.Volume, label: np.ndarray | None
) -> tuple[volume.Volume, np.ndarray | None]:
    """Give a scan that leans, and its label, upright, as prediction will see it."""
    upright = straighten(scan)
    if upright is scan or label is None:
        return upright, label
    drawn = straighten(replace(scan, hu=label * np.int16(1000)))
    return upright, (drawn.hu >= 500).astype(np.uint8)


def save(path: Path, prepared: Prepared, sources: Sequence[Path] = ()) -> None:
    """Write one prepared scan whole: plain tensors and a line of JSON, nothing that could be executed."""
    from safetensors.numpy import save as to_bytes

    tensors = {"hu": prepared.hu, "region": prepared.region, "lungs": prepared.lungs}
    if prepared.label is not None:
        tensors["label"] = prepared.label
    facts = {
        "name": prepared.name,
        "box": [[cut.start, cut.stop] for cut in prepared.box],
        "spacing_mm": prepared.spacing_mm,
        "sources": _resolved(sources),
    }
    # not save_file, which leaves a file of another name behind when it is killed
    content = to_bytes(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, {"facts": json.dumps(facts)}
    )
    with writing(path) as partial:
        partial.write_bytes(content)


def load(path: Path) -> Prepared | None:
    """Map a file of the cache into memory, as one piece: a set takes one open file a case; None when it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        content = np.memmap(path, np.uint8, "r")
        with safe_open(
            path, framework="numpy"
        ) as file:  # checks the header, the sizes and their sum
            facts = json.loads(file.metadata()["facts"])
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
        header.pop("__metadata__")
        arrays = {
            name: content[start + one["data_offsets"][0] : start + one["data_offsets"][1]]
            .view({"I16": np.int16, "U8": np.uint8}[one["dtype"]])
            .reshape(one["shape"])
            for name, one in header.items()
        }
        return Prepared(
            name=facts["name"],
            hu=arrays["hu"],
            region=arrays["region"],
            lungs=arrays["lungs"],
            label=arrays.get("label"),
            box=tuple(slice(*cut) for cut in facts["box"]),
            spacing_mm=tuple(facts["spacing_mm"]),
        )
    except OSError as error:
        if error.errno in (
            errno.EMFILE,
            errno.ENFILE,
        ):  # the file is sound: only there are too many open
            raise file_error(path, error, "allow more open files: ulimit -n 4096") from error
        return None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _resolved(paths: Sequence[Path]) -> list[str]:
    return [str(path.resolve()) for path in paths]


def _sources_of(path: Path) -> list[str] | None:
    """Give the scan and the label that a file of the cache was made from; None when it does not say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["facts"])["sources"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise file_error(path, error) from error


def _digest(*contents: bytes) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
