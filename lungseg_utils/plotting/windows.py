"""Windows: the range of Hounsfield units that the greys of a picture are spent on."""

from collections.abc import Sequence

import numpy as np

Window = tuple[float, float]  # (lower, upper) bounds in HU

LUNG_WINDOW_HU: Window = (-1350, 150)
SOFT_TISSUE_WINDOW_HU: Window = (-160, 240)
WINDOWS_HU: dict[str, Window] = {
    "lung": LUNG_WINDOW_HU,
    "soft tissue": SOFT_TISSUE_WINDOW_HU,
    "bone": (-450, 1050),
    "full": (-1024, 1024),
}


def window(hu: np.ndarray | Sequence[float], window_hu: Window = LUNG_WINDOW_HU) -> np.ndarray:
    """Map HU to grey levels 0 to 1: black below the window, white above it."""
    lower, upper = window_hu
    return np.clip((np.asarray(hu, np.float32) - lower) / (upper - lower), 0, 1)


def window_text(window_hu: Window) -> str:
    """Return the window as titles show it, with real minus signs."""
    return f"window {window_hu[0]:g} to {window_hu[1]:g} HU".replace("-", "−")
