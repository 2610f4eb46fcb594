"""From probabilities, a threshold and corrections by hand to the list of what is marked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lungseg_utils.components import SMALLEST_LESION_MM3, component_peaks, label_components
from lungseg_utils.prediction import Segmentation
from lungseg_utils.runtime import LungsegError
from lungseg_utils.viewer.truth import box_of

FLOOR = 0.02  # what is less probable is no tumour at any threshold


@dataclass(frozen=True)
class Edit:
    """Voxels painted or erased by hand: ascending flat indices into the scan."""

    voxels: np.ndarray
    is_paint: bool


@dataclass(frozen=True)
class State:
    """All that was decided by hand; `decisions` are (ascending voxels, whether they are kept).

    Of the decisions on any of a mark's voxels the last one holds.
    """

    threshold: float
    decisions: tuple[tuple[np.ndarray, bool], ...] = ()
    edits: tuple[Edit, ...] = ()

    def __post_init__(self) -> None:
        if not FLOOR <= self.threshold <= 1:
            cause = f"{self.threshold:g} is out of range"
            raise LungsegError("threshold", cause, f"Use a probability from {FLOOR:g} to 1")


@dataclass(frozen=True)
class Mark:
    """A component of what is marked; `voxels` are ascending flat indices, `peak` one of them.

    confidence: the highest probability in it. is_certain: whether it would be kept unasked.
    """

    voxels: np.ndarray
    peak: int
    confidence: float
    is_by_hand: bool
    is_certain: bool
    is_kept: bool


@dataclass
class Candidates:
    """The probabilities of a scan, made ready to be cut at many thresholds.

    probability: float32 (D, H, W) on the scan's grid; segmentation: where it came from, whose
    working grid `min_peak` is judged on.
    """

    probability: np.ndarray
    spacing_mm: Sequence[float]
    min_peak: float = 0.0
    segmentation: Segmentation | None = None
    _likely: np.ndarray = field(init=False)
    _values: np.ndarray = field(init=False)
    _scratch: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._likely = np.flatnonzero(self.probability >= FLOOR)
        self._values = self.probability.ravel()[self._likely]
        self._scratch = np.zeros(self.probability.shape, np.uint8)

    def marks(self, state: State) -> list[Mark]:
        """Return what is marked: certain ones first, and of each kind the largest first."""
        voxels = self._likely[self._values >= state.threshold]
        painted = np.zeros(0, np.int64)
        for edit in state.edits:
            join = np.union1d if edit.is_paint else np.setdiff1d
            voxels = join(voxels, edit.voxels)
            painted = join(painted, edit.voxels)
        smallest = SMALLEST_LESION_MM3 / float(np.prod(self.spacing_mm))
        peaks = self._working_peaks(state.threshold)
        marks = []
        for part in self._components(voxels):
            is_by_hand = bool(np.isin(part, painted, assume_unique=True).any())
            if is_by_hand or len(part) >= smallest:
                marks.append(self._mark(part, is_by_hand, peaks, state))
        return sorted(marks, key=lambda mark: (not mark.is_certain, -len(mark.voxels)))

    def _mark(
        self, voxels: np.ndarray, is_by_hand: bool, peaks: np.ndarray | None, state: State
    ) -> Mark:
        values = self.probability.ravel()[voxels]
        peak = int(voxels[values.argmax()])
        is_certain = is_by_hand or self._peak_behind(peak, peaks) >= self.min_peak
        decided = (is_kept for on, is_kept in state.decisions[::-1] if _share(on, voxels))
        is_kept = next(decided, is_certain)
        return Mark(voxels, peak, float(values.max()), is_by_hand, is_certain, is_kept)

    def _components(self, voxels: np.ndarray) -> list[np.ndarray]:
        """Return the components of ascending flat indices, each ascending."""
        if not len(voxels):
            return []
        places = np.unravel_index(voxels, self._scratch.shape)
        box = box_of([voxels], self._scratch.shape)
        self._scratch.ravel()[voxels] = 1
        numbers = label_components(self._scratch[box])
        self._scratch.ravel()[voxels] = 0
        own = numbers[tuple(axis - side.start for axis, side in zip(places, box))]
        order = np.argsort(own, kind="stable")
        return np.split(voxels[order], np.flatnonzero(np.diff(own[order])) + 1)

    def _working_peaks(self, threshold: float) -> np.ndarray | None:
        """Return, on the working grid, the peak of the component that each voxel belongs to."""
        if self.segmentation is None or self.min_peak <= threshold:
            return None
        return component_peaks(self.segmentation.probability.float().cpu().numpy(), threshold)

    def _peak_behind(self, voxel: int, peaks: np.ndarray | None) -> float:
        """Return the working grid's peak behind a voxel of the scan: of the eight round it."""
        if self.segmentation is None:
            return float(self.probability.ravel()[voxel])
        if peaks is None:
            return 1.0  # whatever reaches the threshold reaches min_peak
        prepared = self.segmentation.prepared
        assert prepared.aligned is not None and prepared.scan is not None
        place = [*np.unravel_index(voxel, self.probability.shape), 1]
        aligned = np.linalg.solve(prepared.aligned.affine, prepared.scan.affine @ place)[:3]
        corners = []
        for index, side, size in zip(aligned, prepared.box, peaks.shape):
            working = (index - side.start + 0.5) * size / (side.stop - side.start) - 0.5
            near = np.floor(working) + np.arange(2)
            corners.append(near.clip(0, size - 1).astype(int))
        return float(peaks[np.ix_(*corners)].max())


def _share(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two ascending arrays share a value."""
    few, many = sorted((one, other), key=len)
    if not len(few) or few[0] > many[-1] or few[-1] < many[0]:
        return False
    return bool((np.searchsorted(many, few, "right") > np.searchsorted(many, few)).any())
