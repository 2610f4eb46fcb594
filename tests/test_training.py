"""Training: it learns, it resumes to the bit, and what stops it costs one epoch at most."""

import contextlib
import csv
import dataclasses
import errno
import inspect
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cases import TINY, make_prepared

from lungseg_utils import checkpoint
from lungseg_utils.parameters import OLD_NAMES
from lungseg_utils.patches import make_training_case
from lungseg_utils.patches.prefetch import prefetch
from lungseg_utils.runtime import LungsegError, pick_precision
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import (
    TrainingConfig,
    fit,
    learning_rate_at,
    loop,
    make_loss,
    start_run,
    train_one_epoch,
    training_precision,
    update_ema,
)
from lungseg_utils.training import (
    run as runs,
)
from lungseg_utils.training.distributed import start_accelerator
from lungseg_utils.training.network import make_heads, predict_all, whole_batch_loss
from lungseg_utils.training.step import set_training_mode
from lungseg_utils.training.validation import add_hard_examples, find_hard_examples

FILES = [
    ".lock",
    "best.safetensors",
    "config.json",
    "environment.json",
    "history.csv",
    "history.png",
    "last.pt",
    "previous.pt",
]


@pytest.fixture(scope="module")
def cases():
    return [make_prepared(seed) for seed in range(3)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums depend on the number of threads, so every run here, shared ones too, has the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(cases, tmp_path):
    """Train in `tmp_path / name`, on the first two cases."""

    def start(name="run", resume=False, **changes):
        config = dataclasses.replace(TINY, **changes)
        return fit(
            cases[:2],
            cases[2:],
            run_dir=tmp_path / name,
            config=config,
            device="cpu",
            resume=resume,
        )

    return start


@pytest.fixture(scope="module")
def straight(cases, tmp_path_factory):
    """The folder of a run of four epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    fit(cases[:2], cases[2:], run_dir=folder, config=TINY, device="cpu")
    return folder


def equal(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def same_run(one: Path, other: Path) -> bool:
    """Whether two folders hold the same to the bit: state, best weights and history.

    The state has weights, optimiser and random generators.
    """
    states = [checkpoint.load_state(folder / "last.pt") for folder in (one, other)]
    histories = [(folder / "history.csv").read_bytes() for folder in (one, other)]
    facts = [best_weights(folder) for folder in (one, other)]
    return equal(*states) and equal(*histories) and equal(*facts)


def best_weights(folder: Path) -> dict:
    """Return the facts of the best weights; their digest covers every bit of them."""
    return checkpoint.load_weights(folder / "best.safetensors")[1]


# --- a run ----------------------------------------------------------------------------------------


def test_shares_that_are_more_than_all_patches_are_refused():
    with pytest.raises(
        LungsegError,
        match="foreground_share, hard_example_share: shares of 0.67 and 0.5 .* Let them be 1",
    ):
        TrainingConfig(hard_example_share=0.5)
    TrainingConfig(foreground_share=0.7, hard_example_share=0.3)


def test_the_loop_fits_on_a_screen():
    lines = inspect.getsource(train_one_epoch).splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 100


def test_a_run_leaves_its_files_and_nothing_else(straight):
    assert sorted(path.name for path in straight.iterdir() if path.name != "tensorboard") == FILES
    rows = list(csv.DictReader((straight / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "learning_rate", "validation_dice", "validation_recall"} <= set(rows[0])
    config = json.loads((straight / "config.json").read_text())
    assert config["patch_size"] == [8, 8, 8] and config["training_cases"] == ["case_0", "case_1"]
    environment = json.loads((straight / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["device"] == "cpu"


def test_the_best_weights_are_those_of_the_best_epoch(straight):
    rows = list(csv.DictReader((straight / "history.csv").open()))
    scores = [float(row["validation_dice"]) for row in rows]
    _, facts = checkpoint.load_weights(straight / "best.safetensors")
    assert facts["epoch"] == 1 + scores.index(max(scores))
    assert facts["spacing_mm"] == TINY.spacing_mm


def test_it_learns(run):
    """A bright ball in dark noise is outlined on a case that was not trained on."""
    history = run(
        epochs=3,
        steps_per_epoch=15,
        patch_size=(12, 12, 12),
        channels=(4, 8),
        learning_rate=2e-2,
        ema_decay=0.8,
        augment=False,
    )
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["validation_dice"] > 0.8 and history[-1]["validation_recall"] == 1


def test_each_epoch_prints_how_it_went_and_what_is_left(run, capsys):
    run(epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("epoch   1 of 2: loss ")
    assert lines[1].endswith(" 0.0 min left")  # after the last epoch, however slow the machine


def test_without_validation_cases_the_latest_weights_are_kept(cases, tmp_path):
    fit(cases[:1], [], run_dir=tmp_path, config=dataclasses.replace(TINY, epochs=2), device="cpu")
    _, facts = checkpoint.load_weights(tmp_path / "best.safetensors")
    assert facts["epoch"] == 2


def test_the_learning_rate_warms_up_and_falls():
    config = dataclasses.replace(
        TINY, epochs=10, steps_per_epoch=10, warmup_steps=4, learning_rate=1.0
    )
    assert [learning_rate_at(step, config) for step in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]
    for schedule, half_way, at_last in (("cosine", 0.5, 1e-3), ("poly", 0.5**0.9, 0.02)):
        falling = dataclasses.replace(config, schedule=schedule)
        assert learning_rate_at(50, falling) == pytest.approx(half_way)
        assert learning_rate_at(99, falling) < at_last


def test_each_loss_is_monais_and_small_where_the_prediction_is_right():
    label = torch.zeros(2, 1, 6, 6, 6)
    label[:, :, 2:4, 2:4, 2:4] = 1
    for name in ("dice_ce", "dice_ce_balanced", "tversky", "focal"):
        loss = make_loss(name)
        assert loss(20 * label - 10, label) < 0.01 < loss(torch.zeros_like(label), label)
    missed = label * 0.5
    invented = (label + label.roll(2, -1)).clamp(max=1)
    tversky = make_loss("tversky")  # a missed voxel costs more
    assert tversky(20 * missed - 10, label) > tversky(20 * invented - 10, label)


def test_in_the_balanced_loss_a_tumour_counts_by_the_root_of_its_volume():
    label = torch.zeros(2, 1, 16, 16, 16)
    label[0, :, :4, :4, :4] = 1  # 64 voxels
    label[1, :, :, :, :4] = 1  # 1024: sixteen times as many, a quarter of the weight each
    perfect = 60 * label - 30
    without_nodule = perfect.clone()
    without_nodule[0] = -30
    without_mass = perfect.clone()
    without_mass[1] = -30

    def lost(logits):
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
        return float(make_loss("dice_ce_balanced")(logits, label) - entropy)

    assert lost(perfect) == pytest.approx(0, abs=1e-5)
    assert lost(without_nodule) == pytest.approx(1 - 2 * 256 / (2 * 256 + 64), abs=1e-5)
    assert lost(without_mass) == pytest.approx(1 - 2 * 64 / (2 * 64 + 256), abs=1e-5)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_batches_drawn_ahead_are_those_drawn_when_needed_and_no_more(device):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.Generator().manual_seed(0)

    def draw():
        drawn = torch.rand(3, generator=generator).to(device)
        return drawn, drawn > 0.5, ["case"]

    for hu, label, names in prefetch(draw, 5, torch.device(device)):
        assert torch.equal(hu.cpu(), torch.rand(3, generator=numbers))
        assert torch.equal(label, hu > 0.5) and names == ["case"]
    assert torch.equal(generator.get_state(), numbers.get_state())


def test_deep_supervision_predicts_at_every_scale_and_weighs_the_finest_most():
    model = SegUNet(channels=(2, 4, 6, 8))
    heads = make_heads(model)
    image = torch.randn(1, 1, 9, 8, 16)
    label = torch.zeros(1, 1, 9, 8, 16)
    outputs = predict_all(model.eval(), heads, image)
    assert [tuple(output.shape[2:]) for output in outputs] == [(9, 8, 16), (5, 4, 8), (3, 2, 4)]
    assert torch.equal(outputs[0], model(image))
    ones = [output * 0 + value for output, value in zip(outputs, (1, 2, 4))]
    accelerator = start_accelerator("cpu")

    def mean_of_both(logits, target):
        assert logits.shape == target.shape
        return logits.mean() + target.mean()

    total = whole_batch_loss(accelerator, mean_of_both, ones, label).item()
    assert total == pytest.approx((1 + 2 / 2 + 4 / 4) / 1.75)
    whole_batch_loss(accelerator, make_loss(), outputs, label).backward()
    assert all(weight.grad is not None for weight in heads.parameters())


def test_the_heads_of_deep_supervision_are_not_in_the_weights_that_are_used(run, tmp_path):
    run(epochs=1, channels=(2, 4, 6), deep_supervision=True)
    model, _ = checkpoint.load_weights(tmp_path / "run" / "best.safetensors")
    assert model.config()["channels"] == [2, 4, 6]
    heads = checkpoint.load_state(tmp_path / "run" / "last.pt")["heads"]
    assert heads.keys() == {"0.weight", "0.bias"}


def test_deep_supervision_and_compile_exclude_each_other(run):
    with pytest.raises(
        LungsegError, match="compile: it hides the stages that deep supervision looks at"
    ):
        run(compile=True, deep_supervision=True)


def test_tensorboard_gets_every_row_where_it_is_installed(run, tmp_path, monkeypatch):
    written = []

    class Writer(contextlib.nullcontext):
        def __enter__(self):
            return self

        def add_scalar(self, name, value, epoch):
            written.append((self.enter_result.name, name, epoch))

    module = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run(epochs=2)
    assert {("tensorboard", "loss", 1), ("tensorboard", "validation_dice", 2)} <= {*written}


def test_the_defaults_make_the_steps_that_they_always_made(cases, monkeypatch):
    """New choices leave the course's run as it is, in float32: elsewhere processors differ.

    From AVX-512 to none, these numbers differ by less than a tenth of what is allowed here.
    """
    monkeypatch.setattr(runs, "pick_precision", lambda _device: torch.float32)
    run = start_run(TINY, "cpu")
    row = train_one_epoch(run, [make_training_case(case) for case in cases[:2]], make_loss(), TINY)
    assert row == {
        "epoch": 1,
        "learning_rate": pytest.approx(2e-3),
        "loss": pytest.approx(1.712609, rel=2e-6),
    }
    assert squares(run.model) == pytest.approx(39.855145, rel=1e-6)
    assert squares(run.ema) == pytest.approx(39.858817, rel=1e-6)


def squares(model) -> float:
    """Return the sum of the squares of all weights."""
    return sum(float(weight.detach().double().square().sum()) for weight in model.parameters())


def test_hard_examples_are_lesions_less_than_half_marked_and_marks_on_none():
    label, marked = np.zeros((2, 12, 12, 12), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    marked[1:3, 1:3, 1:2] = 1  # half found
    label[1:4, 8:11, 1:3] = 1
    marked[1:4, 8:11, 0:2] = 1  # half found, and more than that is marked
    label[8:10, 8:10, 8:10] = 1  # missed
    marked[8:10, 1:3, 1:3] = 1  # of no lesion
    first, second = find_hard_examples(label, marked)
    assert first.min(0).tolist() == [8, 8, 8] and len(first) == 8
    assert second.min(0).tolist() == [8, 1, 1] and len(second) == 8


def test_a_share_of_the_patches_lies_where_the_first_weights_are_wrong(cases):
    training = [make_training_case(case) for case in cases[:2]]
    silent = SegUNet(channels=(2, 4))
    torch.nn.init.zeros_(silent.head.weight)
    torch.nn.init.constant_(silent.head.bias, -5.0)
    for case in add_hard_examples(training, cases[:2], silent, TINY):
        missed = zip(case.hard_examples, case.lesions, strict=True)
        assert case.lesions and all(torch.equal(example, lesion) for example, lesion in missed)


def test_batch_norms_are_frozen_at_the_end_of_a_run_with_the_statistics_of_the_running_mean():
    config = dataclasses.replace(TINY, epochs=4, frozen_norm_share=0.5)
    run = start_run(config, "cpu")
    norms = [norm for norm in run.model.modules() if isinstance(norm, torch.nn.BatchNorm3d)]
    means = [norm for norm in run.ema.modules() if isinstance(norm, torch.nn.BatchNorm3d)]
    for mean in means:
        mean.running_mean.normal_()
    for epoch, is_frozen in enumerate([False, False, True, True]):
        run.history = [{}] * epoch
        set_training_mode(run, config)
        assert run.model.training and all(norm.training != is_frozen for norm in norms)
        for norm, mean in zip(norms, means, strict=True):
            assert torch.equal(norm.running_mean, mean.running_mean) == is_frozen


def test_the_running_mean_moves_towards_the_weights():
    mean = torch.nn.BatchNorm1d(2)
    model = torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(model.weight, 3.0)
    model.num_batches_tracked += 5
    update_ema(mean, model, 0.75)
    assert mean.weight.tolist() == [1.5, 1.5] and mean.num_batches_tracked == 5


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(LungsegError, match="no case to train on"):
        fit([], [], run_dir=tmp_path, config=TINY, device="cpu")


@pytest.mark.fault("empty and inverted labels")
@pytest.mark.parametrize(
    ("fill", "cause"), [(0, "no tumour is marked in any training case"), (1, "inverted")]
)
def test_labels_all_empty_or_inverted_are_not_trained_on(cases, tmp_path, fill, cause):
    wrong = [dataclasses.replace(case, label=np.full_like(case.label, fill)) for case in cases]
    with pytest.raises(LungsegError, match=cause):
        fit(wrong[:2], wrong[2:], run_dir=tmp_path, config=TINY, device="cpu")


def test_an_earlier_run_is_set_aside(run, tmp_path, capsys):
    run(epochs=1)
    first = (tmp_path / "run" / "last.pt").read_bytes()
    run(epochs=1, seed=1)
    run(epochs=1, seed=2)
    assert (tmp_path / "run" / "earlier-1" / "last.pt").read_bytes() == first
    earlier = sorted(path.name for path in (tmp_path / "run").glob("earlier-*"))
    assert earlier == ["earlier-1", "earlier-2"]
    assert "an earlier run was moved to earlier-1" in capsys.readouterr().err


def test_cases_that_cannot_be_trained_on_leave_the_earlier_run_where_it_is(run, cases, tmp_path):
    run(epochs=1)
    unlabelled = dataclasses.replace(cases[0], label=None)
    with pytest.raises(LungsegError, match="no label"):
        fit([unlabelled], [], run_dir=tmp_path / "run", config=TINY, device="cpu")
    assert (tmp_path / "run" / "last.pt").is_file()


def test_a_second_training_in_the_folder_is_refused_while_the_first_is_at_work(run, monkeypatch):
    monkeypatch.setattr(loop, "validate", lambda *_: run(resume=True))
    with pytest.raises(
        LungsegError, match="run: another training is at work in it. Wait for its end"
    ):
        run()
    monkeypatch.undo()
    assert len(run(resume=True)) == 4


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_that_knows_no_locks_is_trained_on_without(run, tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    (tmp_path / "run").mkdir()
    left_by_a_killed_run = "1\nanother-machine\n"
    (tmp_path / "run" / ".lock").write_text(left_by_a_killed_run)
    assert len(run(epochs=1)) == 1


# --- fine-tuning ----------------------------------------------------------------------------------


def test_a_run_starts_from_given_weights_and_records_which(straight, cases, tmp_path):
    start = straight / "best.safetensors"
    folder = tmp_path / "run"
    config = dataclasses.replace(TINY, epochs=1, learning_rate=1e-12)  # hardly a step
    fit(cases[:2], cases[2:], run_dir=folder, config=config, device="cpu", weights=start)
    before, after = (
        checkpoint.load_weights(path)[0].state_dict() for path in (start, folder / "last.pt")
    )
    convolutions = [name for name in before if before[name].ndim == 5]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in convolutions)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["started_from"] == checkpoint.load_weights(start)[1]["digest"]
    with pytest.raises(LungsegError, match="started_from was .* and is now None"):
        fit(cases[:2], cases[2:], run_dir=folder, config=config, device="cpu", resume=True)


def test_weights_of_another_network_are_refused_before_the_run_folder_is_touched(
    straight, cases, tmp_path
):
    weights = straight / "best.safetensors"
    wider = dataclasses.replace(TINY, channels=(2, 4, 6))
    cause = r"best\.safetensors: made with channels = \(2, 4\), not \(2, 4, 6\)"
    with pytest.raises(LungsegError, match=cause):
        fit(cases, [], run_dir=tmp_path / "run", config=wider, device="cpu", weights=weights)
    assert not list((tmp_path / "run").glob("*"))


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "depth", "stages", "expected"),
    [
        ("cpu", 8, 2, torch.bfloat16),
        ("cpu", 8, 3, torch.float32),
        ("cpu", 7, 3, torch.float32),
        ("cpu", 40, 4, torch.bfloat16),
        ("cuda", 8, 3, torch.bfloat16),
    ],
)
def test_a_cpu_trains_in_float32_where_a_stage_is_two_voxels_deep(
    monkeypatch, device, depth, stages, expected
):
    monkeypatch.setattr(runs, "pick_precision", lambda _device: torch.bfloat16)
    config = dataclasses.replace(TINY, patch_size=(depth, 16, 16), channels=(4,) * stages)
    assert training_precision(torch.device(device), config) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("", torch.bfloat16),
        ("AVX512_CORE_AMX", torch.bfloat16),
        ("avx2", torch.float32),
        ("AVX512_CORE", torch.float32),
    ],
)
def test_a_limit_of_onednn_without_bfloat16_is_heeded(monkeypatch, limit, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert pick_precision(torch.device("cpu")) == expected


# --- resume ---------------------------------------------------------------------------------------


@pytest.mark.fault("resume to the bit")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": "cosine"},
        {"schedule": "poly", "optimiser": "sgd", "loss": "focal", "learning_rate": 1e-2},
        {
            "deep_supervision": True,
            "channels": (2, 4, 6),
            "loss": "tversky",
            "elastic_voxels": 2,
            "low_resolution": 0.5,
            "field_of_view_crop": 0.5,
            "frozen_norm_share": 0.5,
            "hard_example_share": 0.33,
        },
    ],
    ids=["defaults", "cosine", "SGD", "deep supervision"],
)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(run, tmp_path, monkeypatch, changes):
    run("straight", **changes)
    if not {"schedule", "frozen_norm_share"} & changes.keys():
        assert len(run("parts", epochs=2, **changes)) == 2
    else:  # they depend on the number of epochs, so the run is cut off, not extended
        stop_in_epoch(monkeypatch, 3)
        with pytest.raises(KeyboardInterrupt):
            run("parts", **changes)
        monkeypatch.undo()
    assert len(run("parts", resume=True, **changes)) == 4
    assert same_run(tmp_path / "straight", tmp_path / "parts")


@pytest.mark.fault("resume with other settings")
def test_a_case_that_has_changed_is_named(run, cases, tmp_path):
    run(epochs=1)
    label = cases[1].label.copy()
    label[0, 0, 0] = 1  # a single voxel
    changed = [cases[0], dataclasses.replace(cases[1], label=label)]
    with pytest.raises(
        LungsegError, match="last.pt: .*the scan or label of case_1 is another one now"
    ):
        fit(changed, cases[2:], run_dir=tmp_path / "run", config=TINY, device="cpu", resume=True)


def rewrite_settings(folder: Path, change) -> None:
    """Let `change` edit the settings in a run's state and in its config.json."""
    state = checkpoint.load_state(folder / "last.pt")
    settings = json.loads(state["settings"])
    assert settings == json.loads((folder / "config.json").read_text())
    change(settings)
    torch.save(state | {"settings": json.dumps(settings)}, folder / "last.pt")
    (folder / "config.json").write_text(json.dumps(settings))


def test_a_run_of_a_version_that_knew_fewer_settings_goes_on(run, tmp_path, straight):
    run(epochs=2)

    def forget(settings):
        for name in ("loss", "optimiser", "deep_supervision", "compile", "contents", "processes"):
            del settings[name]

    rewrite_settings(tmp_path / "run", forget)
    last = tmp_path / "run" / "last.pt"
    state = checkpoint.load_state(last)
    del state["heads"]
    torch.save(state, last)
    assert len(run(resume=True)) == 4
    assert same_run(tmp_path / "run", straight)


def test_a_run_of_a_version_with_other_names_goes_on(run, tmp_path, monkeypatch):
    changes = {
        "foreground_share": 0.5,
        "hard_example_share": 0.25,
        "frozen_norm_share": 0.25,
        "field_of_view_crop": 0.5,
    }
    current_names = {new: old for old, new in OLD_NAMES.items()}

    def rename(settings):
        for name in changes:
            settings[current_names[name]] = settings.pop(name)

    run("straight", **changes)
    stop_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run("parts", **changes)
    monkeypatch.undo()
    rewrite_settings(tmp_path / "parts", rename)
    with pytest.raises(LungsegError, match=r"foreground_share was 0\.5 and is now 0\.25"):
        run("parts", resume=True, **changes | {"foreground_share": 0.25})
    assert len(run("parts", resume=True, **changes)) == 4
    assert same_run(tmp_path / "straight", tmp_path / "parts")
    settings = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert changes.items() <= settings.items() and "fixed_norms" not in settings


def test_resuming_a_finished_run_changes_nothing(run, tmp_path):
    def content():
        paths = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in paths}

    history = run()
    before = content()
    assert run(resume=True) == history
    assert content() == before


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:100])]
)
@pytest.mark.parametrize("epochs", [2, 4], ids=["half-way", "finished"])
def test_best_weights_that_are_missing_or_damaged_are_replaced_and_reported(
    run, tmp_path, capsys, damage, epochs
):
    run(epochs=epochs)
    best = tmp_path / "run" / "best.safetensors"
    damage(best)
    rows = run(resume=True)
    reported = capsys.readouterr().err
    assert f"warning: {best}: " in reported and f"weights of epoch {epochs}" in reported
    left = [row["validation_dice"] for row in rows[epochs - 1 :]]
    assert best_weights(tmp_path / "run")["epoch"] == epochs + left.index(max(left))


def test_resuming_where_there_is_no_run_starts_one_and_reports_it(run, tmp_path, straight, capsys):
    run(resume=True)
    assert "no earlier run to resume" in capsys.readouterr().err
    assert same_run(tmp_path / "run", straight)


@pytest.mark.fault("resume with other settings")
def test_other_settings_are_listed(run, tmp_path, cases):
    run(epochs=1)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.raises(LungsegError) as caught:
        run(resume=True, patch_size=(4, 4, 4), channels=(2, 6), seed=5)
    text = str(caught.value)
    for difference in (
        "patch_size was [8, 8, 8] and is now [4, 4, 4]",
        "channels was [2, 4] and is now [2, 6]",
        "seed was 0 and is now 5",
    ):
        assert difference in text
    assert "epochs" not in text and "Resume with the same ones" in text
    with pytest.raises(LungsegError, match="training_cases was"):  # another fold
        fit(cases[1:], cases[:1], run_dir=tmp_path / "run", config=TINY, device="cpu", resume=True)
    with pytest.raises(LungsegError, match="epochs was 2 and is now 4"):
        run("cosine", epochs=2, schedule="cosine")
        run("cosine", resume=True, schedule="cosine")
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


DAMAGES = {
    "empty": lambda b: b"",
    "cut": lambda b: b[: len(b) // 2],
    "zeros": lambda b: bytes(len(b)),
    "html": lambda b: b"<html>" * 99,
    "bit flip": lambda b: b[:2000] + bytes([b[2000] ^ 4]) + b[2001:],
}


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_falls_back_to_the_one_before_and_is_reported(
    run, tmp_path, straight, capsys, damage
):
    run(epochs=3)
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(DAMAGES[damage](last.read_bytes()))
    assert len(run(resume=True)) == 4
    reported = capsys.readouterr().err
    assert f"warning: {last}: " in reported and "Falling back to previous.pt" in reported
    assert same_run(tmp_path / "run", straight)


def test_the_state_fallen_back_to_is_never_overwritten_by_a_damaged_one(
    run, tmp_path, straight, monkeypatch, capsys
):
    """The next state is stopped between the two renames that put it in place."""
    run(epochs=3)
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(b"damaged")
    replace = os.replace

    def stopped(source, target):
        if target == last:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(resume=True)
    monkeypatch.undo()
    assert last.with_name("last.damaged.pt").read_bytes() == b"damaged"
    assert f"{last}: kept as last.damaged.pt" in capsys.readouterr().err
    run(resume=True)
    assert same_run(tmp_path / "run", straight)


@pytest.mark.fault("damaged checkpoint")
def test_two_damaged_states_are_an_error(run, tmp_path):
    run(epochs=2)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "run" / name).write_bytes(b"")
    with pytest.raises(LungsegError, match="previous.pt: empty"):
        run(resume=True)


@pytest.mark.fault("foreign checkpoint")
@pytest.mark.parametrize(
    "state", [{}, {"settings": "{}"}, {"settings": 3}, {"settings": "[]"}, {"settings": "#"}]
)
def test_a_file_that_is_no_state_of_a_run_is_an_error(run, tmp_path, state):
    (tmp_path / "run").mkdir()
    torch.save(state, tmp_path / "run" / "last.pt")
    with pytest.raises(LungsegError, match="last.pt: "):
        run(resume=True)


# --- what stops a run -----------------------------------------------------------------------------


def change_loss(monkeypatch, change, step):
    """Let `change` alter the loss of one step."""
    loss_function = make_loss()
    steps = iter(range(1000))

    def changed(logits, label):
        loss = loss_function(logits, label)
        return change(loss, logits) if next(steps) == step else loss

    monkeypatch.setattr(loop, "make_loss", lambda _name: changed)


@pytest.mark.fault("loss or weights that are not finite")
@pytest.mark.parametrize(
    "change",
    [
        lambda loss, logits: loss * float("nan"),
        lambda loss, logits: loss + 1000,
        lambda loss, logits: loss + (0 * logits).sum().sqrt(),
    ],
    ids=["NaN", "spike", "NaN in the gradient alone"],
)
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(
    run, tmp_path, monkeypatch, change
):
    run(epochs=2)
    names = ("last.pt", "best.safetensors", "history.csv")
    before = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    change_loss(monkeypatch, change, step=1)
    with pytest.raises(
        LungsegError,
        match=r"^step 5: loss .*, grad_norm .* on case_[01], case_[01]\. The last checkpoint is",
    ):
        run(resume=True)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


def stop_in_epoch(monkeypatch, epoch, how=None):
    """Interrupt the validation of `epoch`, by Ctrl-C or by what `how` does."""
    validate = loop.validate
    epochs = iter(range(1, 100))

    def interrupted(*arguments):
        if next(epochs) == epoch:
            if how is None:
                raise KeyboardInterrupt
            how()
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", interrupted)


@pytest.mark.fault("Ctrl-C and SIGTERM")
@pytest.mark.parametrize(
    "how", [None, lambda: os.kill(os.getpid(), signal.SIGTERM)], ids=["Ctrl-C", "SIGTERM"]
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process at once on SIGTERM")
def test_an_interrupted_run_goes_on_where_it_was(run, tmp_path, straight, monkeypatch, capsys, how):
    before = signal.getsignal(signal.SIGTERM)
    stop_in_epoch(monkeypatch, 3, how)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert "stopped; resume goes on" in capsys.readouterr().err
    assert len(checkpoint.load_state(tmp_path / "run" / "last.pt")["history"]) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    run(resume=True)
    assert same_run(tmp_path / "run", straight)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from helpers_cases import TINY, make_prepared
from lungseg_utils.training import fit, watching
import cc3d, monai.losses, lungseg_utils.evaluation  # here, not once in each child

torch.set_num_threads(1)  # and no computation before the forks: they inherit no pool of threads
watching.PICTURE_S["alone"] = 0  # the curves are drawn after each epoch, however fast it is
folder, moments = Path(sys.argv[1]), [int(moment) for moment in sys.argv[2:]]
for moment in [*moments, None]:
    child = os.fork()
    if not child:
        left = moment

        def deadly(function):
            def wrapped(*arguments, **options):
                global left
                if left is not None:
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
                return function(*arguments, **options)
            return wrapped

        os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
        cases = [make_prepared(seed) for seed in range(3)]
        fit(cases[:2], cases[2:], run_dir=folder, config=TINY, device="cpu", resume=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) if moment is not None else status == 0, status
"""


@pytest.mark.fault("kill -9")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_any_write_and_resume_gives_the_same_run(tmp_path, straight):
    """A run is killed before one flush or rename after another, and resumed each time."""
    # Flushes and renames, counted from each start: before the first state is in place, twice
    # between the two renames of a later one, and before the history and its curves are in place.
    moments = [11, 18, 9, 5, 7]
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "run"), *map(str, moments)],
        check=True,
        timeout=300,
        cwd=Path(__file__).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    assert same_run(tmp_path / "run", straight)
    assert not list((tmp_path / "run").glob(".partial-*"))
