"""All tumours of one chest: how many there are, where, and the label that they leave."""

from dataclasses import replace

import numpy as np

from lungseg_utils.phantom import atelectasis, tumour_painting, tumours
from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Box, Canvas
from lungseg_utils.phantom.trees import Trees
from lungseg_utils.phantom.tumours import COUNT_SHARES, Lesion

SMALLEST_LABEL_MM3 = 80.0  # a nodule of 6 mm has 113
APART = 1.5  # radii: so far from another, lumps do not grow together
TRIES_A_TUMOUR = 30  # where a number of tumours was asked for
SMALLER = 0.9  # of the volume, from one failed try to the next
SMALLEST_ML = 0.4


def paint_lesions(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    trees: Trees,
    mix: str,
    count: int | None = None,
) -> tuple[list[Lesion], np.ndarray]:
    """Paint `count` tumours that keep apart, or by default as many as the mix draws.

    Returns them and the coverage of their label (D, H, W).
    """
    label = np.zeros(canvas.fine.shape, np.float32)
    found: list[Lesion] = []
    drawn = int(rng.choice(len(COUNT_SHARES[mix]), p=COUNT_SHARES[mix])) + 1
    for number in range(drawn if count is None else count * TRIES_A_TUMOUR):
        if len(found) == count:
            break
        lesion = tumours.draw_lesion(rng, mix, first=number == 0)
        if count is not None and number > len(found):  # it may need less room
            smaller_ml = lesion.volume_ml * SMALLER ** (number - len(found))
            lesion = replace(lesion, volume_ml=max(smaller_ml, SMALLEST_ML))
        centre = tumours.place_lesion(rng, lesion, anatomy, trees, mix)
        if centre is None or (count is not None and _is_near(lesion, centre, found)):
            continue
        z, y, x = map(float, centre)
        lesion = replace(lesion, centre_mm=(z, y, x))
        painted = _paint(rng, canvas, anatomy, trees, lesion, keep_small=count is None)
        if painted is not None:
            box, cover = painted
            label[box] = np.maximum(label[box], cover)
            found.append(lesion)
    return found, label


def _is_near(lesion: Lesion, centre: np.ndarray, others: list[Lesion]) -> bool:
    """Check whether a tumour would touch one of the others."""
    return any(
        np.linalg.norm(centre - np.array(other.centre_mm))
        < APART * (lesion.radius_mm + other.radius_mm) + 4
        for other in others
    )


def _paint(
    rng: np.random.Generator,
    canvas: Canvas,
    anatomy: Anatomy,
    trees: Trees,
    lesion: Lesion,
    *,
    keep_small: bool,
) -> tuple[Box, np.ndarray] | None:
    """Paint one tumour, with what it lets collapse; None, and nothing, where hardly any shows."""
    before = None if keep_small else canvas.hu.copy()
    centre = np.array(lesion.centre_mm)
    is_central = lesion.site in ("hilum", "mediastinum", "central")
    if is_central and lesion.volume_ml > 8 and rng.random() < 0.2:
        atelectasis.paint_collapse(rng, canvas, anatomy, centre, lesion.radius_mm)
    painted = tumour_painting.paint_lesion(rng, canvas, lesion, anatomy, trees)
    if painted is None or before is None:
        return painted
    if painted[1].sum() * np.prod(canvas.fine.spacing_mm) > 2 * SMALLEST_LABEL_MM3:
        return painted
    canvas.hu = before
    return None
