"""Checkpoints come back exactly; a damaged, foreign or hostile one is refused and never run."""

import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lungseg_utils import checkpoint
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet

FACTS = {"spacing_mm": 2.5, "epoch": 3}
UNSAFE = re.compile(r"weights_only|safe_globals|trust|unsafe|pickle", re.IGNORECASE)


def tiny(**options):
    torch.manual_seed(1)
    return SegUNet(**{"channels": (2, 3), **options})


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "best.safetensors"
    checkpoint.save_weights(path, tiny(), FACTS)
    return path


def state_of(model, **extra):
    described = json.dumps({"network": model.config(), "facts": FACTS})
    return {"ema": model.state_dict(), "described": described, **extra}


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "last.pt"
    torch.save(state_of(tiny()), path)
    return path


def refuse(path, match="", load=checkpoint.load_weights):
    with pytest.raises(LungsegError, match=match) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.endswith(".")
    assert not UNSAFE.search(text.removeprefix(str(path)))
    return text


# --- what is good ---------------------------------------------------------------------------------


def test_weights_come_back_exactly(weights):
    model, facts = checkpoint.load_weights(weights)
    original = tiny()
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), original.state_dict().values())
    )
    assert model.config() == original.config() and not model.training
    assert {name: facts[name] for name in FACTS} == FACTS and re.fullmatch(
        "[0-9a-f]{16}", facts["digest"]
    )


def test_kernels_of_half_precision_take_half_the_room_and_come_back_rounded(tmp_path, weights):
    path, network = tmp_path / "half.safetensors", tiny(channels=(8, 16))
    checkpoint.save_weights(weights, network, FACTS)
    checkpoint.save_weights(path, network, FACTS, half=True)
    assert path.stat().st_size < 0.7 * weights.stat().st_size
    model, _ = checkpoint.load_weights(path)
    for name, value in network.state_dict().items():
        again = model.state_dict()[name]
        assert again.dtype == value.dtype
        assert (
            torch.allclose(again, value, rtol=2**-11, atol=1e-7)
            if value.ndim > 1
            else torch.equal(again, value)
        )
    with torch.no_grad():
        network.head.weight.fill_(1e5)  # more than half precision can hold
    with pytest.raises(LungsegError, match="not finite"):
        checkpoint.save_weights(path, network, FACTS, half=True)


def test_a_training_state_serves_as_weights(weights, state):
    one, other = checkpoint.load_weights(weights), checkpoint.load_weights(state)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one[0].state_dict().values(), other[0].state_dict().values())
    )


def test_the_digest_names_the_weights_not_the_file(tmp_path, weights):
    """And equal weights are equal files, though the metadata of safetensors come in any order."""
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save_weights(path, tiny(), FACTS)
        assert (
            checkpoint.load_weights(path)[1]["digest"]
            == checkpoint.load_weights(weights)[1]["digest"]
        )
        assert path.read_bytes() == weights.read_bytes()
    checkpoint.save_weights(path, tiny(), FACTS | {"epoch": 4})
    assert (
        checkpoint.load_weights(path)[1]["digest"] != checkpoint.load_weights(weights)[1]["digest"]
    )


def test_facts_of_earlier_versions_have_the_names_of_today(tmp_path):
    path = tmp_path / "old.safetensors"
    checkpoint.save_weights(path, tiny(), {"spacing_mm": 3, "least_peak": 0.9, "mirror": True})
    facts = checkpoint.load_weights(path)[1]
    digest = facts.pop("digest")
    assert facts == {"spacing_mm": 3.0, "min_peak": 0.9, "test_time_mirroring": True}
    assert digest == checkpoint.load_networks([path])[1]["digest"]


def test_the_synthetic_weights_keep_their_digest_and_have_the_names_of_today():
    _, facts = checkpoint.load_weights("synthetic")
    assert facts["digest"] == "ad00d7366bba1f9e"
    assert facts["test_time_mirroring"] is True and 0.9 < facts["min_peak"] < 1
    assert not facts.keys() & {"mirror", "least_peak"}


def test_a_file_called_as_the_weights_that_are_shipped_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("synthetic") == checkpoint.SYNTHETIC
    assert checkpoint.find("shipped") == checkpoint.SHIPPED
    checkpoint.save_weights("synthetic", tiny(), {"spacing_mm": 3.0})
    assert checkpoint.load_weights("synthetic")[1]["spacing_mm"] == 3.0
    assert checkpoint.find("elsewhere/synthetic").parent.name == "elsewhere"


def test_a_torch_program_that_knows_nothing_of_this_one_can_read_the_weights(weights):
    assert load_file(weights).keys() == tiny().state_dict().keys()


# --- what is damaged ------------------------------------------------------------------------------

DAMAGES = {
    "empty": (lambda b: b"", "empty"),
    "cut": (lambda b: b[:-50], "damaged"),
    "cut early": (lambda b: b[:30], "damaged"),
    "zeros": (lambda b: bytes(len(b)), "nothing but zeros"),
    "html": (lambda b: b"<!DOCTYPE html>" * 200, "damaged"),
    "text": (lambda b: b"PK\x03\x04 not really", "damaged"),
    "noise": (lambda b: np.random.bytes(5000), "damaged"),
    "surplus": (lambda b: b + b"x" * 100, "damaged"),
}


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_are_refused(weights, damage):
    change, cause = DAMAGES[damage]
    weights.write_bytes(change(weights.read_bytes()))
    refuse(weights, cause)


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "surplus"])
def test_a_damaged_state_is_refused(state, damage):
    change, cause = DAMAGES[damage]
    state.write_bytes(change(state.read_bytes()))
    refuse(state, cause, checkpoint.load_state)


@pytest.mark.fault("damaged checkpoint")
@pytest.mark.parametrize("kind", ["weights", "state"])
def test_no_flipped_bit_changes_a_weight_in_silence(kind, request):
    path = request.getfixturevalue(kind)
    content = path.read_bytes()
    whole = checkpoint.load_weights(path)[1]["digest"]
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        place, bit = int(random.integers(len(content))), int(random.integers(8))
        path.write_bytes(
            content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
        )
        try:
            assert checkpoint.load_weights(path)[1]["digest"] == whole  # in padding or a time stamp
        except LungsegError as error:
            refused += 1
            assert not UNSAFE.search(str(error).removeprefix(str(path)))
    assert refused > (140 if kind == "weights" else 30)  # a zip of small tensors is mostly padding


@pytest.mark.fault("damaged checkpoint")
def test_a_flipped_bit_in_the_tensors_is_a_checksum_that_does_not_match(weights, state):
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)
    refuse(weights, "checksum")
    content = bytearray(state.read_bytes())
    needle = tiny().state_dict()["encoder.0.0.weight"].numpy().tobytes()
    content[content.index(needle) + 5] ^= 1
    state.write_bytes(content)
    refuse(state, "checksum", checkpoint.load_state)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    refuse(tmp_path / "none.pt", "no such file")
    refuse(tmp_path, "directory|permission")


def test_a_file_too_large_to_be_one_is_not_read(weights, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGEST_BYTES", 100)
    refuse(weights, "larger than .*: no checkpoint")


# --- what is hostile ------------------------------------------------------------------------------


class Opens:
    """A pickle of it makes a file when it is read: the canary."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


class Runs(Opens):
    """Evaluates code instead of opening a file."""

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.canary)!r}).touch()",)


class Builds(Opens):
    """Hides the call in the state that is set, past the constructor."""

    def __reduce__(self):
        return dict, (), None, None, iter([("key", Runs(self.canary))])


def bare(path, evil):
    path.write_bytes(pickle.dumps(evil))


def by_torch(path, evil):
    torch.save({"ema": evil, "described": "{}"}, path)


def injected(path, evil):
    """Swap the pickle of a real checkpoint, checksums and all."""
    whole = io.BytesIO()
    torch.save(state_of(tiny()), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if item.filename.endswith("data.pkl"):
                content = pickle.dumps({"evil": evil, "ema": {}}, protocol=2)
            target.writestr(item.filename, content)


def old_style(path, evil):
    torch.save({"ema": evil}, path, _use_new_zipfile_serialization=False)


@pytest.mark.fault("malicious checkpoint")
@pytest.mark.parametrize("payload", [Opens, Runs, Builds])
@pytest.mark.parametrize("write", [bare, by_torch, injected, old_style])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, write, payload):
    path, canary = tmp_path / "last.pt", tmp_path / "canary"
    write(path, payload(canary))
    for load in (checkpoint.load_weights, checkpoint.load_state):
        refuse(path, "damaged", load)
    assert not canary.exists()


# --- what is foreign ------------------------------------------------------------------------------


@pytest.mark.fault("foreign checkpoint")
def test_weights_of_another_program_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, path)
    refuse(path, "another program")
    save_file({"conv.weight": torch.zeros(3)}, path, {"lungseg": "#", "digest": "0"})
    refuse(path, "checksum")
    path.write_bytes((21).to_bytes(8, "little") + b'{"__metadata__":null}')
    refuse(path, "another program")


@pytest.mark.fault("foreign checkpoint")
def test_a_bare_state_dict_is_no_checkpoint_of_ours(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    refuse(path, "no SegUNet of this project")
    torch.save([1, 2], path)
    refuse(path, "not the state")


@pytest.mark.fault("foreign checkpoint")
@pytest.mark.parametrize(
    ("described", "cause"),
    [
        ("{}", "no SegUNet"),
        ("[1]", "no SegUNet"),
        ("[" * 100_000, "no SegUNet"),
        (None, "no SegUNet"),
        (7, "no SegUNet"),
        ('{"network": {"channels": [2, 3], "evil": 1}, "facts": {"spacing_mm": 3}}', "no SegUNet"),
        ('{"network": {"channels": [2, -3]}, "facts": {"spacing_mm": 3}}', "no SegUNet"),
        ('{"network": {"channels": [2, 3]}, "facts": {}}', "no SegUNet"),
        ('{"network": {"channels": [2, 3]}, "facts": {"spacing_mm": 0}}', "no SegUNet"),
        ('{"network": {"channels": [2, 3]}, "facts": {"spacing_mm": NaN}}', "no SegUNet"),
        (
            '{"network": {"channels": [2, 3]}, "facts": {"spacing_mm": 3, "mirror": 1}}',
            "no SegUNet",
        ),
        (
            '{"network": {"channels": [2, 3]}, "facts": {"spacing_mm": 3, "least_peak": 2}}',
            "no SegUNet",
        ),
        (
            '{"network": {"channels": [2, 3]}, "facts": {"spacing_mm": 3, "mirror": true, '
            '"test_time_mirroring": false}}',
            "no SegUNet",
        ),
        ('{"network": {"channels": [2, 3]}, "facts": [1]}', "no SegUNet"),
        (
            '{"network": {"channels": [2, 4]}, "facts": {"spacing_mm": 3}}',
            "do not fit the network: .* is .* instead of",
        ),
        (
            '{"network": {"channels": [2, 3], "upsample": "transpose"}, '
            '"facts": {"spacing_mm": 3}}',
            "is missing",
        ),
        (
            '{"network": {"channels": [99999999, 99999999]}, "facts": {"spacing_mm": 3}}',
            "do not fit",
        ),
    ],
)
def test_a_network_that_cannot_be_built_or_does_not_fit_is_explained(tmp_path, described, cause):
    path = tmp_path / "last.pt"
    torch.save(state_of(tiny()) | {"described": described}, path)
    refuse(path, cause)


@pytest.mark.fault("foreign checkpoint")
@pytest.mark.parametrize("tensors", [None, 3, {"a": 1}, {"head.bias": "text"}, {}])
def test_a_table_of_weights_that_is_none_is_refused(tmp_path, tensors):
    path = tmp_path / "last.pt"
    torch.save(state_of(tiny()) | {"ema": tensors}, path)
    refuse(path, "table of weights|do not fit")


@pytest.mark.fault("foreign checkpoint")
def test_a_network_of_two_masks_or_scans_predicts_nothing_here(tmp_path):
    for number, channels in enumerate(({"out_channels": 2}, {"in_channels": 2})):
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save_weights(path, tiny(**channels), FACTS)
        with pytest.raises(
            LungsegError, match=f"{number}.safetensors: made for .*: not for one CT and one mask"
        ):
            checkpoint.load_networks(path)


@pytest.mark.fault("foreign checkpoint")
@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.to_sparse,
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: tensor.to("meta"),
        torch.Tensor.bool,
        lambda tensor: tensor.to(torch.float8_e4m3fn),
    ],
)
def test_weights_that_are_no_plain_numbers_are_refused(tmp_path, change):
    model = tiny()
    tables = {
        name: change(tensor) if name == "head.weight" else tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(state_of(model) | {"ema": tables}, tmp_path / "last.pt")
    with pytest.raises(LungsegError, match=r"no plain numbers \(head.weight\)|damaged"):
        checkpoint.load_weights(tmp_path / "last.pt")


def test_a_state_that_unpacks_to_more_than_any_checkpoint_is_not_unpacked(tmp_path, monkeypatch):
    torch.save(state_of(tiny(), zeros=torch.zeros(1_000_000)), tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for part in plain.infolist():
            packed.writestr(part.filename, plain.read(part))
    monkeypatch.setattr(checkpoint, "LARGEST_BYTES", 1_000_000)
    assert (tmp_path / "last.pt").stat().st_size < 1_000_000
    with pytest.raises(LungsegError, match="unpacks to more than"):
        checkpoint.load_weights(tmp_path / "last.pt")


@pytest.mark.fault("foreign checkpoint")
def test_numpy_scalars_need_no_unsafe_loading(tmp_path):
    path = tmp_path / "last.pt"
    torch.save(state_of(tiny(), score=np.float64(0.5)), path)
    refuse(path, "more than numbers", checkpoint.load_state)


@pytest.mark.fault("foreign checkpoint")
def test_a_storage_smaller_than_its_tensor_is_refused(tmp_path):
    """A real checkpoint whose tensors were shortened, checksums and all."""
    whole, path = io.BytesIO(), tmp_path / "last.pt"
    torch.save(state_of(tiny()), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            target.writestr(item.filename, content[:4] if "/data/" in item.filename else content)
    refuse(path, "damaged")


@pytest.mark.fault("loss or weights that are not finite")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_written_nor_read(tmp_path, weights, value):
    model, before = tiny(), weights.read_bytes()
    torch.nn.init.constant_(model.head.bias, value)
    with pytest.raises(
        LungsegError, match=r"not finite \(head.bias\). An earlier checkpoint is kept"
    ):
        checkpoint.save_weights(weights, model, FACTS)
    assert weights.read_bytes() == before
    torch.save(state_of(model), tmp_path / "last.pt")
    refuse(tmp_path / "last.pt", r"not finite.* \(head.bias\)")


def test_a_negative_variance_and_a_number_too_large_for_single_precision_are_refused(tmp_path):
    tensors = tiny().state_dict()
    name = next(name for name in tensors if name.endswith("running_var"))
    for bad in ({name: -tensors[name]}, {name: tensors[name].double() * 1e300}):
        torch.save(state_of(tiny()) | {"ema": tensors | bad}, tmp_path / "last.pt")
        refuse(tmp_path / "last.pt", rf"not finite, or a variance is negative \({name}\)")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int32])
def test_weights_of_another_type_are_refused_or_converted(tmp_path, dtype):
    model = tiny()
    path = tmp_path / "last.pt"
    torch.save(
        state_of(model) | {"ema": {k: v.to(dtype) for k, v in model.state_dict().items()}}, path
    )
    loaded, _ = checkpoint.load_weights(path)
    assert {v.dtype for v in loaded.state_dict().values()} == {torch.float32, torch.int64}
