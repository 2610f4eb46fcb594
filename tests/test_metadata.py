"""The description of the shipped weights, in the fields of MONAI's bundles."""

import inspect
import json

import monai.bundle
from monai.bundle.utils import DEFAULT_METADATA
from test_repository import locked, version

from lungseg_utils import checkpoint, prediction
from lungseg_utils.preprocess.prepared import CLIP_HU

FILE = checkpoint.WEIGHTS / "metadata.json"
METADATA = json.loads(FILE.read_text(encoding="utf-8"))
# MONAI Bundle Specification, "metadata.json File"; the mandatory ones are in DEFAULT_METADATA too.
OPTIONAL = {"schema", "name", "intended_use", "data_source", "data_type", "references"}
OPTIONAL |= {"image_classes", "label_classes", "pred_classes", "eval_metrics"}
OWN = {"license", "weights"}  # the specification lets users add keys
TENSOR = {
    "type": str,
    "format": str,
    "modality": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
    "is_patch_data": bool,
    "channel_def": dict,
}


def test_it_has_monais_fields_of_monais_kinds():
    assert METADATA.keys() == DEFAULT_METADATA.keys() | OPTIONAL | OWN
    for name, example in DEFAULT_METADATA.items():
        assert isinstance(METADATA[name], type(example)), name
    tensors = METADATA["network_data_format"]
    assert {name: list(tensors[name]) for name in tensors} == {
        "inputs": ["image"],
        "outputs": ["pred"],
    }
    for tensor in (tensors["inputs"]["image"], tensors["outputs"]["pred"]):
        assert {name: type(value) for name, value in tensor.items()} == TENSOR
        assert len(tensor["channel_def"]) == tensor["num_channels"]


def test_monai_finds_the_network_to_take_and_return_what_it_says(tmp_path):
    config = tmp_path / "network.json"
    network = "$checkpoint.load_weights(checkpoint.SHIPPED)[0]"
    imports = ["$from lungseg_utils import checkpoint"]
    config.write_text(json.dumps({"imports": imports, "network": network}))
    monai.bundle.verify_net_in_out(
        "network", meta_file=str(FILE), config_file=str(config), device="cpu", any=20
    )


def test_its_numbers_are_those_of_the_weights():
    described = METADATA["weights"]
    model, facts = checkpoint.load_weights(FILE.parent / described["file"])
    assert checkpoint.SHIPPED.name == described["file"]
    assert described["network"] == model.config()
    assert METADATA["version"] == facts["trained_with"]
    for name in ("digest", "spacing_mm", "min_peak", "test_time_mirroring"):
        assert described[name] == facts[name], name
    assert described["clip_hu"] == list(CLIP_HU)
    taken = inspect.signature(prediction.Predictor.segment).parameters["threshold"]
    assert described["threshold"] == taken.default


def test_its_versions_are_no_later_than_those_of_the_lock():
    for package, name in (("monai", "monai"), ("pytorch", "torch"), ("numpy", "numpy")):
        assert version(METADATA[f"{package}_version"]) <= max(map(version, locked()[name]))


def test_its_scores_are_those_of_the_card():
    card = (FILE.parent / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| **79 tumours"))
    scores = METADATA["eval_metrics"]
    assert f"| {scores['mean_dice']} (" in row and f"| {scores['median_dice']} (" in row
