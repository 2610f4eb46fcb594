"""A training that is stopped by hand: Ctrl-C, SIGTERM, or the stop button of a notebook."""

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from lungseg_utils.live import is_live
from lungseg_utils.runtime import warn
from lungseg_utils.training.run import Run


class Stopped(KeyboardInterrupt):
    """A training that was stopped in a notebook: the cell ends with a sentence, no traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


@contextlib.contextmanager
def stoppable(run: Run, run_dir: Path, *, resumes: bool) -> Iterator[None]:
    """Report how a training that is stopped while the block runs goes on; SIGTERM is as Ctrl-C.

    `resumes`: the same call would go on.
    """
    with stop_on_sigterm():
        try:
            yield
        except KeyboardInterrupt:
            if is_live():
                act = "run the cell again" if resumes else "call it again with resume=True"
                text = f"Training stopped: {act} to go on after the last whole epoch."
                raise Stopped(text) from None
            how = "resume goes on after the last whole epoch"
            if "recipe" in run.settings:
                how = f"to go on: lungseg train --run-dir {shlex.quote(str(run_dir))} --resume"
            warn(f"{run_dir}: stopped; {how}")
            raise


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C while the block runs, where the main thread allows it."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
