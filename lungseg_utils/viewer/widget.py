"""The widget: what it is sent. It decides nothing itself."""

import contextlib
import io
import zlib
from importlib.resources import files
from typing import Any

import anywidget
import numpy as np
import traitlets

from lungseg_utils.plotting import WINDOWS_HU
from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR
from lungseg_utils.prediction.diameters import longest_mm
from lungseg_utils.viewer.packing import LEVELS_HU, pack_runs, pack_slices, run_ends
from lungseg_utils.viewer.truth import middle_of, parts_of
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
            numbered = enumerate(parts_of(marked)[:MOST_ROWS], 1)
            rows += [list_row(volume, part, kind=kind, number=n) for n, part in numbered]
    packed = {
        name: b"" if marked is None else pack_runs(np.flatnonzero(marked))
        for name, marked in (("truth", mask), ("kept", prediction))
    }
    has = {"truth": mask is not None, "prediction": prediction is not None, "editable": False}
    state = {"rows": rows, "answered": 0, "scores": {}}
    return ScanView(**scan_traits(volume, rows, has), **packed, state=state)


def scan_traits(volume: Volume, rows: list[dict], has: dict[str, bool]) -> dict[str, Any]:
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


def list_row(volume: Volume, part: np.ndarray, *, kind: str, number: int = 0) -> dict[str, Any]:
    """Return what the list says of a tumour, given as ascending flat indices."""
    voxels = np.stack(np.unravel_index(part, volume.hu.shape), axis=1)
    ends = np.unique(np.concatenate(run_ends(part)))  # the others cannot be the farthest
    middle = voxels.mean(axis=0)
    return {
        "kind": kind,
        "number": number,
        "volume": round(len(voxels) * float(np.prod(volume.spacing_mm)) / 1000, 2),
        "longest": round(longest_mm(voxels[ends], volume), 1),
        "centre": list(middle_of(part, volume.hu.shape)),
        "place": (volume.affine @ [*middle, 1])[:3].round(1).tolist(),
    }
