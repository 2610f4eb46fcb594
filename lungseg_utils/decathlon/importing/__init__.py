"""Import outlined scans in the layouts of others into a checked set in Decathlon layout.

layouts    which layout a folder has, and its cases
patients   folders of patients: NIfTI, DICOM with RTSTRUCT or SEG
pairing    which of a patient's scans each mask was drawn on: a case for each
outlines   what is drawn on a scan, and which of it was asked for
writing    the cases, read and written; dataset.json last
"""

from lungseg_utils.decathlon.importing.layouts import find_cases
from lungseg_utils.decathlon.importing.writing import Imported, import_set

__all__ = ["Imported", "find_cases", "import_set"]
