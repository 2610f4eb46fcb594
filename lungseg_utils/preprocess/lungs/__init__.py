"""Where the lungs are: a box round them, and the region in which a lung tumour may lie."""

from lungseg_utils.preprocess.lungs.search import MARGIN_MM, LungRegion, find_lungs, whole_crop

__all__ = ["MARGIN_MM", "LungRegion", "find_lungs", "whole_crop"]
