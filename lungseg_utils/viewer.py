"""Look at a scan by hand: a slice browser and a 3D viewer in JupyterLab, still pictures elsewhere.

A widget needs a front end to answer it. Where a notebook is executed without one (papermill,
nbval, nbconvert) the same call returns a still figure instead: it looks the same in every run, and
no widget state or voxel is stored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.plotting import WINDOWS_HU, render_3d, show_planes, show_slice
from lungseg_utils.plotting.slices import PLANES, centre_of
from lungseg_utils.plotting.style import PREDICTION_COLOUR, TRUTH_COLOUR, Figure, png

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

    from lungseg_utils.volume import Volume

GLASS_HU = (-250, 1200)  # in 3D: air and lung are clear, soft tissue is glass


def is_live() -> bool:
    """Return whether a front end that can run widgets asked for this cell.

    JupyterLab, Notebook 7 and VS Code send the cell's id with each request to execute; nbclient
    (papermill, nbconvert) and nbval do not. So this holds for a run without a front end that was
    started from inside one. `LUNGSEG_HEADLESS=1` makes the answer False whatever asks.
    """
    if os.environ.get("LUNGSEG_HEADLESS", "0") not in ("", "0"):
        return False
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return "cellId" in request.get("metadata", {})


def browse(
    volume: Volume,
    mask: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    *,
    interactive: bool | None = None,
) -> DOMWidget | Figure:
    """Return a browser of the slices of `volume`: plane, slice, window and opacity to choose.

    `mask` (solid) and `prediction` (dashed) are (D, H, W). Without a front end, or with
    `interactive=False`, it is a figure of the three planes through the largest lesion.
    """
    if not (is_live() if interactive is None else interactive):
        return show_planes(volume, mask, prediction)
    import ipywidgets as widgets

    shape = volume.hu.shape
    centre = centre_of(mask, prediction, shape=shape)
    wide = widgets.Layout(width="95%")
    plane = widgets.ToggleButtons(options=list(PLANES), description="plane")
    index = widgets.IntSlider(centre[0] + 1, 1, shape[0], description="slice", layout=wide)
    window = widgets.Dropdown(options=list(WINDOWS_HU.items()), description="window")
    opacity = widgets.FloatSlider(0, min=0, max=1, step=0.1, description="opacity")
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))

    def draw(_: object = None) -> None:
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

    def change_plane(_: object) -> None:
        axis = PLANES[plane.value].across
        with index.hold_trait_notifications():  # the old slice may not exist in the new plane
            index.max = shape[axis]
            index.value = centre[axis] + 1
        draw()

    plane.observe(change_plane, "value")
    for control in (index, window, opacity):
        control.observe(draw, "value")
    draw()
    return widgets.VBox([plane, index, widgets.HBox([window, opacity]), picture])


def niivue(
    volume: Volume,
    mask: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    *,
    interactive: bool | None = None,
) -> DOMWidget | Figure:
    """Return `volume` and its masks in 3D, to be turned with NiiVue, which works offline.

    Masks are (D, H, W), in the colours of every figure: truth blue, prediction orange. Without a
    front end, or with `interactive=False`, it is a still picture of the masks inside the lungs.
    """
    if not (is_live() if interactive is None else interactive):
        return _still(volume, mask, prediction)
    from ipyniivue import NiiVue, SliceType
    from ipyniivue.widget import Volume as Layer
    from matplotlib.colors import to_rgb

    lower, upper = GLASS_HU
    ct = _nifti_bytes(volume.hu, volume.affine)
    layers = [Layer(data=ct, name="ct.nii.gz", colormap="gray", cal_min=lower, cal_max=upper)]
    for name, part, colour in (
        ("truth", mask, TRUTH_COLOUR),
        ("prediction", prediction, PREDICTION_COLOUR),
    ):
        if part is not None:
            voxels = _nifti_bytes((np.asarray(part) != 0).astype(np.uint8), volume.affine)
            layer = Layer(data=voxels, name=f"{name}.nii.gz", opacity=0.5)
            red, green, blue = (round(255 * share) for share in to_rgb(colour))
            layer.set_colormap_label({"R": [0, red], "G": [0, green], "B": [0, blue]})
            layers.append(layer)
    viewer = NiiVue(height=500)
    viewer.opts.slice_type = SliceType.RENDER
    viewer.opts.is_radiological_convention = True
    viewer.load_volumes(layers)
    return viewer


def _still(volume: Volume, mask: np.ndarray | None, prediction: np.ndarray | None) -> Figure:
    from lungseg_utils.preprocess.lungs import find_lungs

    region = find_lungs(volume)
    lungs = region.lungs
    for axis, (step, size) in enumerate(zip(region.step, volume.hu.shape)):
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
