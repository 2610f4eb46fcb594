"""Which patches a batch holds: drawn from cases and sets, cut, varied."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lungseg_utils.patches.augmentation import (
    USUAL_AUGMENTATION,
    Augmentation,
    crop_field_of_view,
    cut_to_cubes,
    fill_unknown,
    random_matrix,
    vary_intensity,
)
from lungseg_utils.patches.cases import TrainingCase
from lungseg_utils.patches.cutting import WARP_POINTS, cut_patches
from lungseg_utils.patches.rng import Rng


def draw_batch(
    cases: Sequence[TrainingCase],
    *,
    batch_size: int,
    patch_size: Sequence[int],
    generator: torch.Generator,
    part: Sequence[int] | None = None,
    foreground_share: float = 0.67,
    hard_example_share: float = 0.0,
    shares: Sequence[float] = (),
    augmentation: Augmentation = USUAL_AUGMENTATION,
) -> tuple[Tensor, Tensor, list[str]]:
    """Draw HU (B, 1, d, h, w), labels (B, 1, d, h, w) and the names of the cases they come from.

    `foreground_share` of the batch is centred in a lesion: first a case is drawn, then a lesion of
    it, then a voxel of that, so that a nodule is seen as often as a tumour beside it a thousand
    times its volume. `hard_example_share` is centred in the cases' hard examples, where they have
    any. The rest is centred anywhere in the region. Of several sets each gives its share of
    `shares`; without these every case is drawn as often. With `part`, only the patches of these
    numbers are drawn: the share of one of several processes.

    Where some of the cases are crops, a label is UNKNOWN beyond them, and beyond the cubes to which
    patches of whole scans are then cut as often as `augmentation` says.
    """
    rng = Rng(generator)
    numbers = range(batch_size) if part is None else part
    counts = (foreground_share * batch_size, hard_example_share * batch_size)
    sets = _sets_of(cases, shares)
    drawn, centres = _draw_centres(sets, numbers, counts, patch_size, rng)
    matrices = None
    if augmentation.mirror or augmentation.rotate_degrees or augmentation.scale:
        matrices = [random_matrix(augmentation, rng) for _ in drawn]
    warps = None
    if augmentation.elastic_voxels:
        shifts = torch.rand([len(drawn), 3, *[WARP_POINTS] * 3], generator=generator)
        warps = (2 * shifts - 1) * augmentation.elastic_voxels
    hu, label = cut_patches(drawn, centres, patch_size, matrices, warps)
    hu = vary_intensity(hu, augmentation, rng)
    chance = augmentation.field_of_view_crop
    cropped = [number for number in range(len(drawn)) if rng.random() < chance]
    if cropped:
        hu[cropped] = crop_field_of_view(hu[cropped], label[cropped], rng)
    crops = [case for case in cases if case.is_crop]
    if crops:
        whole = [number for number, case in enumerate(drawn) if not case.is_crop]
        cubes = [number for number in whole if rng.random() < augmentation.cube]
        if cubes:
            label[cubes] = cut_to_cubes(label[cubes], rng.choice(crops).hu.shape, rng)
        hu = fill_unknown(hu, label, rng)
    return hu[:, None], label[:, None], [case.name for case in drawn]


def _sets_of(
    cases: Sequence[TrainingCase], shares: Sequence[float]
) -> list[tuple[float, list[TrainingCase]]]:
    """Return the cases of each set, with the share of the patches up to and with it."""
    if not shares or all(case.set_number == 0 for case in cases):
        return [(1.0, list(cases))]
    return [
        (
            sum(shares[: number + 1]) / sum(shares),
            [case for case in cases if case.set_number == number],
        )
        for number in range(len(shares))
    ]


def _draw_centres(
    sets: Sequence[tuple[float, list[TrainingCase]]],
    numbers: Sequence[int],
    counts: tuple[float, float],
    patch_size: Sequence[int],
    rng: Rng,
) -> tuple[list[TrainingCase], list[np.ndarray]]:
    """Draw a case and a centre (voxel) for each patch of these numbers.

    `counts` is how many patches of a batch are centred in lesions and how many in hard examples;
    what a whole number leaves of them is drawn.
    """
    drawn = []
    centres = []
    for number in numbers:
        place_of_set = rng.random() if len(sets) > 1 else 0.0
        cases = next(own for up_to, own in sets if place_of_set < up_to)
        with_lesions = [case for case in cases if case.lesions]
        with_hard_examples = [case for case in cases if case.hard_examples]
        case = rng.choice(cases)
        voxels = case.elsewhere
        place = number + rng.random() - counts[0]
        if with_lesions and place < 0:
            case = case if case.lesions else rng.choice(with_lesions)
            voxels = rng.choice(case.lesions)
        elif with_hard_examples and 0 <= place < counts[1]:
            case = rng.choice(with_hard_examples)
            voxels = rng.choice(case.hard_examples)
        centre: np.ndarray = rng.choice(voxels).numpy()  # type: ignore[arg-type]
        shift = np.array([side * rng.symmetric(0.25) for side in patch_size])
        drawn.append(case)
        centres.append(centre + shift)
    return drawn, centres
