"""Batches drawn ahead: on a GPU the next one is drawn beside the network."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor, list[str]]  # HU and label (B, 1, d, h, w), and the names of the cases


def prefetch(draw: Callable[[], Batch], count: int, device: torch.device) -> Iterator[Batch]:
    """Yield `count` batches of `draw`; on a GPU the next is drawn while the network uses this one.

    Never more than `count` are drawn: the random numbers go on from there as if each had been
    drawn when needed.
    """
    if device.type != "cuda":
        for _ in range(count):
            yield draw()
        return
    aside = torch.cuda.Stream(device)

    def draw_aside() -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(aside):
            return draw(), aside.record_event()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(draw_aside)
        for left in reversed(range(count)):
            batch, is_drawn = coming.result()
            if left:
                coming = pool.submit(draw_aside)
            here = torch.cuda.current_stream(device)
            here.wait_event(is_drawn)
            for tensor in batch[:2]:
                tensor.record_stream(here)  # the next batch may not take its memory before its use
            yield batch
