"""Patches: cut in the right place, label and scan turned alike, lesions seen as often as asked."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers_cases import ball, make_prepared

from lungseg_utils.patches import (
    NO_AUGMENTATION,
    Augmentation,
    cut_patches,
    draw_batch,
    make_training_case,
)
from lungseg_utils.patches.augmentation import _coarsen, _smooth, crop_field_of_view
from lungseg_utils.patches.rng import BLOCK, Rng
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import PADDING_HU

SHAPE = (20, 24, 22)


def training_case(**arrays):
    """Return a case with a ball in its middle, or with these arrays instead of its own."""
    return make_training_case(dataclasses.replace(make_prepared(shape=SHAPE), **arrays))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cut(case, centre, size, matrix=None, warp=None):
    """Cut one patch (d, h, w) and its label."""
    matrices = None if matrix is None else [np.array(matrix)]
    warps = None if warp is None else warp[None]
    hu, label = cut_patches([case], [np.array(centre)], size, matrices, warps)
    return hu[0], label[0]


def draw(cases, seed=0, **options):
    options = {"batch_size": 2, "patch_size": (8, 8, 8), "augmentation": NO_AUGMENTATION} | options
    return draw_batch(cases, generator=generator(seed), **options)


def test_random_numbers_are_the_generators_own_however_many_are_drawn():
    rng = Rng(generator(5))
    ours = [rng.random() for _ in range(2 * BLOCK + 3)]
    assert ours == torch.rand(3 * BLOCK, generator=generator(5))[: len(ours)].tolist()
    reached = [rng.symmetric(3.0) for _ in range(500)]
    assert -3 <= min(reached) < -2.9 and 2.9 < max(reached) <= 3
    assert {rng.choice("abc") for _ in range(100)} == set("abc")


def test_hard_examples_have_their_share_and_only_cases_that_list_some_are_drawn_for_them():
    hu = torch.arange(20 * 24 * 22).reshape(SHAPE).short()
    right = dataclasses.replace(training_case(), hu=hu)
    wrong = dataclasses.replace(right, name="wrong", hard_examples=[torch.tensor([[15, 18, 17]])])
    options = {"batch_size": 4, "foreground_share": 0.0, "patch_size": (2, 2, 2)}

    def names_drawn(hard_example_share):
        options["hard_example_share"] = hard_example_share
        return [name for seed in range(25) for name in draw([right, wrong], seed, **options)[2]]

    assert set(names_drawn(1.0)) == {"wrong"}
    patches, _, _ = draw([right, wrong], **options)
    there = float(hu[15, 18, 17])
    assert all(abs(float(patch.mean()) - there) < 600 for patch in patches)  # round that voxel
    assert 60 < names_drawn(0.5).count("wrong") < 90  # 50 + half of the rest


@pytest.mark.parametrize("size", [(6, 8, 10), (5, 7, 9), (1, 4, 3)])
def test_a_plain_patch_is_the_crop(size):
    case = training_case()
    start = [4, 5, 6]
    hu, label = cut(case, [s + (n - 1) / 2 for s, n in zip(start, size)], size)
    crop = tuple(slice(s, s + n) for s, n in zip(start, size))
    assert torch.allclose(hu, case.hu[crop].float(), atol=1e-2)
    assert torch.equal(label, case.label[crop])


def test_a_patch_beyond_the_border_is_moved_inside():
    case = training_case()
    hu, _ = cut(case, [-5.0, 100.0, 11.5], (8, 8, 8))
    assert torch.allclose(hu, case.hu[:8, -8:, 8:16].float(), atol=1e-2)


def test_a_patch_larger_than_the_scan_holds_all_of_it_with_air_round_it():
    case = training_case()
    hu, label = cut(case, [0, 0, 0], (32, 32, 30))
    inside = (slice(6, 26), slice(4, 28), slice(4, 26))
    assert torch.allclose(hu[inside], case.hu.float(), atol=1e-2)
    assert torch.equal(label[inside], case.label)
    outside = torch.ones(hu.shape, dtype=bool)
    outside[inside] = False
    assert torch.allclose(hu[outside], torch.tensor(float(PADDING_HU))) and not label[outside].any()


def test_a_mirrored_patch_is_the_flipped_crop():
    case = training_case()
    hu, label = cut(case, [9.5, 11.5, 10.5], (8, 8, 8), np.diag([1.0, 1.0, -1.0]))
    assert torch.allclose(hu, case.hu[6:14, 8:16, 7:15].flip(2).float(), atol=1e-2)
    assert torch.equal(label, case.label[6:14, 8:16, 7:15].flip(2))


def test_a_constant_warp_is_a_shift():
    case = training_case()
    shift = torch.tensor([2.0, -3.0, 1.0])[:, None, None, None].expand(3, 5, 5, 5)
    hu, label = cut(case, [9.5, 11.5, 10.5], (8, 8, 8), warp=shift)
    assert torch.allclose(hu, case.hu[8:16, 5:13, 8:16].float(), atol=1e-2)
    assert torch.equal(label, case.label[8:16, 5:13, 8:16])


def test_a_patch_of_low_resolution_has_its_mean_and_less_detail():
    case = training_case()
    coarse = _coarsen(case.hu.float(), [2.0, 2.0, 2.0])
    assert coarse.shape == case.hu.shape
    assert float(coarse.mean()) == pytest.approx(float(case.hu.float().mean()), rel=0.02)
    assert coarse.diff(dim=2).abs().mean() < 0.7 * case.hu.float().diff(dim=2).abs().mean()


def test_a_cropped_field_of_view_keeps_its_lesion_and_ends_in_one_value():
    hu = torch.arange(20.0**3).reshape(20, 20, 20)
    label = torch.zeros(20, 20, 20, dtype=torch.uint8)
    label[6:9, 10:14, 12] = 1
    for seed in range(20):
        cropped = crop_field_of_view(hu[None], label[None], Rng(generator(seed)))[0]
        kept = (cropped == hu).nonzero()
        low = kept.amin(0)
        high = kept.amax(0) + 1
        assert len(kept) == (high - low).prod()  # a box
        assert (low <= torch.tensor([6, 10, 12])).all()
        assert (high >= torch.tensor([9, 14, 13])).all()
        outside = cropped[cropped != hu].unique()
        assert len(outside) <= 1 and all(-1024 <= value <= -800 for value in outside)


def test_some_fields_of_view_are_cropped_close_round_the_lesion_and_some_wide():
    hu = torch.arange(40.0**3).reshape(40, 40, 40)
    label = torch.zeros(40, 40, 40, dtype=torch.uint8)
    label[18:22, 18:22, 18:22] = 1
    kept = []
    for seed in range(60):
        cropped = crop_field_of_view(hu[None], label[None], Rng(generator(seed)))
        kept.append((cropped == hu).float().mean())
    assert min(kept) < 12**3 / 40**3 and max(kept) > 24**3 / 40**3


def test_a_quarter_turn_is_exact():
    case = training_case()
    hu, _ = cut(case, [9.5, 11.5, 10.5], (8, 8, 8), [[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert torch.allclose(hu, torch.rot90(case.hu[6:14, 8:16, 7:15], -1, (1, 2)).float(), atol=1e-2)


def test_a_patch_is_the_same_beside_others():
    """Patches of a batch come from boxes of several sizes, the smaller with air beside them."""
    wide = dataclasses.replace(
        training_case(),
        hu=torch.full((40, 40, 40), 7, dtype=torch.int16),
        label=torch.ones((40, 40, 40), dtype=torch.uint8),
    )
    turn = np.array([[1.0, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    places = [np.array([19.0, 23.0, 0.0]), np.array([20.0, 20.0, 20.0])]
    matrices = [turn, np.diag([1.5, 1.5, 1.5])]
    together, labels = cut_patches([training_case(), wide], places, (8, 12, 10), matrices)
    alone, label = cut(training_case(), places[0], (8, 12, 10), turn)
    assert torch.allclose(together[0], alone, atol=1e-2) and torch.equal(labels[0], label)
    assert torch.allclose(together[1], torch.tensor(7.0), atol=1e-2) and labels[1].all()


def test_each_patch_is_smoothed_along_its_own_axes():
    hu = torch.zeros(3, 9, 9, 9)
    hu[:, 4, 4, 4] = 1
    smooth = _smooth(hu, [[0, 0, 0], [1, 0, 0], [0.8, 0.8, 0.8]])
    assert torch.equal(smooth[0], hu[0])
    line = torch.exp(-0.5 * (torch.arange(9) - 4.0) ** 2) * ((torch.arange(9) - 4).abs() <= 3)
    assert torch.allclose(smooth[1, :, 4, 4], line / line.sum()) and smooth[1].count_nonzero() == 7
    assert torch.allclose(smooth.sum((1, 2, 3)), torch.ones(3))
    assert smooth[2].count_nonzero() == 7**3


def test_the_label_follows_the_scan_under_every_augmentation():
    """A scan that is bright exactly where the label is 1 still is after flips, turns and zoom."""
    label = ball(SHAPE, (10, 9, 13), 4).astype(np.uint8)
    case = training_case(label=label, hu=np.where(label, 0, -1000).astype(np.int16))
    spatial = Augmentation(gain=0, offset_hu=0, noise_hu=0, blur=0, sharpen=0, elastic_voxels=1.5)
    options = {"augmentation": spatial, "foreground_share": 1.0, "patch_size": (16, 16, 16)}
    volumes = []
    for seed in range(10):
        hu, patch, _ = draw([case], seed, **options)
        clear = (hu + 500).abs() > 50  # half-way voxels may fall on either side
        assert torch.equal((hu > -500)[clear], (patch > 0)[clear])
        volumes += patch.sum((1, 2, 3, 4)).tolist()
    assert max(volumes) > 1.15 * np.median(volumes)  # the scale did vary


def test_the_share_of_patches_on_lesions_is_kept():
    """Patches are one voxel: the label of each says whether it was centred in the lesion."""
    label = np.zeros(SHAPE, np.uint8)
    label[6:14, 8:16, 7:15] = 1  # touches no border
    case = training_case(label=label)

    def labels_drawn(cases, seed=0, **options):
        return draw(cases, seed, patch_size=(1, 1, 1), **options)[1]

    shares = []
    for seed in range(30):
        drawn = labels_drawn([case], seed, batch_size=10, foreground_share=0.67)
        shares.append(drawn.float().mean())
    elsewhere = label.mean()  # of the patches that are centred anywhere
    assert np.mean(shares) == pytest.approx(0.67 + 0.33 * elsewhere, abs=0.05)
    assert min(shares) >= 0.6  # in every batch, not only in the long run
    assert labels_drawn([case], batch_size=40, foreground_share=1.0).all()
    empty = training_case(label=np.zeros(SHAPE, np.uint8))  # is not drawn for lesions
    assert labels_drawn([case, empty], batch_size=40, foreground_share=1.0).all()
    for seed in range(40):  # by their numbers the first half of a batch is centred in lesions
        part = labels_drawn([case], seed, batch_size=4, part=[seed % 4], foreground_share=0.5)
        assert len(part) == 1 and (part.all() or seed % 4 >= 2)


def test_a_small_lesion_is_drawn_as_often_as_a_large_one():
    label = np.zeros(SHAPE, np.uint8)
    label[2:10, 2:20, 2:20] = 1
    label[14:16, 14:16, 14:16] = 1
    hu = np.zeros(SHAPE, np.int16)
    hu[13:17, 13:17, 13:17] = 1000
    case = training_case(label=label, hu=hu)
    drawn = draw([case], batch_size=200, patch_size=(1, 1, 1), foreground_share=1.0)[0]
    assert (drawn > 500).float().mean() == pytest.approx(0.5, abs=0.12)


def test_a_crumb_beside_a_lesion_is_no_lesion_to_draw():
    label = np.zeros(SHAPE, np.uint8)
    label[2:10, 2:20, 2:20] = 1
    label[15, 15, 15] = 1
    lesions = training_case(label=label).lesions
    assert [len(lesion) for lesion in lesions] == [8 * 18 * 18]


def test_a_case_without_a_lesion_is_drawn_from_its_region():
    case = training_case(label=np.zeros(SHAPE, np.uint8))
    hu, label, names = draw([case], foreground_share=1.0)
    assert hu.shape == (2, 1, 8, 8, 8) and not label.any() and names == ["case_0", "case_0"]


def test_a_case_without_a_label_cannot_be_trained_on():
    with pytest.raises(LungsegError, match="case_0: it has no label"):
        training_case(label=None)


def test_the_generator_decides_everything():
    cases = [training_case(), training_case()]
    once, again, other = (draw(cases, seed, augmentation=Augmentation()) for seed in (3, 3, 4))
    assert torch.equal(once[0], again[0]) and torch.equal(once[1], again[1])
    assert not torch.equal(once[0], other[0])


def test_without_augmentation_the_voxels_are_those_of_the_scan():
    case = training_case()
    hu, _, _ = draw([case])
    assert torch.isin(hu.round().to(torch.int16), case.hu).all()


def test_what_is_mapped_stays_on_the_disk(tmp_path):
    np.save(tmp_path / "hu.npy", make_prepared(shape=SHAPE).hu)
    mapped = np.load(tmp_path / "hu.npy", mmap_mode="r")
    case = training_case(hu=mapped)
    assert case.hu.data_ptr() == mapped.ctypes.data  # read when a patch asks for it
