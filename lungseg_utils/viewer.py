"""Look at a scan by hand: a slice browser and a 3D viewer in JupyterLab, still pictures everywhere else.

A widget needs a front end to answer it. Where a notebook is executed without one (papermill, nbval, nbconvert) the
same call gives a still figure instead: it looks the same in every run, and no widget state or voxel is stored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.plotting import WINDOWS_HU, render_3d, show_planes, show_slice
from lungseg_utils.plotting.slices import PLANES, centre_of
from lungseg_utils.plotting.style import png

if TYPE_CHECKING:
    from lungseg_utils.volume import Volume

GLASS_HU = (-250, 1200)  # in 3D: air and lung are clear, soft tissue is glass


def is_live() -> bool:
    """Tell whether a front end that can run widgets asked for this cell.

    JupyterLab, Notebook 7 and VS Code send the cell's id with each request to execute; nbclient (papermill,
    nbconvert) and nbval do not. So this holds for a run without a front end that was started from inside one.
    `LUNGSEG_HEADLESS=1` says no whatever asks.
    """
    if os.environ.get("LUNGSEG_HEADLESS", "0") not in ("", "0"):
        return False
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    request = (
        shell.get_parent() if hasattr(shell, "get_parent") else {}
    )  # the message that asked for this cell
    return "cellId" in request.get("metadata", {})


def browse(volume: Volume, mask=None, prediction=None, *, interactive: bool | None = None):
    """Leaf through the slices of `volume` with its outlines: plane, slice, window and opacity to choose.

    `mask` (solid) and `prediction` (dashed) are (D, H, W). Without a front end, or with `interactive=False`, it
    gives the three planes through the largest lesion as a figure.
    """
    if not (is_live() if interactive is None else interactive):
        return show_planes(volume, mask, prediction)
    import ipywidgets as widgets

    centre = centre_of(mask, prediction, shape=volume.hu.shape)
    plane = widgets.ToggleButtons(options=list(PLANES), description="plane")
    index = widgets.IntSlider(
        min=1,
        max=volume.hu.shape[0],
        value=centre[0] + 1,
        description="slice",
        layout=widgets.Layout(width="95%"),
    )
    window = widgets.Dropdown(options=list(WINDOWS_HU.items()), description="window")
    opacity = widgets.FloatSlider(min=0, max=1, step=0.1, value=0, description="opacity")
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))

    def draw(_=None) -> None:
        figure = show_slice(
            volume,
            plane.value,
            index.value - 1,
            mask=mask,
            prediction=prediction,
            window_hu=window.value,
            opacity=opacity.value,
        )
        picture.value = png(figure, dpi=100)

    def turn(_) -> None:
        axis = PLANES[plane.value].across
        with index.hold_trait_notifications():  # the old slice may not exist in the new plane
            index.max = volume.hu.shape[axis]
            index.value = centre[axis] + 1
        draw()

    plane.observe(turn, "value")
    for control in (index, window, opacity):
        control.observe(draw, "value")
    draw()
    return widgets.VBox([plane, index, widgets.HBox([window, opacity]), picture])


def niivue(volume: Volume, mask=None, prediction=None, *, interactive: bool | None = None):
    """Turn `volume` and its masks in 3D with NiiVue (works offline); masks are (D, H, W), truth blue, prediction red.

    Without a front end, or with `interactive=False`, it gives a still picture in 3D of the masks inside the lungs.
    """
    if not (is_live() if interactive is None else interactive):
        return _still(volume, mask, prediction)
    from ipyniivue import NiiVue, SliceType
    from ipyniivue.widget import Volume as Layer

    lower, upper = GLASS_HU
    layers = [
        Layer(
            data=_nifti_bytes(volume.hu, volume.affine),
            name="ct.nii.gz",
            colormap="gray",
            cal_min=lower,
            cal_max=upper,
        )
    ]
    for name, part, colour in (("truth", mask, "blue"), ("prediction", prediction, "red")):
        if part is not None:
            part = (np.asarray(part) != 0).astype(np.uint8)
            layers.append(
                Layer(
                    data=_nifti_bytes(part, volume.affine),
                    name=f"{name}.nii.gz",
                    colormap=colour,
                    opacity=0.5,
                    cal_min=0,
                    cal_max=1,
                )
            )
    viewer = NiiVue(height=500)
    viewer.opts.slice_type, viewer.opts.is_radiological_convention = SliceType.RENDER, True
    viewer.load_volumes(layers)
    return viewer


def _still(volume: Volume, mask, prediction):
    from lungseg_utils.preprocess.lungs import find_lungs

    region = find_lungs(volume)
    lungs = region.lungs
    for axis, (step, size) in enumerate(zip(region.step, volume.hu.shape, strict=True)):
        lungs = lungs.repeat(step, axis=axis).take(range(size), axis=axis)
    mask = np.zeros(volume.hu.shape, bool) if mask is None else mask
    return render_3d(mask, spacing_mm=volume.spacing_mm, lungs=lungs, prediction=prediction)


def _nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """Pack an array as .nii.gz in memory: only voxels and where they lie, no name."""
    import nibabel
    from isal import igzip

    # NiiVue wants the fastest axis first, as scanners store it: (W, H, D)
    image = nibabel.Nifti1Image(np.ascontiguousarray(array.T), affine @ np.eye(4)[:, [2, 1, 0, 3]])
    return igzip.compress(image.to_bytes(), 1)
