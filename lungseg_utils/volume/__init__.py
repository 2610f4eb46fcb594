"""Read CT scans and labels, checked, and write masks back on the scan's own grid."""

from lungseg_utils.volume.grid import CANONICAL
from lungseg_utils.volume.intensity import PADDING_HU
from lungseg_utils.volume.nifti import read_label
from lungseg_utils.volume.reader import (
    read,
    read_header,
    stem,
    write_map,
    write_mask,
    write_nifti,
    write_scan,
)
from lungseg_utils.volume.scan import Volume

__all__ = [
    "CANONICAL",
    "PADDING_HU",
    "Volume",
    "read",
    "read_header",
    "read_label",
    "stem",
    "write_map",
    "write_mask",
    "write_nifti",
    "write_scan",
]
