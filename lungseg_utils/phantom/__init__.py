"""Synthetic chest CTs: seeded, parametric, in HU, with labelled lung tumours and unlabelled mimics.

`make_case(seed)` returns a scan as the reader would, `write_dataset(out)` writes a set in the
Medical Segmentation Decathlon's layout, `synthesise(seed, spacing_mm=...)` returns the bare arrays
at any spacing. The same seed makes the same voxels. No real scan is copied: anatomy is built from
formulas and random numbers.
"""

from lungseg_utils.phantom.chest import TIERS, Chest, make_case, synthesise
from lungseg_utils.phantom.dataset import is_of_another_version, remove_dataset, write_dataset

__all__ = [
    "TIERS",
    "Chest",
    "is_of_another_version",
    "make_case",
    "remove_dataset",
    "synthesise",
    "write_dataset",
]
