"""A clock on the terminal, for work that tells nothing of how far it is."""

import contextlib
import threading
from collections.abc import Iterator

from lungseg_utils.runtime import progress


@contextlib.contextmanager
def clock(label: str) -> Iterator[None]:
    """Show `label` and the time since, each second, on standard error, on a terminal only."""
    bar = progress((), label)
    bar.bar_format = "{desc}: {elapsed}"
    is_over = threading.Event()

    def tick() -> None:
        bar.refresh()
        while not is_over.wait(1):
            bar.refresh()

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield
    finally:
        is_over.set()
        ticking.join()
        bar.close()
