"""What is seen of a training while it runs: a bar within the epoch and, in JupyterLab, the curves.

On a terminal the bar is tqdm's. In a notebook that somebody looks at, one output of the cell is
updated, and holds in the end a picture of the curves alone. Elsewhere (papermill, nbval, a pipe)
there is the line an epoch and no more.
"""

import base64
import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState

from lungseg_utils.live import is_live
from lungseg_utils.runtime import progress

UPDATE_S = 0.4  # from one update of a notebook to the next, at least
PICTURE_S = {"watched": 2.0, "alone": 10.0}  # so too of the curves: to draw them takes 0.2 s
WIDTH = 860  # of the curves, in pixels

Item = TypeVar("Item")


class Watch:
    """One output of a notebook's cell, updated: the bar and, under it, the curves so far."""

    def __init__(self, picture: Path, epochs: int) -> None:
        from IPython.display import HTML, display

        self.picture = picture
        self.epochs = epochs
        self.curves = ""
        self.shown_s = 0.0
        self.handle: Any = display(HTML(""), display_id=True)

    def draw_curves(self, epoch: int) -> None:
        """Take over the picture of the run folder, which shows the epochs up to this one."""
        if not self.picture.is_file():
            return
        source = f"data:image/png;base64,{base64.b64encode(self.picture.read_bytes()).decode()}"
        if source not in self.curves:
            alt = f"loss and scores of {epoch} of {self.epochs} epochs"
            self.curves = f'<br><img src="{source}" alt="{alt}" width="{WIDTH}">'

    def draw_bar(self, description: str, done: int, total: int) -> None:
        """Show how far the work on the epoch is, unless that was shown just now."""
        from IPython.display import HTML

        if done and time.perf_counter() < self.shown_s + UPDATE_S:
            return
        bar = f'<progress value="{done}" max="{total}" style="width: 30em"></progress>'
        self.handle.update(HTML(f"{bar} {description}, {done} of {total}{self.curves}"))
        self.shown_s = time.perf_counter()

    def close(self) -> None:
        """Leave the curves, if there are any, and no bar."""
        from IPython.display import HTML, Image

        last = Image(self.picture.read_bytes(), width=WIDTH) if self.curves else HTML("")
        self.handle.update(last)


WATCH: ContextVar[Watch | None] = ContextVar("WATCH", default=None)  # of the training that runs


@contextlib.contextmanager
def watched(picture: Path, epochs: int) -> Iterator[None]:
    """Show a training in its notebook while the block runs, if somebody looks at it."""
    if not is_live() or sys.stdout is None:  # as within `contextlib.redirect_stdout(None)`
        yield
        return
    watch = Watch(picture, epochs)
    before = WATCH.set(watch)
    try:
        yield
    finally:
        WATCH.reset(before)
        watch.close()


def picture_age_s() -> float:
    """Return how old the picture of the curves may become before it is drawn again."""
    return PICTURE_S["watched" if WATCH.get() else "alone"]


def show_curves(epoch: int) -> None:
    """Show the curves up to `epoch` in the notebook, if somebody looks at it."""
    watch = WATCH.get()
    if watch:
        watch.draw_curves(epoch)


def count_off(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield `items` with a bar, in the first process: on a terminal, or in the notebook."""
    watch = WATCH.get()
    if watch is None:
        is_first = PartialState().is_main_process
        yield from progress(items, description, total) if is_first else items
        return
    for done, item in enumerate(items):
        watch.draw_bar(description, done, total)
        yield item
    watch.draw_bar(description, total, total)
