"""Prediction: windows cover what they should, and the mask lies on the scan's own grid."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_cases import ball, make_oblique, make_prepared, make_scan

from lungseg_utils import checkpoint, phantom, preprocess, runtime, volume
from lungseg_utils.prediction import Predictor, measure_tumours, predict
from lungseg_utils.prediction import predictor as predicting
from lungseg_utils.prediction.windows import blending_weight, fit_window, window_positions
from lungseg_utils.preprocess import normalise, prepare
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet


def make_predictor(logit=None, **facts):
    """Return a tiny predictor on the CPU; with `logit` its network has that everywhere."""
    torch.manual_seed(0)
    model = SegUNet(channels=(2, 3, 4))
    if logit is not None:
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.constant_(model.head.bias, logit)
    facts = {"spacing_mm": 3.0} | facts
    return Predictor(model=model, facts=facts, device="cpu", precision=torch.float32)


class OutOfMemory(torch.nn.Module):
    """Runs out of memory as often as asked, then does what the real network does."""

    def __init__(self, model, times, error=None):
        super().__init__()
        self.model = model
        self.pools = model.pools
        self.times = times
        self.voxels = []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def forward(self, x):
        self.voxels.append(x.numel())
        if self.times:
            self.times -= 1
            raise self.error
        return self.model(x)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 40, 50), (16, 16, 16), (17, 16, 33), (16, 61, 20)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_cover_everything_and_stay_inside(shape, overlap):
    covered = np.zeros(shape, int)
    for window in window_positions(np.ones(shape, bool), shape, (16, 16, 16), overlap):
        for side, size in zip(window, shape):
            assert 0 <= side.start < side.stop <= size and side.stop - side.start == 16
        covered[window] += 1
    assert covered.min() >= 1


def test_windows_cover_the_region_and_leave_the_rest_out():
    region = np.zeros((60, 60, 60), bool)
    region[3:9, 50:57, 22:40] = True
    covered = np.zeros(region.shape, bool)

    def windows_over(region):
        return window_positions(region, region.shape, (16, 16, 16), 0.25)

    windows = windows_over(region)
    for window in windows:
        covered[window] = True
    assert covered[region].all()
    assert len(windows) <= 4 < len(windows_over(np.ones_like(region)))
    assert windows_over(np.zeros_like(region)) == []


@pytest.mark.parametrize("shape", [(30, 40, 50), (17, 61, 33), (5, 200, 9)])
@pytest.mark.parametrize("share", [1, 0.5, 0.1])
def test_the_window_that_fits_is_the_whole_or_as_large_as_memory_lets_it(shape, share):
    largest = share * np.prod(shape)
    window = fit_window(shape, (4, 4, 4), 0.25, largest)
    assert window == list(shape) if share == 1 else np.prod(window) <= largest
    assert all(w == n or w % 4 == 0 for w, n in zip(window, shape))
    assert np.prod(fit_window(shape, (4, 4, 4), 0.25, 1)) == 64  # whatever little memory there is


def test_windows_start_where_poolings_do():
    shape = (32, 48, 40)
    windows = window_positions(np.ones(shape, bool), shape, (16, 16, 16), 0.25, (8, 8, 8))
    assert all(side.start % 8 == 0 for window in windows for side in window)
    assert max(window[1].stop for window in windows) == 48


@pytest.mark.parametrize("shape", [(20, 24, 28), (7, 40, 3)])
def test_a_constant_network_gives_a_constant_map(shape):
    constant = make_predictor(logit=1.5).probabilities(make_prepared(shape=shape), window=(8, 8, 8))
    assert constant.shape == shape
    assert torch.allclose(constant, torch.tensor(1.5).sigmoid(), atol=1e-5)


def test_the_blending_weight_is_greatest_in_the_middle():
    weight = blending_weight((8, 9, 10))
    assert weight.shape == (8, 9, 10) and weight.min() > 0
    assert torch.allclose(weight, weight.flip(0, 1, 2)) and weight.max() == weight[3, 4, 4]


def test_one_window_is_the_network_itself():
    ready = make_prepared(shape=(16, 16, 16))
    one = make_predictor()
    image = normalise(torch.from_numpy(ready.hu).float())[None, None]
    with torch.no_grad():
        expected = one.models[0](image).sigmoid()[0, 0]
    assert torch.allclose(one.probabilities(ready), expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_size_of_a_batch_changes_nothing(batch_size):
    ready = make_prepared(shape=(20, 20, 20))
    one = make_predictor()
    expected = one.probabilities(ready, window=(8, 8, 8))
    found = one.probabilities(ready, window=(8, 8, 8), batch_size=batch_size)
    assert torch.allclose(found, expected, atol=1e-5)


# --- the mask -------------------------------------------------------------------------------------


@pytest.mark.fault("tiny scans")
@pytest.mark.parametrize("shape", [(1, 40, 40), (8, 8, 4), (5, 70, 3), (1, 1, 1)])
def test_tiny_scans_give_a_mask_of_their_shape(shape):
    scan = make_scan(np.full(shape, -500, np.int16), (3.0, 1.0, 2.0))
    mask = predict(scan, predictor=make_predictor(logit=5))
    assert mask.shape == shape and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 1}


def test_a_ball_on_the_working_grid_comes_back_to_its_place():
    """The scan has other voxels than the working grid; the mask has the scan's."""
    scan = make_scan(np.full((30, 50, 60), -1000, np.int16), (4.0, 2.0, 1.5))
    d, h, w = np.ogrid[:30, :50, :60]
    truth = ((d - 12) * 4.0) ** 2 + ((h - 20) * 2.0) ** 2 + ((w - 33) * 1.5) ** 2 <= 18**2
    ready = prepare(scan, label=truth.astype(np.uint8), spacing_mm=3.0)
    mask = make_predictor().mask(ready, torch.from_numpy(ready.label).float())
    assert mask.shape == scan.hu.shape
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.95


def two_balls(shape=(24, 40, 44)) -> volume.Volume:
    """Return a scan of air with two balls in it: one as dense as tissue, one much less."""
    hu = np.full(shape, -900, np.int16)
    hu[ball(shape, (12, 20, 14), 5)] = 40
    hu[ball(shape, (12, 20, 34), 4)] = -640
    return make_scan(hu, (4.0, 3.0, 3.0))


class Threshold(torch.nn.Module):
    """A network that is as certain as a voxel is bright."""

    pools = ((2, 2, 2),)

    def forward(self, x):
        return 10 * (x + 0.5)


@pytest.fixture
def dense():
    """A predictor that marks what is dense: certainly what is like tissue, and hardly less."""
    one = make_predictor(min_peak=0.9)
    one.models = [Threshold()]
    return one


@pytest.mark.parametrize("degrees", [0, 15], ids=["axis-aligned", "oblique"])
@pytest.mark.parametrize("threshold", [0.5, 0.95])
def test_segment_returns_the_mask_of_predict_with_all_that_led_to_it(dense, degrees, threshold):
    scan = two_balls()
    if degrees:
        scan = make_oblique(scan, degrees)
    found = dense.segment(scan, threshold=threshold)
    assert found.mask.shape == scan.hu.shape and found.mask.dtype == np.uint8
    assert np.array_equal(found.mask, predict(scan, predictor=dense, threshold=threshold))
    assert found.mask.sum() > 100
    assert len(measure_tumours(found.mask, scan)) == 1  # the other one nowhere reaches min_peak
    assert np.mean(scan.hu[found.mask == 1] > -668) > 0.85
    ready = dense.prepare(scan)
    assert np.array_equal(ready.hu, prepare(scan, spacing_mm=3.0).hu)
    assert np.array_equal(ready.hu, found.prepared.hu) and found.prepared.scan is scan
    assert torch.equal(dense.probabilities(ready), found.probability)
    assert np.array_equal(dense.mask(ready, found.probability, threshold), found.mask)
    assert (found.probability > 0.5).sum() > (found.probability > 0.9).sum() + 50
    full_map = found.prepared.back(found.probability)
    assert full_map.shape == scan.hu.shape and full_map[found.mask == 1].mean() > 0.8


def test_what_is_smaller_than_a_lesion_is_not_in_the_mask():
    scan = make_scan(np.full((12, 14, 16), -900, np.int16), (3.0, 3.0, 3.0))
    one = make_predictor()
    ready = one.prepare(scan)
    probability = torch.zeros(ready.hu.shape)
    probability[2, 2, 2] = 1  # 27 mm³
    probability[8, 8, 8:10] = 1  # 54 mm³
    assert probability.shape == scan.hu.shape
    assert np.argwhere(one.mask(ready, probability)).tolist() == [[8, 8, 8], [8, 8, 9]]


def test_a_scan_from_the_cache_has_no_mask_of_its_own(dense):
    ready = replace(dense.prepare(two_balls()), scan=None)
    with pytest.raises(AssertionError, match="a cached scan has no way back"):
        dense.mask(ready, torch.zeros(ready.hu.shape))


def test_the_signature_of_predict_is_that_of_its_parts():
    """What `predict` lets one choose has the defaults of Predictor and segment."""
    chosen = inspect.signature(predict).parameters
    for function in (Predictor.__init__, Predictor.segment):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in chosen and name != "volume":
                assert parameter.default == chosen[name].default, name


def test_the_mask_is_written_on_the_grid_of_the_scan(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 100, (12, 14, 16)).astype(np.int16)
    affine = make_scan(hu, (3.0, 2.0, 2.5)).affine
    volume.write_nifti(tmp_path / "ct.nii.gz", hu, affine, orientation="RAS")
    scan = volume.read(tmp_path / "ct.nii.gz")
    mask = predict(scan, predictor=make_predictor(logit=5))
    assert mask.any()
    volume.write_mask(tmp_path / "mask.nii.gz", mask, scan)
    assert np.array_equal(volume.read_label(tmp_path / "mask.nii.gz", like=scan), mask)


def test_predict_takes_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "best.safetensors"
    checkpoint.save_weights(path, SegUNet(channels=(2, 3)), {"spacing_mm": 6.0})
    scan = make_scan(np.full((10, 12, 14), -700, np.int16))
    assert predict(scan, checkpoint=path, device="cpu").shape == scan.hu.shape


# --- several networks -----------------------------------------------------------------------------


@pytest.fixture
def save_fold(tmp_path):
    """Write the weights of an untrained network of its own seed."""

    def save(seed, spacing_mm=6.0, **network):
        torch.manual_seed(seed)
        path = tmp_path / f"fold{seed}.safetensors"
        facts = {"spacing_mm": spacing_mm, "epoch": seed}
        checkpoint.save_weights(path, SegUNet(**{"channels": (2, 3)} | network), facts)
        return path

    return save


@pytest.mark.parametrize("window", [None, (8, 8, 8)])
def test_a_network_given_twice_predicts_what_it_predicts_once(save_fold, window):
    ready = make_prepared(shape=(20, 21, 22))
    fold = save_fold(1)
    once, twice = (
        Predictor(folds, "cpu").probabilities(ready, window=window)
        for folds in (fold, [fold, fold])
    )
    assert torch.equal(once, twice)


@pytest.mark.parametrize("other", [{}, {"channels": (3, 4, 5), "upsample": "transpose"}])
def test_several_networks_give_the_mean_of_their_maps(save_fold, other):
    ready = make_prepared(shape=(20, 21, 22))
    folds = [save_fold(1), save_fold(2, **other), save_fold(3)]
    single = [Predictor(fold, "cpu").probabilities(ready) for fold in folds]
    together = Predictor(folds, "cpu")
    assert not torch.allclose(single[0], single[1], atol=1e-3)
    assert torch.allclose(together.probabilities(ready), sum(single) / 3, atol=1e-6)
    digests = [Predictor(fold, "cpu").facts["digest"] for fold in folds]
    shared = {"spacing_mm": 6.0, "digest": "+".join(digests)}
    assert together.facts == shared  # no epoch: each has its own


def test_several_networks_share_one_preparation(save_fold, monkeypatch):
    prepared = []

    def counted(*arguments, **options):
        prepared.append(1)
        return preprocess.prepare(*arguments, **options)

    monkeypatch.setattr(predicting, "prepare", counted)
    scan = make_scan(np.full((10, 12, 14), -700, np.int16))
    mask = predict(scan, checkpoint=[save_fold(1), str(save_fold(2))], device="cpu")
    assert mask.shape == scan.hu.shape and len(prepared) == 1


@pytest.mark.parametrize(
    ("other", "cause"), [({"spacing_mm": 3.0}, "voxels of 3 mm"), ({"out_channels": 2}, "2 out")]
)
def test_networks_for_other_voxels_are_refused_together(save_fold, other, cause):
    first = save_fold(1)
    second = save_fold(2, **other)
    with pytest.raises(LungsegError, match=cause) as caught:
        Predictor([first, second], "cpu")
    assert str(caught.value).startswith(f"{second}: ") and str(first) in str(caught.value)
    assert "Average checkpoints of one recipe" in str(caught.value)


def test_no_checkpoint_at_all_is_not_the_shipped_one():
    with pytest.raises(LungsegError, match="checkpoint: an empty list. Give at least one"):
        Predictor([], "cpu")  # as of a pattern that matches no file


@pytest.mark.parametrize("times", [1, 3])
def test_out_of_memory_in_a_later_network_gives_the_same_mean(save_fold, times):
    ready = make_prepared(shape=(20, 20, 20))
    together = Predictor([save_fold(1), save_fold(2)], "cpu")
    expected = together.probabilities(ready)
    together.models[1] = OutOfMemory(together.models[1], times)
    assert torch.allclose(together.probabilities(ready), expected, atol=1e-5)


# --- memory and devices ---------------------------------------------------------------------------


@pytest.mark.fault("no GPU, or out of memory")
@pytest.mark.parametrize(("times", "warning"), [(1, "with less at a time"), (3, "on the CPU")])
@pytest.mark.parametrize("window", [None, (8, 8, 8)])
def test_out_of_memory_means_less_at_a_time_then_the_cpu_and_the_same_mask(
    window, times, warning, capsys
):
    ready = make_prepared(shape=(20, 20, 20))
    one = make_predictor()
    expected = one.probabilities(ready, window=window)
    one.models[0] = OutOfMemory(one.models[0], times)
    assert torch.allclose(one.probabilities(ready, window=window), expected, atol=1e-5)
    reported = capsys.readouterr().err
    assert f"warning: case_0: out of memory; continuing {warning}\n" in reported


def test_out_of_memory_while_a_scan_is_prepared_means_the_cpu(monkeypatch, capsys):
    one = make_predictor()
    scan = make_scan(np.zeros((6, 6, 6), np.int16))
    expected = one.prepare(scan)

    def full(volume, device="cpu", **options):
        if str(device) != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(volume, **options)

    monkeypatch.setattr(predicting, "prepare", full)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    one.device = torch.device("cuda")
    assert np.array_equal(one.prepare(scan).hu, expected.hu)
    assert "out of GPU memory; prepared on the CPU" in capsys.readouterr().err


def test_a_cpu_without_memory_gets_smaller_windows_too(capsys):
    ready = make_prepared(shape=(20, 20, 20))
    one = make_predictor()
    expected = one.probabilities(ready)
    cause = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
    one.models[0] = OutOfMemory(one.models[0], 1, RuntimeError(cause))
    assert torch.allclose(one.probabilities(ready), expected, atol=1e-5)
    assert "out of memory; continuing with less" in capsys.readouterr().err


def test_a_network_that_computes_no_numbers_is_an_error_not_an_empty_mask():
    broken = make_predictor(logit=float("nan"))
    with pytest.raises(
        LungsegError, match="case_0: the network computes values that are not finite.* Use another"
    ):
        broken.probabilities(make_prepared(shape=(20, 20, 20)))


@pytest.mark.fault("no GPU, or out of memory")
def test_apples_gpu_reports_its_memory_in_words_only():
    ready = make_prepared(shape=(20, 20, 20))
    one = make_predictor()
    expected = one.probabilities(ready)
    cause = "MPS backend out of memory (MPS allocated: 9 GB)"
    one.models[0] = OutOfMemory(one.models[0], 1, RuntimeError(cause))
    assert torch.allclose(one.probabilities(ready), expected, atol=1e-5)
    one.models[0] = OutOfMemory(one.models[0].model, 1, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        one.probabilities(ready)


@pytest.mark.fault("no GPU, or out of memory")
def test_of_several_gpus_the_one_asked_for_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(LungsegError, match="'cuda:2': this machine has 2 GPUs, counted from 0"):
        runtime.pick_device("cuda:2")


def test_out_of_memory_makes_windows_smaller(monkeypatch):
    ready = make_prepared(shape=(20, 20, 20))
    one = make_predictor()
    one.models[0] = OutOfMemory(one.models[0], 1)
    whole_grid = 20**3 * 2 * 4  # two channels of float32
    monkeypatch.setattr(predicting, "LARGEST_FEATURES", {"cpu": whole_grid})
    monkeypatch.setattr(predicting, "SMALLEST_FEATURES", 1)
    one.probabilities(ready)
    assert one.models[0].voxels[0] == 20**3 and max(one.models[0].voxels[1:]) <= 20**3 / 8


@pytest.mark.fault("no GPU, or out of memory")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_that_names_the_cpu():
    with pytest.raises(
        LungsegError, match="'cuda' is not available on this machine. Use device='cpu'"
    ):
        predict(make_scan(np.zeros((4, 4, 4), np.int16)), device="cuda")


@pytest.mark.fault("values of parameters")
def test_an_unknown_device_is_an_error():
    with pytest.raises(LungsegError, match="unknown device 'tpu'. Use one of auto, cpu, cuda, mps"):
        predict(make_scan(np.zeros((4, 4, 4), np.int16)), device="tpu")


# --- tumours --------------------------------------------------------------------------------------


def test_tumours_are_measured_largest_first():
    shape = (30, 40, 50)
    mask = ball(shape, (15, 20, 12), 5) | ball(shape, (15, 20, 38), 8)
    scan = make_scan(np.zeros(mask.shape, np.int16), (2.0, 2.0, 2.0))
    large, small = measure_tumours(mask, scan)
    assert large["volume_ml"] == pytest.approx(4 / 3 * np.pi * 1.6**3, rel=0.05)
    assert large["longest_mm"] == pytest.approx(32, abs=2.5)
    assert small["longest_mm"] == pytest.approx(20, abs=2.5)
    assert large["centre_mm"] == pytest.approx((scan.affine @ [15, 20, 38, 1])[:3], abs=0.1)
    assert measure_tumours(np.zeros_like(mask), scan) == []


def test_the_min_peak_of_a_checkpoint_decides(tmp_path):
    scan, label = phantom.make_case(3)
    ready = prepare(scan, label=label)
    uncertain = torch.from_numpy(ready.label).float() * 0.8
    for min_peak, is_kept in ((0.75, True), (0.85, False)):
        facts = {"spacing_mm": 3.0, "min_peak": min_peak}
        checkpoint.save_weights(tmp_path / "it.safetensors", SegUNet(channels=(2, 4)), facts)
        mask = Predictor(tmp_path / "it.safetensors", "cpu").mask(ready, uncertain)
        assert mask.any() == is_kept
        assert float(uncertain.max()) > 0.7  # what was given stays as it was


def test_the_names_that_earlier_versions_gave_the_facts_are_read(tmp_path):
    facts = {"spacing_mm": 3.0, "least_peak": 0.85, "mirror": True}
    checkpoint.save_weights(tmp_path / "old.safetensors", SegUNet(channels=(2, 4)), facts)
    one = Predictor(tmp_path / "old.safetensors", "cpu")
    assert one.min_peak == 0.85 and one.test_time_mirroring is True


def test_test_time_mirroring_finds_the_same_in_a_mirrored_scan():
    case = make_prepared(shape=(12, 16, 16))
    hu = case.hu[..., ::-1].copy()
    mirrored_case = replace(case, hu=hu, region=case.region[..., ::-1].copy())
    once = make_predictor()
    both = make_predictor(test_time_mirroring=True)
    plain = once.probabilities(case)
    mirrored = once.probabilities(mirrored_case).flip(-1)
    assert not torch.allclose(plain, mirrored, atol=1e-4)
    mean = (plain + mirrored) / 2
    assert torch.allclose(both.probabilities(case), mean, atol=1e-5)
    assert torch.allclose(both.probabilities(mirrored_case).flip(-1), mean, atol=1e-5)
