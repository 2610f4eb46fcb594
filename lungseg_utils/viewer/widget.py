"""The widget: what it is sent, and what it sends back. It decides nothing itself."""

from __future__ import annotations

import contextlib
import io
import zlib
from importlib.resources import files
from typing import Any

import anywidget
import numpy as np
import traitlets

from lungseg_utils.evaluation.metrics import MINIMUM_OVERLAP
from lungseg_utils.plotting import WINDOWS_HU
from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR
from lungseg_utils.prediction.diameters import longest_mm
from lungseg_utils.prediction.tumours import largest_first
from lungseg_utils.runtime import LungsegError
from lungseg_utils.viewer.packing import LEVELS_HU, pack_runs, pack_slices, run_ends
from lungseg_utils.viewer.session import Session
from lungseg_utils.volume import Volume

FRONTEND = files("lungseg_utils.viewer") / "frontend"
SCRIPTS = ("scan.js", "contours.js", "picture.js", "solid.js", "panel.js", "viewer.js", "hands.js")
MOST_ROWS = 30  # of the list


class ScanView(anywidget.AnyWidget):
    """The front end's copy: the scan, sent once; masks as runs; the rest as plain values."""

    _esm = "\n".join((FRONTEND / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = (FRONTEND / "viewer.css").read_text(encoding="utf-8")

    scan = traitlets.Dict().tag(sync=True)
    slices = traitlets.Bytes().tag(sync=True)
    lungs = traitlets.Bytes().tag(sync=True)
    truth = traitlets.Bytes().tag(sync=True)
    kept = traitlets.Bytes().tag(sync=True)
    dropped = traitlets.Bytes().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)


def scan_view(
    volume: Volume, mask: np.ndarray | None, prediction: np.ndarray | None
) -> anywidget.AnyWidget:
    """Return a widget that shows a scan with masks (D, H, W) of truth and prediction."""
    rows = []
    for kind, marked in (("truth", mask), ("prediction", prediction)):
        if marked is not None:
            numbered = enumerate(_parts(marked)[:MOST_ROWS], 1)
            rows += [_row(volume, part, kind=kind, number=n) for n, part in numbered]
    packed = {
        name: b"" if marked is None else pack_runs(np.flatnonzero(marked))
        for name, marked in (("truth", mask), ("kept", prediction))
    }
    has = {"truth": mask is not None, "prediction": prediction is not None, "editable": False}
    state = {"rows": rows, "answered": 0, "scores": {}}
    return ScanView(**_scan(volume, rows, has), **packed, state=state)


def session_view(session: Session) -> anywidget.AnyWidget:
    """Return a widget that shows a session and lets the reader decide."""
    scan = session.scan
    truth = session.truth
    parts = [] if truth is None else _parts(truth)
    lesions = [_row(scan, part, kind="missed") for part in parts]
    packed = b"" if truth is None else pack_runs(np.flatnonzero(truth))
    cache: dict[tuple[int, int], dict] = {}

    def row(number: int) -> dict[str, Any]:
        mark = session.marks[number - 1]
        key = (mark.peak, len(mark.voxels))
        if key not in cache:
            cache[key] = _row(scan, mark.voxels, kind="prediction")
        confidence = None if mark.is_by_hand else round(mark.confidence, 3)
        chosen = {"kept": mark.is_kept, "certain": mark.is_certain, "confidence": confidence}
        return cache[key] | chosen | {"number": number}

    def show(answered: int = 0, message: str | None = None) -> None:
        kept = [mark.voxels for mark in session.marks if mark.is_kept]
        dropped = [mark.voxels for mark in session.marks if not mark.is_kept]
        covered = [session.covered(part) / len(part) for part in parts]
        missed = [row for row, share in zip(lesions, covered) if share < MINIMUM_OVERLAP]
        with view.hold_sync():
            view.kept = pack_runs(np.sort(np.concatenate(kept)) if kept else np.zeros(0, int))
            view.dropped = pack_runs(
                np.sort(np.concatenate(dropped)) if dropped else np.zeros(0, int)
            )
            view.state = {
                "threshold": session.threshold,
                "rows": [row(n) for n in range(1, len(session.marks[:MOST_ROWS]) + 1)] + missed,
                "scores": session.scores(),
                "canUndo": session.can_undo,
                "message": session.message if message is None else message,
                "answered": answered,
            }

    def answer(_: object, content: dict, buffers: object) -> None:
        if content["kind"] == "hu":
            place = tuple(content["place"])
            view.send({"kind": "hu", "place": list(place), "hu": float(scan.hu[place])})
            return
        busy[0] = True
        try:
            message = _act(session, content)
        except LungsegError as error:
            message = f"{error.cause}. {error.remedy}"
        busy[0] = False
        show(content.get("asked", 0), message)

    has = {"truth": truth is not None, "prediction": True, "editable": True}
    view = ScanView(**_scan(scan, [row(1)] if session.marks else lesions, has), truth=packed)
    busy = [False]
    session.observe(lambda: None if busy[0] else show())
    view.on_msg(answer)
    show()
    return view


def _act(session: Session, content: dict) -> str | None:
    """Do what the reader did in the front end; return a message where the session has none."""
    kind = content["kind"]
    if kind == "threshold":
        session.threshold = content["value"]
    elif kind == "keep":
        session.keep(content["number"])
    elif kind == "drop":
        session.drop(content["number"])
    elif kind == "add":
        session.add(content["place"])
    elif kind == "brush":
        session.brush(
            content["points"],
            content["radius"],
            plane=content["plane"],
            erase=content["erase"],
        )
    elif kind == "undo":
        session.undo()
    elif kind == "save":
        return "saved: " + ", ".join(path.name for path in session.save())
    return None


def _scan(volume: Volume, rows: list[dict], has: dict[str, bool]) -> dict[str, Any]:
    """Return the traits of a scan, which are sent once; the first of `rows` is shown first."""
    pictures, sizes = pack_slices(volume.hu)
    lungs, step = _coarse_lungs(volume)
    scan = {
        "shape": list(volume.hu.shape),
        "spacing": list(volume.spacing_mm),
        "affine": volume.affine.tolist(),
        "levels": LEVELS_HU.tolist(),
        "sizes": sizes,
        "centre": rows[0]["centre"] if rows else [size // 2 for size in volume.hu.shape],
        "windows": [[name, *bounds] for name, bounds in WINDOWS_HU.items()],
        "colours": {"truth": TRUTH_COLOUR, "prediction": PREDICTION_COLOUR},
        "lungs": {"shape": list(lungs.shape), "step": list(step)},
        "name": volume.name,
        **has,
    }
    packed = zlib.compress(np.packbits(lungs.ravel(), bitorder="little").tobytes())
    return {"scan": scan, "slices": pictures, "lungs": packed}


def _coarse_lungs(volume: Volume) -> tuple[np.ndarray, tuple[int, int, int]]:
    from lungseg_utils.preprocess.lungs import find_lungs

    with contextlib.redirect_stderr(io.StringIO()):  # that there are none was reported before
        region = find_lungs(volume)
    return region.lungs & region.found, region.step


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """Return the tumours of a mask as ascending flat indices, the largest first."""
    shape = np.shape(mask)
    parts = largest_first(np.asarray(mask) != 0)
    return [np.ravel_multi_index(tuple(part.T), shape) for part in parts]


def _row(volume: Volume, part: np.ndarray, *, kind: str, number: int = 0) -> dict[str, Any]:
    """Return what the list says of a tumour, given as ascending flat indices."""
    voxels = np.stack(np.unravel_index(part, volume.hu.shape), axis=1)
    ends = np.unique(np.concatenate(run_ends(part)))  # the others cannot be the farthest
    middle = voxels.mean(axis=0)
    nearest = voxels[np.square(voxels - middle).sum(axis=1).argmin()]
    return {
        "kind": kind,
        "number": number,
        "volume": round(len(voxels) * float(np.prod(volume.spacing_mm)) / 1000, 2),
        "longest": round(longest_mm(voxels[ends], volume), 1),
        "centre": nearest.tolist(),
        "place": (volume.affine @ [*middle, 1])[:3].round(1).tolist(),
    }
