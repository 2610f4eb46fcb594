"""Which arguments make a SegUNet."""

from collections.abc import Sequence


def check_architecture(
    channels: Sequence[int], pools: Sequence[Sequence[int]], upsample: str, skip: str
) -> None:
    """Raise ValueError for arguments that make no SegUNet."""
    stages = len(channels)
    sides = [side for pool in pools for side in pool]
    are_pools = all(len(pool) == 3 for pool in pools)
    are_pools = are_pools and all(isinstance(side, int) and side > 0 for side in sides)
    for holds, complaint in (
        (stages >= 2, f"a SegUNet needs at least two stages, got channels={channels}"),
        (len(pools) == stages - 1, f"{stages} stages need {stages - 1} pools, got {pools}"),
        (are_pools, f"a pool is three whole numbers from 1 on, got {pools}"),
        (upsample in ("unpool", "transpose"), f"upsample is unpool or transpose, got {upsample!r}"),
        (skip in ("concat", "none"), f"skip is concat or none, got {skip!r}"),
    ):
        if not holds:
            raise ValueError(complaint)
