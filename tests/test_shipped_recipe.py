"""What `make weights` does after training: mixing with the weights before, and choosing the least peak."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import torch
from helpers_cases import make_prepared

from lungseg_utils.runtime import ROOT, LungsegError
from lungseg_utils.segunet import SegUNet


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mixed_weights_lie_between_those_before_and_after():
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(SegUNet(channels=(2, 4)))
    before = [value.clone() for value in networks[0].state_dict().values()]
    mixed = benchmark("mean_weights").mix(*networks, 0.7).state_dict().values()
    for old, new, value in zip(before, networks[1].state_dict().values(), mixed, strict=True):
        assert torch.allclose(value.double(), 0.3 * old.double() + 0.7 * new.double(), atol=1e-6)


def test_two_networks_are_not_mixed():
    with pytest.raises(LungsegError, match="two networks"):
        benchmark("mean_weights").mix(SegUNet(channels=(2, 4)), SegUNet(channels=(2, 8)), 0.5)


@pytest.mark.parametrize(("most_lost", "peak"), [(0.0, 0.0), (0.1, 0.9), (1.0, 0.99)])
def test_the_least_peak_loses_no_more_lesions_than_it_may(most_lost, peak):
    """Ten scans of one lesion each; a row is Dice, lesions found, lesions, false positives."""
    found = {
        value: np.array([[dice, number < hits, 1, 0] for number in range(10)], float)
        for value, dice, hits in ((0.0, 0.6, 10), (0.9, 0.7, 9), (0.99, 0.8, 7))
    }
    assert benchmark("min_peak").choose(found, most_lost) == peak


@pytest.mark.parametrize(
    ("checkpoint", "peak", "cause"),
    [
        ("best.safetensors", "95", "95 is not between 0 and 1"),
        ("best.safetensors", "nan", "nan is not between 0 and 1"),
        ("last.pt", "0.9", "last.pt: --write would leave nothing but its weights"),
    ],
)
def test_a_checkpoint_that_writing_the_peak_would_spoil_is_not_touched(
    checkpoint, peak, cause, capsys
):
    with pytest.raises(SystemExit):
        benchmark("min_peak").main([checkpoint, "dataset", "--write", "--peak", peak])
    assert cause in capsys.readouterr().err


def test_no_least_peak_is_chosen_where_no_tumour_is_marked():
    case = make_prepared()
    healthy = dataclasses.replace(case, label=np.zeros_like(case.label))
    with pytest.raises(LungsegError, match="no tumour is marked in them. choose another --fold"):
        benchmark("min_peak").score(None, [healthy])
