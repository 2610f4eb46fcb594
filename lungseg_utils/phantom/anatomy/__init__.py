"""The organs of chest and upper abdomen as signed distances in mm, before they are painted."""

from lungseg_utils.phantom.anatomy.frame import Frame
from lungseg_utils.phantom.anatomy.patient import Anatomy, draw_anatomy

__all__ = ["Anatomy", "Frame", "draw_anatomy"]
