"""From a scan to its tumour mask: windows over the lungs, blended, back on the scan's grid."""

from lungseg_utils.prediction.files import predict_files
from lungseg_utils.prediction.predictor import OVERLAP, Predictor, Segmentation, predict
from lungseg_utils.prediction.tumours import measure_tumours

__all__ = ["OVERLAP", "Predictor", "Segmentation", "measure_tumours", "predict", "predict_files"]
