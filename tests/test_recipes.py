"""recipes/: how weights are averaged and min_peak is chosen."""

import dataclasses
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cases import make_prepared
from helpers_recipes import load_recipe
from helpers_sets import write_crops

from lungseg_utils import decathlon, parameters
from lungseg_utils.checkpoint import SHIPPED, load_weights, save_weights
from lungseg_utils.runtime import ROOT, LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import read_start, training_config

PARENT = ROOT / "recipes" / "parent.safetensors"


def tiny_network(seed, channels=(2, 4)):
    torch.manual_seed(seed)
    return SegUNet(channels=channels)


# --- the shipped weights --------------------------------------------------------------------------


def commands_of(target):
    """Return the words of each command that `make TARGET` would run, after the set-up."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    ready = ["--old-file", ".venv/.ready"]
    printed = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", *ready, target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in printed.stdout.replace("\\\n", " ").splitlines()]


def require_tracked_or_made(commands):
    """Each file that `commands` name is in git, or in a folder that one of them has made."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git clone")
    known = set(listed.stdout.splitlines())
    for words in commands:
        assert words[0].startswith(".venv/bin/")  # neither git nor the network
        known |= {word for flag, word in pairwise(words) if flag in ("phantom", "--run-dir")}
        named = [word for word in words[1:] if "/" in word]
        assert named
        for name in named:
            folders = {path.as_posix() for path in Path(name).parents}
            assert name in known or folders & known, name


def test_the_weights_are_made_from_files_that_git_tracks_or_the_commands_have_made():
    commands = commands_of("weights")
    assert len(commands) == 4
    require_tracked_or_made(commands)


def test_from_random_weights_a_parent_is_trained_first_and_then_taken():
    commands = commands_of("weights-from-random")
    assert len(commands) == 5
    require_tracked_or_made(commands)
    assert "--weights" not in commands[1]
    settings = parameters.read(ROOT / "params" / "from_random.yaml")
    after = parameters.read(ROOT / "params" / "reference.yaml")
    for name in ("spacing_mm", "channels", "dataset_dir", "fold", "seed"):
        assert settings[name] == after[name]  # the same network, and the same scans set aside
    assert "hard_example_share" not in settings  # there are no weights to find them with
    assert settings["run_dir"] in commands[1]
    assert "runs/reference" not in commands[2]  # which may hold a run from another parent
    taken = settings["run_dir"] + "/best.safetensors"
    assert [words.count(taken) for words in commands] == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("target", ["weights", "weights-from-random", "real-weights"])
def test_a_training_that_was_stopped_goes_on_when_make_is_called_again(target):
    trainings = [words for words in commands_of(target) if "train" in words]
    assert trainings and all("--resume" in words for words in trainings)


def test_the_parent_weights_are_those_of_the_card_and_fit_the_recipe():
    settings = parameters.read(ROOT / "params" / "reference.yaml")
    model, own = read_start(PARENT, training_config(settings))
    assert own["digest"] in (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    shipped, facts = load_weights(SHIPPED)
    assert model.config() == shipped.config()
    assert facts["spacing_mm"] == load_weights(PARENT)[1]["spacing_mm"] == settings["spacing_mm"]


# --- averaging ------------------------------------------------------------------------------------


def test_averaged_weights_lie_between_those_before_and_after(tmp_path):
    before = tiny_network(0)
    after = tiny_network(1)
    save_weights(tmp_path / "before.safetensors", before, {"spacing_mm": 3.0, "epoch": 1})
    save_weights(tmp_path / "after.safetensors", after, {"spacing_mm": 3.0, "epoch": 2})
    names = ("before", "after", "averaged")
    paths = [str(tmp_path / f"{name}.safetensors") for name in names]
    load_recipe("average_weights").main([*paths, "--share", "0.7"])
    averaged, facts = load_weights(paths[-1])
    assert facts["epoch"] == 2
    states = (before.state_dict(), after.state_dict(), averaged.state_dict())
    for old, new, value in zip(*(state.values() for state in states), strict=True):
        assert torch.allclose(value.double(), 0.3 * old.double() + 0.7 * new.double(), atol=1e-6)


def test_several_networks_count_alike_in_an_average(tmp_path):
    paths = [str(tmp_path / f"{number}.safetensors") for number in range(5)]
    networks = [tiny_network(number) for number in range(4)]
    for path, network in zip(paths, networks):
        save_weights(path, network, {"spacing_mm": 3.0})
    load_recipe("average_weights").main([*paths, "--share", "1"])
    averaged = load_weights(paths[-1])[0].head.weight
    wanted = sum(network.head.weight for network in networks[1:]) / 3
    assert torch.allclose(averaged, wanted, atol=1e-6)


def test_two_networks_are_not_averaged():
    with pytest.raises(LungsegError, match="two networks"):
        load_recipe("average_weights").average(tiny_network(0), tiny_network(0, (2, 8)), 0.5)


# --- min_peak -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_lost", "min_peak"), [(0.0, 0.0), (0.1, 0.9), (1.0, 0.99)])
def test_the_min_peak_loses_no_more_lesions_than_it_may(max_lost, min_peak):
    """Ten scans of one lesion each; a row is Dice, lesions found, lesions, false positives."""
    scores = {
        value: np.array([[dice, number < hits, 1, 0] for number in range(10)], float)
        for value, dice, hits in ((0.0, 0.6, 10), (0.9, 0.7, 9), (0.99, 0.8, 7))
    }
    assert load_recipe("choose_min_peak").choose(scores, max_lost) == min_peak


@pytest.mark.parametrize(
    ("checkpoint", "min_peak", "cause"),
    [
        ("best.safetensors", "95", "95 is not between 0 and 1"),
        ("best.safetensors", "nan", "nan is not between 0 and 1"),
        ("last.pt", "0.9", "last.pt: --write would leave nothing but its weights"),
    ],
)
def test_a_checkpoint_that_writing_min_peak_would_spoil_is_not_touched(
    checkpoint, min_peak, cause, capsys
):
    with pytest.raises(SystemExit):
        load_recipe("choose_min_peak").main(
            [checkpoint, "dataset", "--write", "--min-peak", min_peak]
        )
    assert cause in capsys.readouterr().err


class CertainPredictor:
    """Finds the whole tumour with a probability of 0.95, and marks five voxels wrongly with 0.8."""

    def probabilities(self, case):
        probability = torch.from_numpy(case.label) * 0.95
        probability[0, 0, :5] = 0.8
        return probability


def test_scores_are_those_of_the_components_that_reach_the_peak():
    case = make_prepared()
    scores = load_recipe("choose_min_peak").score(CertainPredictor(), [case], (0.0, 0.9, 0.99))
    lesions = [(row[0, 1], row[0, 2], row[0, 3]) for row in scores.values()]
    assert lesions == [(1, 1, 1), (1, 1, 0), (0, 1, 0)]
    tumour = case.label.sum()
    dices = [row[0, 0] for row in scores.values()]
    assert dices == pytest.approx([2 * tumour / (2 * tumour + 5), 1, 0])


def test_no_min_peak_is_chosen_where_no_tumour_is_marked():
    case = make_prepared()
    healthy = dataclasses.replace(case, label=np.zeros_like(case.label))
    with pytest.raises(LungsegError, match=r"no tumour is marked in them. Choose another --fold"):
        load_recipe("choose_min_peak").score(None, [healthy])


# --- the threshold -------------------------------------------------------------------------------


def test_what_lay_at_the_threshold_lies_at_one_half_and_min_peak_moves_with_it(tmp_path):
    move = load_recipe("move_threshold")
    before = tmp_path / "before.safetensors"
    after = tmp_path / "after.safetensors"
    save_weights(before, tiny_network(0), {"spacing_mm": 3.0, "min_peak": 0.8})
    move.main([str(before), str(after), "--threshold", "0.2"])
    network, facts = load_weights(after)
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        odds = (tiny_network(0).eval()(image) - network(image)).exp()
    assert torch.allclose(odds, torch.full_like(odds, 0.25), rtol=1e-4)
    assert facts["min_peak"] == pytest.approx(4 / (4 + 0.25))


def test_none_and_certainty_have_no_log_odds_to_move(tmp_path):
    move = load_recipe("move_threshold")
    assert [move.moved(end, 1.0) for end in (0.0, 1.0)] == [0.0, 1.0]


# --- what a real tumour is worth ------------------------------------------------------------------


def test_fewer_tumours_are_a_part_of_more_and_the_same_ones_validate(tmp_path):
    curve = load_recipe("real_tumours_curve")
    dataset = decathlon.load(write_crops(tmp_path / "real", count=10))
    _, unseen = decathlon.split(dataset, fold=1, seed=3)
    trained = []
    for count in (2, 5, 99):
        parts = decathlon.split(curve.with_fewer(dataset, 1, count, 3), fold=0)
        assert {case.id for case in parts[1]} == {case.id for case in unseen}
        trained.append({case.id for case in parts[0]})
    assert [len(ids) for ids in trained] == [2, 5, 8] and trained[0] < trained[1] < trained[2]


def test_the_curve_trains_each_point_once_and_scores_every_tumour(tmp_path, monkeypatch, capsys):
    curve = load_recipe("real_tumours_curve")
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    real = write_crops(tmp_path / "real")
    synthetic = write_crops(tmp_path / "synthetic", seed=1)
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, tiny_network(0), {"spacing_mm": 8.0})
    settings = tmp_path / "tiny.yaml"
    channels = list(tiny_network(0).channels)
    settings.write_text(
        f"spacing_mm: 8\npatch_size: 8\nchannels: {channels}\nepochs: 1\nsteps_per_epoch: 1\n"
        "batch_size: 2\nshares: [0.5, 0.5]\ndevice: cpu\n"
    )
    words = [str(real), str(synthetic), "--run-dir", str(tmp_path / "worth"), "-f", str(settings)]
    words += ["--weights", str(weights), "--counts", "0", "1"]
    leave = ["--figure", str(tmp_path / "worth.png"), "--csv", str(tmp_path / "worth.csv")]
    curve.main([*words, *leave])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 3 and all("of 3 |" in row for row in rows)
    assert (tmp_path / "worth.png").is_file()
    assert len((tmp_path / "worth.csv").read_text().splitlines()) == 4
    assert len(list((tmp_path / "worth").glob("*-fold?"))) == 6
    monkeypatch.setattr(curve.training, "train", None)
    curve.main(words)
