"""Look at a scan and decide by hand: slices and 3D in one widget, still pictures elsewhere.

A widget needs a front end to answer it. Where a notebook is executed without one (papermill,
nbval, nbconvert) the same calls work and return still figures: they look the same in every run,
and no widget state or voxel is stored.
"""

from lungseg_utils.live import is_live
from lungseg_utils.viewer.corrected import corrected_set
from lungseg_utils.viewer.session import Session
from lungseg_utils.viewer.show import browse, solid

__all__ = ["Session", "browse", "corrected_set", "is_live", "solid"]
