"""Decide by hand what is a tumour: threshold, keep and drop, click, brush, undo, save.

The session holds the truth; a widget only shows it and sends what the reader does. So the same
calls work in a notebook without a front end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungseg_utils.prediction import Segmentation, measure_tumours
from lungseg_utils.runtime import LungsegError
from lungseg_utils.viewer.growing import segment_at
from lungseg_utils.viewer.marks import Candidates, Edit, Mark, State
from lungseg_utils.viewer.saving import default_targets, refuse_the_scan
from lungseg_utils.viewer.strokes import stroke_voxels
from lungseg_utils.viewer.truth import Truth
from lungseg_utils.volume import Volume, write_mask

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

    from lungseg_utils.plotting.style import Figure


class Session:
    """A scan, what a network found in it, and what a reader makes of that.

    `found` is a `Segmentation`, or probabilities or a mask (D, H, W) on the scan's own grid; None
    begins with nothing. Marks that nowhere reach `min_peak` are listed, but not kept unless asked
    for. With a `truth` (D, H, W) everything is scored. `folder` is where `save` writes: by default
    runs/corrected.

    probability: float32 (D, H, W). marks: what is marked, kept or not, as it is numbered from 1 on.
    """

    def __init__(
        self,
        scan: Volume,
        found: Segmentation | np.ndarray | None = None,
        *,
        truth: np.ndarray | None = None,
        threshold: float = 0.5,
        min_peak: float = 0.0,
        folder: str | Path = "",
    ):
        self.scan = scan
        self.folder = folder
        self.message = ""
        self._listeners: list[Callable[[], None]] = []
        segmentation = found if isinstance(found, Segmentation) else None
        if segmentation is not None:
            found = segmentation.prepared.back(segmentation.probability)
        elif found is None:
            found = np.zeros(scan.hu.shape, np.float32)
        self._require_shape(found)
        if truth is not None:
            self._require_shape(truth)
        self.truth = None if truth is None else Truth(truth, scan.spacing_mm)
        self.probability = np.ascontiguousarray(found, np.float32)
        self._candidates = Candidates(self.probability, scan.spacing_mm, min_peak, segmentation)
        self._states = [State(float(threshold))]
        self._mask = np.zeros(scan.hu.shape, np.uint8)
        self._voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
        self.marks: list[Mark] = []
        self._mark()

    def _require_shape(self, array: np.ndarray | Segmentation | None) -> None:
        shape = getattr(array, "shape", None)
        if shape != self.scan.hu.shape:
            raise LungsegError(
                self.scan.name,
                f"the scan has the shape {self.scan.hu.shape}, what was found {shape}",
                "Give arrays (D, H, W) on the grid of the scan",
            )

    @property
    def mask(self) -> np.ndarray:
        """Return the corrected mask: uint8 (D, H, W) of 0 and 1, what is kept."""
        return self._mask.copy()

    @property
    def threshold(self) -> float:
        """Return the probability from which a voxel is marked; it may be set."""
        return self._states[-1].threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        state = replace(self._states[-1], threshold=float(value))
        before = self._states[-2] if self.can_undo else None
        if before and before.edits is state.edits and before.decisions is state.decisions:
            self._states.pop()  # a slider that is drawn along is one step to undo
        self._enter(state, "")

    def keep(self, number: int) -> None:
        """Keep mark `number`, counted from 1 as it is listed."""
        self._decide(number, True)

    def drop(self, number: int) -> None:
        """Drop mark `number`, counted from 1; it stays in the list."""
        self._decide(number, False)

    def _decide(self, number: int, is_kept: bool) -> None:
        if not 1 <= number <= len(self.marks):
            raise LungsegError(
                "number", f"there is no mark {number}", f"Give one from 1 to {len(self.marks)}"
            )
        state = self._states[-1]
        decision = (self.marks[number - 1].voxels, is_kept)
        verb = "kept" if is_kept else "dropped"
        self._enter(
            replace(state, decisions=(*state.decisions, decision)), f"mark {number} is {verb}"
        )

    def add(self, place: Sequence[int], *, reach_mm: float = 30.0) -> str:
        """Mark what lies at the voxel `place` (d, h, w), as a click does; return how it was found.

        The network's own probability there is cut lower; where it saw nothing, voxels of about the
        same HU are joined, within `reach_mm`.
        """
        voxels, how = segment_at(
            self.scan, self.probability, place, threshold=self.threshold, reach_mm=reach_mm
        )
        message = f"{len(voxels) * self._voxel_ml:.2f} mL added by {how}"
        self._edit(Edit(voxels, is_paint=True), message)
        return how

    def brush(
        self,
        points: Sequence[Sequence[float]],
        radius_mm: float = 5.0,
        *,
        plane: str | None = None,
        erase: bool = False,
    ) -> None:
        """Paint, or erase, along `points` (d, h, w): one slice of `plane` deep, or with a ball."""
        shape, spacing_mm = self.scan.hu.shape, self.scan.spacing_mm
        voxels = stroke_voxels(points, radius_mm, shape, spacing_mm, plane)
        self._edit(Edit(voxels, is_paint=not erase), "erased" if erase else "painted")

    def undo(self) -> None:
        """Take the last decision back; nothing happens where there is none."""
        if self.can_undo:
            self._states.pop()
            self._refresh("the last step is undone")

    @property
    def can_undo(self) -> bool:
        """Return whether there is a decision to take back."""
        return len(self._states) > 1

    def _edit(self, edit: Edit, message: str) -> None:
        state = self._states[-1]
        decisions = state.decisions
        if edit.is_paint:  # what is painted over is no longer dropped
            decisions = (*decisions, (edit.voxels, True))
        self._enter(State(state.threshold, decisions, (*state.edits, edit)), message)

    def _enter(self, state: State, message: str) -> None:
        self._states.append(state)
        self._refresh(message)

    def _mark(self) -> None:
        for mark in self.marks:
            self._mask.ravel()[mark.voxels] = 0
        self.marks = self._candidates.marks(self._states[-1])
        for mark in self.marks:
            self._mask.ravel()[mark.voxels] = mark.is_kept

    def _refresh(self, message: str) -> None:
        self._mark()
        self.message = message
        for listener in self._listeners:
            listener()

    def observe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change."""
        self._listeners.append(listener)

    def scores(self) -> dict[str, float | int]:
        """Return `tumours` and `volume_ml` of what is kept; with a truth, how right it is too.

        dice, lesions_true, lesions_found and false_positives are those of notebook 05.
        """
        kept = [mark.voxels for mark in self.marks if mark.is_kept]
        volume_ml = round(sum(map(len, kept)) * self._voxel_ml, 2)
        scores: dict[str, float | int] = {"tumours": len(kept), "volume_ml": volume_ml}
        return scores | (self.truth.scores(self._mask, kept) if self.truth else {})

    def missed(self) -> list[tuple[int, int, int]]:
        """Return a voxel (d, h, w) in the middle of each true tumour that is not found."""
        return self.truth.missed(self._mask) if self.truth else []

    def table(self) -> list[dict]:
        """Return a row for each tumour that is kept, as `measure_tumours` does."""
        return measure_tumours(self._mask, self.scan)

    def save(self, path: str | Path = "") -> list[Path]:
        """Write the corrected mask on the scan's own grid; return the files.

        `path` ends in .nii or .nii.gz, or in .dcm for a DICOM SEG, which needs a scan that was a
        DICOM series. Without it both are written to `folder`, the latter where it can be; what is
        replaced there is a mask of the same scan. Raises LungsegError for the scan's own file.
        """
        targets = [Path(path)] if path else default_targets(self.folder, self.scan)
        refuse_the_scan(targets, self.scan)
        for target in targets:
            if target.suffix.lower() == ".dcm":
                from lungseg_utils.volume.dicom_seg import write_segmentation

                write_segmentation(target, self._mask, self.scan, by_hand=True)
            else:
                write_mask(target, self._mask, self.scan)
        return targets

    def view(self, *, interactive: bool | None = None) -> DOMWidget | Figure:
        """Return the widget to decide with; without a front end, a figure of where it stands."""
        from lungseg_utils.viewer.show import show_session

        return show_session(self, interactive=interactive)
