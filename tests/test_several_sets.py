"""Several sets in one training, and sets that hold crops of chests."""

import json
from collections import Counter
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from helpers_cases import TINY, make_prepared
from helpers_sets import write_crops

from lungseg_utils import cli, decathlon, parameters, phantom, training
from lungseg_utils.patches import (
    NO_AUGMENTATION,
    UNKNOWN,
    USUAL_AUGMENTATION,
    cut_patches,
    draw_batch,
    make_training_case,
)
from lungseg_utils.patches.augmentation import cut_to_cubes
from lungseg_utils.patches.rng import Rng
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training.losses import make_loss
from lungseg_utils.training.network import whole_batch_loss
from lungseg_utils.training.run import start_run

SETTINGS = parameters.defaults() | {
    "spacing_mm": 8.0,
    "patch_size": [16, 16, 16],
    "channels": [2, 4],
    "epochs": 1,
    "steps_per_epoch": 1,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    return phantom.write_dataset(tmp_path_factory.mktemp("sets") / "chests", cases=3, test_cases=0)


@pytest.fixture
def crops(tmp_path):
    return write_crops(tmp_path / "crops")


def crop_case(seed=0, side=12):
    return make_training_case(replace(make_prepared(seed, (side,) * 3), is_crop=True))


def draw(cases, shares=(), batch_size=400, augmentation=NO_AUGMENTATION, seed=0):
    return draw_batch(
        cases,
        batch_size=batch_size,
        patch_size=(8, 8, 8),
        generator=torch.Generator().manual_seed(seed),
        shares=shares,
        augmentation=augmentation,
    )


def test_each_set_gives_its_share_whatever_the_number_of_its_cases():
    cases = [make_training_case(make_prepared(seed, name=f"many_{seed}")) for seed in range(9)]
    few = make_training_case(make_prepared(9, name="few"))
    cases.append(replace(few, set_number=1))
    drawn = Counter(name.split("_")[0] for name in draw(cases, shares=(1, 3))[2])
    assert drawn["few"] == pytest.approx(300, abs=30)
    drawn = Counter(name.split("_")[0] for name in draw(cases)[2])
    assert drawn["few"] == pytest.approx(40, abs=25)


def test_a_set_with_a_share_of_nothing_is_never_drawn():
    cases = [make_training_case(make_prepared(seed, name=str(seed))) for seed in range(2)]
    cases[1] = replace(cases[1], set_number=1)
    assert set(draw(cases, shares=(1, 0))[2]) == {"0"}


def test_a_set_without_tumours_keeps_its_share():
    empty = make_prepared(1, name="healthy")
    empty = make_training_case(replace(empty, label=np.zeros_like(empty.label)))
    cases = [make_training_case(make_prepared(0)), replace(empty, set_number=1)]
    drawn = Counter(draw(cases, shares=(1, 1))[2])
    assert drawn["healthy"] == pytest.approx(200, abs=30)


def test_a_crop_is_prepared_whole_and_without_a_search_for_lungs(crops, capsys):
    dataset = decathlon.load(crops)
    prepared = prepare_cases(dataset.training[:1], spacing_mm=2.0)[0]
    assert prepared.is_crop and prepared.hu.shape == (30, 30, 30) and prepared.region.all()
    assert "no lungs" not in capsys.readouterr().err


def test_the_cache_tells_a_crop_from_a_whole_scan_of_the_same_voxels(tmp_path):
    kinds = []
    for crops in (True, False, True):
        folder = write_crops(tmp_path / f"set_{len(kinds)}", count=2, crops=crops)
        case = prepare_cases(decathlon.load(folder).training[:1], spacing_mm=4.0)[0]
        kinds.append(case.is_crop)
    assert kinds == [True, False, True]


@pytest.mark.parametrize("stated", ["yes", 1, None, []])
def test_what_the_set_says_of_its_crops_is_true_or_false(tmp_path, stated):
    folder = write_crops(tmp_path / "set", count=2, crops=stated)
    with pytest.raises(LungsegError, match='"crops" is'):
        decathlon.load(folder)


def test_beyond_a_crop_the_label_is_unknown_and_the_patch_is_filled():
    case = crop_case()
    hu, label = cut_patches([case], [np.array([1.0, 6.0, 6.0])], (8, 8, 8))
    outside = label[0] == UNKNOWN
    assert outside[:2].all() and not outside[2:].any()
    assert torch.allclose(hu[0, 2:], case.hu[:6, 3:11, 3:11].float(), atol=0.1)


def test_a_patch_of_a_whole_scan_is_known_everywhere_though_a_crop_is_beside_it():
    cases = [crop_case(), make_training_case(make_prepared(1, (6, 6, 6)))]
    _, label = cut_patches(cases, [np.array([1.0, 6.0, 6.0]), np.array([3.0, 3.0, 3.0])], (8, 8, 8))
    assert (label[0] == UNKNOWN).any() and not (label[1] == UNKNOWN).any()


def test_tumours_of_crops_are_not_in_the_middle_of_their_patches():
    _, label, _ = draw([crop_case()], batch_size=64)
    middles = [np.argwhere(one[0].numpy() == 1).mean(0) for one in label if (one == 1).any()]
    assert np.std(middles, axis=0).min() > 0.8


def test_whole_scans_are_cut_to_cubes_as_often_as_the_augmentation_says():
    chest = make_training_case(make_prepared(0, (40, 40, 40), name="chest"))
    cases = [chest, replace(crop_case(side=6), set_number=1)]
    half = replace(NO_AUGMENTATION, cube=0.5)
    hu, label, names = draw(cases, shares=(1, 1), augmentation=half)
    is_cut = (label == UNKNOWN).flatten(1).any(1)
    of_chests = [bool(cut) for cut, name in zip(is_cut, names) if name == "chest"]
    assert 0.3 < np.mean(of_chests) < 0.6
    with_tumour = (label == 1).flatten(1).any(1)
    assert (is_cut & with_tumour).any() and (is_cut & ~with_tumour).any()
    beyond = hu[label == UNKNOWN]
    assert beyond.min() >= -1024 and beyond.max() <= -800


def test_without_crops_no_scan_is_cut_to_a_cube():
    cases = [make_training_case(make_prepared(0, (40, 40, 40)))]
    _, label, _ = draw(cases, batch_size=8, augmentation=replace(USUAL_AUGMENTATION, cube=1.0))
    assert not (label == UNKNOWN).any()


def test_a_cube_of_the_patches_size_is_moved_to_one_side():
    label = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    cut = cut_to_cubes(label, (4, 4, 4), Rng(torch.Generator().manual_seed(0)))
    assert (cut == 0).sum() in (64, 48, 32) and not label.any()


@pytest.mark.parametrize("name", ["dice_ce", "dice_ce_balanced", "tversky", "focal"])
def test_what_is_unknown_has_no_loss_and_no_gradient(name):
    accelerator = start_run(TINY, "cpu").accelerator
    label = torch.zeros((1, 1, 8, 8, 8))
    label[..., 2:4, 2:4, 2:4] = 1
    label[..., 5:] = UNKNOWN
    logits = torch.randn(label.shape, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    losses = []
    for beyond in (0.0, 9.0):
        own = torch.where(label == UNKNOWN, beyond, logits)
        losses.append(whole_batch_loss(accelerator, make_loss(name), [own], label))
    assert losses[0] == losses[1]
    whole_batch_loss(accelerator, make_loss(name), [logits], label).backward()
    assert not logits.grad[label == UNKNOWN].any() and logits.grad[label == 1].all()


def test_two_sets_of_equal_names_train_together_and_the_run_resumes(chests, crops, tmp_path):
    sets = [decathlon.load(folder) for folder in (crops, chests)]
    settings = SETTINGS | {"shares": [0.5, 0.5], "steps_per_epoch": 2}
    training.train(sets, tmp_path / "run", settings)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(record["training_cases"]) == 5 and len(record["validation_cases"]) == 1
    assert "chests/lung_001" in record["training_cases"]
    assert not set(record["validation_cases"]) & set(record["training_cases"])
    history = training.resume(tmp_path / "run", {"epochs": 2})
    assert len(history) == 2


def test_cases_without_a_tumour_are_counted_in_one_line(crops, tmp_path, capsys):
    healthy = write_crops(tmp_path / "healthy", count=5, seed=1)
    for path in (healthy / "labelsTr").iterdir():
        label = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), path)
    training.train([decathlon.load(crops), decathlon.load(healthy)], tmp_path / "run", SETTINGS)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "no tumour" in line]
    assert warnings == [
        "warning: 5 of 7 training cases have no tumour marked: healthy/lung_001, "
        "healthy/lung_002, healthy/lung_003 …"
    ]


@pytest.mark.parametrize(
    "folders, others",
    [
        (("set", "set", "set"), {"set 2", "set 3"}),
        (("lung set", "lung set", "lung set"), {"lung set 2", "lung set 3"}),
        (("set 2", "set", "set"), {"set", "set 3"}),  # a number that is taken by another folder
    ],
)
def test_sets_in_folders_of_one_name_are_told_apart(tmp_path, folders, others):
    sets = [
        decathlon.load(write_crops(tmp_path / part / name, seed=seed))
        for seed, (part, name) in enumerate(zip("abc", folders))
    ]
    training.train(sets, tmp_path / "run", SETTINGS)
    names = json.loads((tmp_path / "run" / "config.json").read_text())["training_cases"]
    assert {name.split("/")[0] for name in names if "/" in name} == others
    assert len(set(names)) == len(names) == 8


@pytest.mark.parametrize("shares", [[1.0], [0.2, 0.3, 0.5], [0, 0]])
def test_there_is_one_share_a_set(chests, crops, tmp_path, shares):
    sets = [decathlon.load(folder) for folder in (crops, chests)]
    with pytest.raises(LungsegError, match="shares: .* for 2 sets"):
        training.train(sets, tmp_path / "run", SETTINGS | {"shares": shares})


def test_a_scan_that_validates_may_not_train_in_another_set(crops, tmp_path):
    again = write_crops(tmp_path / "again")
    with pytest.raises(LungsegError, match="is the same scan as"):
        training.train([decathlon.load(crops), decathlon.load(again)], tmp_path / "run", SETTINGS)


def test_the_command_trains_and_cross_validates_on_several_sets(chests, crops, tmp_path, capsys):
    words = ["-p", "spacing_mm", "8", "-p", "patch_size", "16", "-p", "channels", "[2,4]"]
    words += ["-p", "steps_per_epoch", "1", "-p", "epochs", "1", "-p", "shares", "[0.7, 0.3]"]
    run = ["train", str(crops), str(chests), "--run-dir", str(tmp_path / "run"), *words]
    assert cli.main(run) == 0
    assert cli.main(["train", "--run-dir", str(tmp_path / "run"), "--resume", "--epochs", "2"]) == 0
    out = tmp_path / "folds"
    assert cli.main(["crossvalidate", str(crops), str(chests), "--run-dir", str(out), *words]) == 0
    rows = (out / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["lung_001", "lung_002", "lung_003"]
