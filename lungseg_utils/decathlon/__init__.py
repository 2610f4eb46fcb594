"""Datasets in the layout of the Medical Segmentation Decathlon: load, import, split, check.

The layout, of Task06_Lung for one (Antonelli et al., Nature Communications 2022):

    Task06_Lung/dataset.json  all cases: {"training": [{"image": …, "label": …}], "test": […]}
    Task06_Lung/imagesTr/     the training scans; labelsTr/ has a label of the same name for each
    Task06_Lung/imagesTs/     the test scans; labelsTs/ their labels, where somebody has them
"""

from lungseg_utils.decathlon.check import Report, check
from lungseg_utils.decathlon.dataset import Case, Dataset, DatasetError, load
from lungseg_utils.decathlon.download import TASK06_MD5, TASK06_URL, download
from lungseg_utils.decathlon.fingerprint import fingerprint
from lungseg_utils.decathlon.folds import list_folds, split
from lungseg_utils.decathlon.importing import import_set

__all__ = [
    "TASK06_MD5",
    "TASK06_URL",
    "Case",
    "Dataset",
    "DatasetError",
    "Report",
    "check",
    "download",
    "fingerprint",
    "import_set",
    "list_folds",
    "load",
    "split",
]
