"""The aorta and the pulmonary arteries, which bulge into the left lung the more the older they are.

Sizes: the arch is 2.2 to 3.6 cm wide in healthy adults (Hiratzka et al., Circulation 2010), the
left pulmonary artery 1.3 to 2.8 cm, the interlobar arteries 0.9 to 1.7 cm (Truong et al., Circ
Cardiovasc Imaging 2012; Fraser in "Diagnosis of Diseases of the Chest").
"""

from collections.abc import Sequence

import numpy as np

from lungseg_utils.phantom.anatomy.frame import Frame
from lungseg_utils.phantom.fields import Point, union

AORTA = np.array(  # body coordinates from the valve to the abdomen; the arch is points 2 to 5
    [
        (-42, -25, 6),
        (-12, -30, -14),
        (25, -26, -16),
        (44, -10, -2),
        (46, 8, 12),
        (34, 26, 24),
        (0, 32, 26),
        (-60, 34, 22),
        (-140, 26, 10),
        (-250, 16, 6),
        (-400, 14, 4),
    ],
    float,
)
AORTA_MM = np.array([17, 17, 16, 14, 13.5, 13, 12.5, 12, 11, 10.5, 9])  # radii
TOP_OF_ARCH = np.array([0, 0, 0.2, 0.9, 1, 0.5, 0.1, 0, 0, 0, 0])


def aorta(
    f: Frame, variants: np.random.Generator | None, width: float, sway: tuple[float, float]
) -> np.ndarray:
    """Return the distance to the aorta of a relative width.

    By `variants` three in ten are wide and bulge into the left lung all the way down, and the
    arch of any is higher or lower, wider or narrower, and stands out to the left.
    """
    points = AORTA.copy()
    points[7:9, 2] += sway
    radii = AORTA_MM * width
    aged = variants.spawn(1)[0] if variants else None
    if aged and aged.random() < 0.3:
        share = np.array([0, 0, 0.3, 0.8, 1, 1, 1, 1, 0.7, 0.3, 0])
        arch = np.array([0, 0, 0.4, 1, 1, 0.7, 0, 0, 0, 0, 0])
        up, back, left = aged.uniform(0, (14, 8, 16))
        points += np.stack([up * arch, back * share, left * share], 1)
        radii *= 1 + aged.uniform(0.05, 0.5) * share
    if aged:
        up, left = aged.uniform((-8, 0), (12, 6))
        points += np.stack([up * TOP_OF_ARCH, 0 * TOP_OF_ARCH, left * TOP_OF_ARCH], 1)
        radii = radii * (1 + aged.uniform(-0.15, 0.2) * TOP_OF_ARCH)
    return f.tube(points, radii)


def pulmonary_arteries(
    f: Frame, variants: np.random.Generator | None, width: float, hila: Sequence[Point]
) -> np.ndarray:
    """Return the distance to the pulmonary arteries, which end at the `hila` (right, left).

    By `variants` the left one arches higher over its bronchus and stands out, both are wide in
    three of ten, and both go on as interlobar arteries, which run down into the lobes.
    """
    right, left = hila
    wide, over, out = 1.0, 0.0, 0.0
    descents = [([left, (left[0] - 28, 28, 58)], np.array([8.5, 6]))]
    if variants:
        own = variants.spawn(1)[0]
        wide = own.uniform(1.1, 1.4) if own.random() < 0.3 else own.uniform(0.9, 1.1)
        over, out = own.uniform((-4, 0), (10, 4))
        descents = [
            (
                [hilum, (hilum[0] - down, hilum[1] + 8, hilum[2] * reach)],
                np.array([7.3, 5.5]) * wide,
            )
            for hilum, down, reach in zip(hila, own.uniform(24, 48, 2), own.uniform(1.1, 1.4, 2))
        ]
    trunk: list[Point] = [(-32, -44, 16), (-8, -32, 22), (2 + 0.5 * over, -12, 24)]
    trunk += [(2 + over, 12, 36 + out), left]
    return union(
        f.tube(trunk, np.array([15, 14, 13, 11, 9]) * width * wide),
        f.tube([(-4, -20, 20), (-10, -6, -8), right], np.array([13, 11.5, 9]) * width * wide),
        *(f.tube(points, radii) for points, radii in descents),
    )
