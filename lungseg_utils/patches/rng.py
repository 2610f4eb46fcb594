"""Random numbers for patches: a torch generator behind the words of Python's `random`."""

from collections.abc import Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
BLOCK = 256


class Rng:
    """Uniform random numbers of `generator`, drawn many at a time.

    One at a time they would take longer than the patch.
    """

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.block: list[float] = []

    def random(self) -> float:
        """Return a number in [0, 1)."""
        if not self.block:
            self.block = torch.rand(BLOCK, generator=self.generator).tolist()
            self.block.reverse()
        return self.block.pop()

    def symmetric(self, reach: float) -> float:
        """Return a number between `-reach` and `reach`."""
        return reach * (2 * self.random() - 1)

    def choice(self, items: Sequence[Item]) -> Item:
        """Return one of `items`."""
        return items[int(len(items) * self.random())]
