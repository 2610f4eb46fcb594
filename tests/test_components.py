"""Components and boxes: as scipy labels them, and as counted by hand."""

import numpy as np
import pytest
from helpers_cases import ball
from scipy import ndimage

from lungseg_utils.components import (
    FACE_NEIGHBOURS,
    LESION_NEIGHBOURS,
    SMALLEST_LESION_MM3,
    bounding_box,
    drop_below_peak,
    drop_small,
    label_components,
    list_components,
)

TOUCHING = {26: np.ones((3, 3, 3)), 6: None, 8: np.ones((3, 3)), 4: None}  # None: by faces


def random_mask(shape, share=0.2, seed=0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


def same_partition(one, other) -> bool:
    """Whether two labellings differ in nothing but the numbers they use."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return all(len(np.unique(numbers)) == pairs.shape[1] for numbers in pairs)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize(
    ("shape", "neighbours"),
    [((9, 10, 11), 26), ((9, 10, 11), 6), ((1, 1, 7), 26), ((12, 13), 8), ((12, 13), 4)],
)
def test_components_are_those_of_scipy(shape, neighbours, share):
    mask = random_mask(shape, share)
    ours = label_components(mask, neighbours=neighbours)
    theirs, count = ndimage.label(mask, TOUCHING[neighbours])
    assert ours.shape == mask.shape and int(ours.max()) == count
    assert np.array_equal(ours > 0, mask > 0) and same_partition(ours, theirs)


def test_a_lesion_touches_by_a_corner_and_a_part_of_the_lungs_by_a_face():
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[1, 1, 2] = 1
    assert LESION_NEIGHBOURS == 26 and FACE_NEIGHBOURS == 6
    assert label_components(mask).max() == 1
    assert label_components(mask, neighbours=FACE_NEIGHBOURS).max() == 2


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_a_view_of_a_larger_array_is_labelled_as_it_is(dtype):
    mask = random_mask((20, 22, 24)).astype(dtype)[::2, ::-1, 3:]
    theirs, _ = ndimage.label(mask, TOUCHING[26])
    assert same_partition(label_components(mask), theirs)


@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 8, 1), (12, 13)])
@pytest.mark.parametrize("seed", range(5))
def test_the_box_is_the_smallest_that_holds_what_is_marked(shape, seed):
    mask = random_mask(shape, 3 / np.prod(shape), seed)
    mask[tuple(side // 2 for side in shape)] = 1
    assert bounding_box(mask) == ndimage.find_objects(mask)[0]
    assert bounding_box(mask > 0) == bounding_box(mask)


def test_the_box_of_nothing_is_empty():
    box = bounding_box(np.zeros((4, 5, 6), np.uint8))
    assert box == (slice(0, 0),) * 3


def test_lesions_are_listed_with_their_voxels():
    mask = random_mask((14, 15, 16), 0.05)
    theirs, count = ndimage.label(mask, TOUCHING[26])
    lesions = list_components(mask)
    assert len(lesions) == count and sum(map(len, lesions)) == mask.sum()
    for voxels in lesions:
        number = theirs[tuple(voxels[0])]
        assert number > 0
        assert {*map(tuple, voxels.tolist())} == {*map(tuple, np.argwhere(theirs == number))}


def test_lesions_counted_by_hand():
    mask = np.zeros((6, 7, 8), bool)
    mask[2, 3, 4] = mask[3, 4, 5] = True  # they touch by a corner
    mask[5, 0, 7] = True
    first, second = list_components(mask)
    assert first.tolist() == [[2, 3, 4], [3, 4, 5]] and second.tolist() == [[5, 0, 7]]
    assert list_components(np.zeros((6, 7, 8), np.uint8)) == []


def test_lesions_below_fifty_cubic_millimetres_are_dropped_in_place():
    mask = ball((20, 20, 20), (10, 10, 10), 4).astype(np.uint8)
    expected = mask.copy()
    mask[0, 0, 0] = 1
    mask[18, 18, 17:19] = 1
    same = mask
    drop_small(same, (3.0, 3.0, 3.0))  # a voxel has 27 mm³, two have 54
    expected[18, 18, 17:19] = 1
    assert SMALLEST_LESION_MM3 == 50 and np.array_equal(mask, expected)
    drop_small(mask, (3.0, 3.0, 3.0), smallest_mm3=54.5)
    expected[18, 18, 17:19] = 0
    assert np.array_equal(mask, expected)
    drop_small(mask, (0.1, 0.1, 0.1))
    assert not mask.any()
    drop_small(mask, (0.1, 0.1, 0.1))  # an empty mask stays empty


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8)])
def test_what_is_dropped_as_small_is_what_scipy_counts_as_small(spacing_mm):
    mask = random_mask((16, 30, 30), 0.08)
    numbers, _ = ndimage.label(mask, TOUCHING[26])
    sizes_mm3 = np.bincount(numbers.ravel()) * np.prod(spacing_mm)
    expected = np.where(sizes_mm3[numbers] < 20, 0, mask)
    drop_small(mask, spacing_mm, smallest_mm3=20)
    assert np.array_equal(mask, expected) and mask.sum() > 0


def test_what_is_nowhere_certain_is_dropped():
    probability = np.zeros((6, 6, 6), np.float32)
    probability[:2, :2, :2] = 0.6
    probability[0, 0, 0] = 0.9  # certain in one voxel
    probability[4:, 4:, 4:] = 0.8  # never certain
    probability[0, 5, 5] = 0.4  # below the threshold: of no lesion
    expected = probability.copy()
    expected[4:, 4:, 4:] = 0
    drop_below_peak(probability, 0.5, 0.85)
    assert np.array_equal(probability, expected)
    drop_below_peak(probability, 0.5, 0.9)  # a peak that is reached is enough
    assert np.array_equal(probability, expected)


def test_the_peak_of_each_lesion_is_its_maximum():
    probability = np.random.default_rng(0).random((12, 13, 14), np.float32) ** 3
    numbers, count = ndimage.label(probability >= 0.5, TOUCHING[26])
    peaks = ndimage.maximum(probability, numbers, np.arange(count + 1))
    is_dropped = peaks < 0.8
    is_dropped[0] = False
    expected = np.where(is_dropped[numbers], 0, probability)
    assert 0 < is_dropped.sum() < count
    drop_below_peak(probability, 0.5, 0.8)
    assert np.array_equal(probability, expected)


def test_a_map_without_a_lesion_stays_as_it_is():
    probability = np.full((3, 4, 5), 0.2, np.float32)
    drop_below_peak(probability, 0.5, 0.9)
    assert (probability == np.float32(0.2)).all()
