"""From a raw chest CT to a visible lung-tumour segmentation with a 3D SegUNet.

One convention holds everywhere in this package:

- arrays are (D, H, W): D towards the head, H towards the back, W towards the patient's left
  (the world's S, P, L), whatever the order in the file;
- `spacing_mm` and every other per-axis value come in that order; batches are (B, C, D, H, W);
- intensities are Hounsfield units (HU) until `preprocess.normalise`;
- volumes are in mL, lengths in mm.
"""

import os

__version__ = "0.1.0"

# Waiting threads spin for less than a millisecond, then sleep: if they spin on, a busy machine
# crawls. Read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
