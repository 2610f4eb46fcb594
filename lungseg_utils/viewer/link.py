"""Between a session and its widget: what was decided goes out, what the reader does comes in."""

from typing import Any

import numpy as np

from lungseg_utils.runtime import LungsegError, home
from lungseg_utils.viewer.packing import pack_runs
from lungseg_utils.viewer.session import Session
from lungseg_utils.viewer.widget import MOST_ROWS, ScanView, list_row, scan_traits


class Link:
    """A session and one widget, `view`, that shows it and lets the reader decide."""

    def __init__(self, session: Session):
        self.session = session
        truth = session.truth
        parts = truth.parts if truth else []
        rows = [list_row(session.scan, part, kind="missed") for part in parts]
        self.lesions = {tuple(row["centre"]): row for row in rows}
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}  # what was measured before
        self.is_acting = False
        has = {"truth": truth is not None, "prediction": True, "editable": True}
        first = [self._row(1)] if session.marks else list(self.lesions.values())
        packed = _pack(parts)
        self.view = ScanView(**scan_traits(session.scan, first, has), truth=packed)
        session.observe(self._follow)
        self.view.on_msg(self._answer)
        self._show()

    def _follow(self) -> None:
        if not self.is_acting:
            self._show()

    def _show(self, answered: int = 0, message: str = "") -> None:
        session = self.session
        marks = session.marks
        missed = [self.lesions[place] for place in session.missed()]
        listed = [self._row(number) for number in range(1, len(marks[:MOST_ROWS]) + 1)]
        with self.view.hold_sync():
            self.view.kept = _pack([mark.voxels for mark in marks if mark.is_kept])
            self.view.dropped = _pack([mark.voxels for mark in marks if not mark.is_kept])
            self.view.state = {
                "threshold": session.threshold,
                "rows": listed + missed,
                "scores": session.scores(),
                "canUndo": session.can_undo,
                "message": message or session.message,
                "answered": answered,
            }

    def _row(self, number: int) -> dict[str, Any]:
        mark = self.session.marks[number - 1]
        key = (mark.peak, len(mark.voxels))
        if key not in self.rows:
            self.rows[key] = list_row(self.session.scan, mark.voxels, kind="prediction")
        return self.rows[key] | {
            "number": number,
            "peak": mark.peak,
            "kept": mark.is_kept,
            "certain": mark.is_certain,
            "confidence": None if mark.is_by_hand else round(mark.confidence, 3),
        }

    def _answer(self, _: object, content: dict[str, Any], buffers: object) -> None:
        if content["kind"] == "hu":
            place = tuple(content["place"])
            hu = float(self.session.scan.hu[place])
            self.view.send({"kind": "hu", "place": list(place), "hu": hu})
            return
        self.is_acting = True
        try:
            message = act(self.session, content)
        except LungsegError as error:
            message = f"{error.cause}. {error.remedy}"
        finally:
            self.is_acting = False
        self._show(content["asked"], message)


def act(session: Session, content: dict[str, Any]) -> str:
    """Do what the reader did in the front end; return a message where the session has none."""
    kind = content["kind"]
    if kind == "threshold":
        session.threshold = content["value"]
    elif kind in ("keep", "drop"):
        return _decide(session, content["peak"], kind == "keep")
    elif kind == "add":
        session.add(content["place"])
    elif kind == "brush":
        points, radius_mm = content["points"], content["radius"]
        session.brush(points, radius_mm, plane=content["plane"], erase=content["erase"])
    elif kind == "undo":
        session.undo()
    elif kind == "save":
        files = session.save()
        folder = files[0].parent
        shown = folder.relative_to(home()) if folder.is_relative_to(home()) else folder
        return f"saved in {shown.as_posix()}: " + ", ".join(path.name for path in files)
    return ""


def _decide(session: Session, peak: int, is_kept: bool) -> str:
    """Keep or drop the mark at the voxel `peak`: numbers change on the way with the threshold."""
    for number, mark in enumerate(session.marks, 1):
        if np.isin(peak, mark.voxels):
            (session.keep if is_kept else session.drop)(number)
            return ""
    return "that mark is no longer there"


def _pack(parts: list[np.ndarray]) -> bytes:
    return pack_runs(np.sort(np.concatenate(parts))) if parts else b""
