"""What `make weights` does after training: average with the weights before, choose min_peak."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers_cases import make_prepared
from helpers_recipes import load_recipe

from lungseg_utils import checkpoint
from lungseg_utils.prediction import Predictor
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet

average_weights = load_recipe("average_weights")
choose_min_peak = load_recipe("choose_min_peak")


def network(seed, channels=(2, 4)):
    torch.manual_seed(seed)
    return SegUNet(channels=channels)


def test_averaged_weights_lie_between_those_before_and_after(tmp_path):
    before, after = network(0), network(1)
    checkpoint.save_weights(tmp_path / "before.safetensors", before, {"spacing_mm": 3.0})
    facts = {"spacing_mm": 3.0, "epoch": 7}
    checkpoint.save_weights(tmp_path / "after.safetensors", after, facts)
    paths = [str(tmp_path / f"{name}.safetensors") for name in ("before", "after", "out")]
    average_weights.main([*paths, "--share", "0.3"])
    averaged, found = checkpoint.load_weights(paths[2])
    assert facts.items() <= found.items()
    states = [model.state_dict().values() for model in (before, after, averaged)]
    for old, new, value in zip(*states, strict=True):
        expected = 0.7 * old.double() + 0.3 * new.double()
        assert torch.allclose(value.double(), expected, atol=1e-6)


def test_two_networks_are_not_averaged():
    with pytest.raises(LungsegError, match="two networks"):
        average_weights.average(network(0), network(0, channels=(2, 8)), 0.5)


@pytest.mark.parametrize(("max_lost", "expected"), [(0.0, 0.0), (0.1, 0.9), (1.0, 0.99)])
def test_min_peak_loses_no_more_lesions_than_it_may(max_lost, expected):
    """Ten scans of one lesion each; a row is Dice, lesions found, lesions, false positives."""
    scores = {
        candidate: np.array([[dice, number < hits, 1, 0] for number in range(10)], float)
        for candidate, dice, hits in ((0.0, 0.6, 10), (0.9, 0.7, 9), (0.99, 0.8, 7))
    }
    assert choose_min_peak.choose(scores, max_lost) == expected


class AsBrightAs(torch.nn.Module):
    """A network that is as certain as a voxel is bright."""

    pools = ((2, 2, 2),)

    def forward(self, x):
        return 4 * (x + 0.2)


def test_each_candidate_is_scored_on_what_it_leaves():
    """The case has its lesion at 40 HU, found with a probability of 0.93, and an invented one."""
    case = make_prepared(shape=(24, 24, 24))
    hu = np.where(case.label, 40, -850).astype(np.int16)
    hu[1:5, 1:5, 1:5] = -300
    predictor = Predictor(model=network(0), facts={"spacing_mm": 3.0}, device="cpu")
    predictor.models = [AsBrightAs().to(predictor.precision)]
    cases = [dataclasses.replace(case, hu=hu)]
    scores = choose_min_peak.score(predictor, cases, (0.99, 0.0, 0.8))
    found = {candidate: rows[0, 1:].tolist() for candidate, rows in scores.items()}
    assert found == {0.0: [1, 1, 1], 0.8: [1, 1, 0], 0.99: [0, 1, 0]}
    assert scores[0.8][0, 0] == 1 > scores[0.0][0, 0] > scores[0.99][0, 0] == 0


@pytest.mark.parametrize(
    ("name", "peak", "cause"),
    [
        ("best.safetensors", "95", "95 is not between 0 and 1"),
        ("best.safetensors", "nan", "nan is not between 0 and 1"),
        ("last.pt", "0.9", "last.pt: --write would leave nothing but its weights"),
    ],
)
def test_a_checkpoint_that_writing_min_peak_would_damage_is_not_touched(name, peak, cause, capsys):
    with pytest.raises(SystemExit):
        choose_min_peak.main([name, "dataset", "--write", "--min-peak", peak])
    assert cause in capsys.readouterr().err


def test_no_min_peak_is_chosen_where_no_tumour_is_marked():
    case = make_prepared()
    healthy = dataclasses.replace(case, label=np.zeros_like(case.label))
    with pytest.raises(LungsegError, match="no tumour is marked in them. Choose another --fold"):
        choose_min_peak.score(None, [healthy])
