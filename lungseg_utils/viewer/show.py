"""What a cell returns: the widget where somebody can move it, a still figure where nobody can."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.live import is_live
from lungseg_utils.plotting import render_3d, show_planes
from lungseg_utils.plotting.style import Figure

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

    from lungseg_utils.viewer.session import Session
    from lungseg_utils.volume import Volume


def browse(
    volume: Volume,
    mask: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    *,
    interactive: bool | None = None,
) -> DOMWidget | Figure:
    """Return `volume` to be looked at: slices in three planes, 3D, window, a list of the tumours.

    `mask` (solid, blue) and `prediction` (dashed, orange) are (D, H, W). Without a front end, or
    with `interactive=False`, it is a figure of the three planes through the largest lesion.
    """
    if not (is_live() if interactive is None else interactive):
        return show_planes(volume, mask, prediction)
    from lungseg_utils.viewer.widget import scan_view

    return scan_view(volume, mask, prediction)


def show_session(session: Session, *, interactive: bool | None = None) -> DOMWidget | Figure:
    """Return the widget that a `Session` is moved with, or a figure of where it stands."""
    if not (is_live() if interactive is None else interactive):
        scores = session.scores()
        title = f"threshold {session.threshold:.2f}: {scores['volume_ml']:.1f} mL kept"
        if "dice" in scores:
            title += f", Dice {scores['dice']:.2f}"
        truth = session.truth.mask if session.truth else None
        return show_planes(session.scan, truth, session.mask, title=title)
    from lungseg_utils.viewer.link import Link

    return Link(session).view


def solid(
    volume: Volume, mask: np.ndarray | None = None, prediction: np.ndarray | None = None
) -> Figure:
    """Return a still picture in 3D: glass lungs, `mask` solid in them, `prediction` a shell."""
    from lungseg_utils.preprocess.lungs import find_lungs

    region = find_lungs(volume)
    lungs = region.lungs
    for axis, (step, size) in enumerate(zip(region.step, volume.hu.shape)):
        lungs = lungs.repeat(step, axis=axis).take(range(size), axis=axis)
    mask = np.zeros(volume.hu.shape, bool) if mask is None else mask
    return render_3d(mask, spacing_mm=volume.spacing_mm, lungs=lungs, prediction=prediction)
