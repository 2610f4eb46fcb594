"""The one checked reader of CT scans and labels, and the writer that puts masks back on the scan's own grid."""

from lungseg_utils.volume.grid import CANONICAL
from lungseg_utils.volume.reader import (
    read,
    read_header,
    read_label,
    stem,
    write_map,
    write_mask,
    write_nifti,
)
from lungseg_utils.volume.scan import Volume

__all__ = [
    "CANONICAL",
    "Volume",
    "read",
    "read_header",
    "read_label",
    "stem",
    "write_map",
    "write_mask",
    "write_nifti",
]
