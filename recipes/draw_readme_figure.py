"""Draw the README's first figure: a synthetic chest, its tumour, what is found of it, and 3D.

    python recipes/draw_readme_figure.py      (writes figures/readme.png; a minute on two cores)

The scan is a full-tier phantom that nobody trained on; the network is that of the shipped weights.
"""

from __future__ import annotations

import numpy as np

from lungseg_utils import evaluation, phantom, plotting, prediction
from lungseg_utils.components import bounding_box
from lungseg_utils.plotting.solid import coarse_bodies, render
from lungseg_utils.plotting.style import Figure, png
from lungseg_utils.runtime import ROOT, writing
from lungseg_utils.volume import Volume

SEED = 4_005_004
CHEST_MARGIN_MM = 22
TUMOUR_MARGIN_MM = 55
DEGREES = 20


def box_round(mask: np.ndarray, margin_mm: float, volume: Volume) -> tuple[slice, ...]:
    """Return the box of `mask` with a margin."""
    margins = [round(margin_mm / side) for side in volume.spacing_mm]
    sides = zip(bounding_box(mask), margins)
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side, margin in sides)


def draw(volume: Volume, label: np.ndarray, found: prediction.Segmentation) -> Figure:
    """Draw the chest, the tumour in it, and both in 3D."""
    lungs = found.prepared.back(found.prepared.lungs)
    figure = plotting.new_figure(13, 4.3)
    chest, tumour, solid = figure.subplots(1, 3, width_ratios=(1.3, 1, 1.1))
    for axes, plane, box in (
        (chest, "coronal", box_round(lungs, CHEST_MARGIN_MM, volume)),
        (tumour, "axial", box_round(label, TUMOUR_MARGIN_MM, volume)),
    ):
        plotting.show_slice(
            volume.hu[box],
            plane,
            spacing_mm=volume.spacing_mm,
            mask=label[box],
            prediction=found.mask[box],
            axes=axes,
        )
    chest.set_title("A chest that nobody has: made from formulas")
    tumour.set_title("Its tumour: truth and prediction")
    tumour.legend(loc="lower right", frameon=True)
    bodies = {"lungs": lungs, "truth": label, "prediction": found.mask}
    inside = bounding_box(lungs)
    masks = {name: mask[inside] != 0 for name, mask in bodies.items()}
    grids, _ = coarse_bodies(masks, volume.spacing_mm, longest=150)
    solid.imshow(render(grids, DEGREES), origin="lower", interpolation="bicubic")
    solid.set_title("The same in 3D")
    solid.set_axis_off()
    return figure


def main() -> None:
    """Make the scan, segment it, draw and save."""
    plotting.use_style()
    volume, label = phantom.make_case(SEED, tier="full")
    found = prediction.Predictor().segment(volume)
    dice = evaluation.dice(label, found.mask)
    volume_ml = label.sum() * float(np.prod(volume.spacing_mm)) / 1000
    print(f"seed {SEED}: {volume_ml:.0f} mL, Dice {dice:.2f}")
    figure = draw(volume, label, found)
    with writing(ROOT / "figures" / "readme.png") as partial:
        partial.write_bytes(png(figure, dpi=100))


if __name__ == "__main__":
    main()
