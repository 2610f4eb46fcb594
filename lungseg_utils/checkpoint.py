"""The one safe loader of checkpoints, and the writer of weights.

Weights are safetensors: numbers and a JSON header, nothing that can be executed. The state of a
training run is a torch zip archive, read with its checksums verified and with nothing but tensors
and plain values allowed in it.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lungseg_utils.parameters import with_current_names
from lungseg_utils.runtime import LungsegError, file_error, home, writing
from lungseg_utils.segunet import SegUNet

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED = WEIGHTS / "segunet.safetensors"
SYNTHETIC = WEIGHTS / "synthetic.safetensors"
NAMED = {"shipped": SHIPPED, "synthetic": SYNTHETIC}  # what stands for a path
TRAINED_ON = {SHIPPED: "synthetic scans and 79 real tumours", SYNTHETIC: "synthetic scans only"}
LARGEST_BYTES = 4 * 2**30
AGAIN = "copy or download it again, or train again"
OWN = "give a checkpoint that `lungseg train` wrote"


def save_weights(path: str | Path, model: SegUNet, facts: dict, *, half: bool = False) -> None:
    """Write the weights, how to build their network, and `facts` (JSON; at least "spacing_mm").

    With `half` the kernels are rounded to half precision, which halves the file; a GPU, or a CPU
    with bfloat16, rounds them further before it predicts.
    """
    from safetensors.torch import save

    tensors = {
        name: (tensor.half() if half and tensor.ndim > 1 else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    unsound = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if unsound:
        raise LungsegError(
            path, f"the weights are not finite ({unsound[0]})", "an earlier checkpoint is kept"
        )
    described = json.dumps({"network": model.config(), "facts": facts}, sort_keys=True)
    content = save(tensors, {"lungseg": described, "digest": _digest(tensors, described)})
    length = 8 + int.from_bytes(content[:8], "little")
    # safetensors orders its header differently each time: equal weights shall be equal files
    header = json.dumps(json.loads(content[8:length]), sort_keys=True)
    header += " " * (-len(header) % 8)
    with writing(path) as partial:
        partial.write_bytes(len(header).to_bytes(8, "little") + header.encode() + content[length:])


def load_weights(path: str | Path) -> tuple[SegUNet, dict]:
    """Build the network that `path` holds; return it and its facts. A run's `last.pt` serves too.

    Raises LungsegError for a file that is missing, damaged, not of this project or does not fit.
    """
    content = _read(path)
    if zipfile.is_zipfile(io.BytesIO(content)):
        state = _unzip_state(path, content)
        described, tensors = state.get("described", ""), state.get("ema", {})
    else:
        described, tensors = _parse_weights(path, content)
    try:
        model, facts = _build(described)
    except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise LungsegError(path, "it holds no SegUNet of this project", OWN) from error
    _check_fit(model, tensors, path)
    own = model.state_dict()
    model.load_state_dict(
        {name: tensor.to(own[name].dtype) for name, tensor in tensors.items()}, assign=True
    )
    # of the content: the same weights may be stored in two ways
    facts["digest"] = _digest(tensors, described)[:16]
    return model.eval(), facts


def _build(described: Any) -> tuple[SegUNet, dict]:
    """Build the network of a checkpoint's description, without memory for its weights yet."""
    parts = json.loads(described)
    facts = with_current_names(dict(parts["facts"]))
    facts["spacing_mm"] = float(facts["spacing_mm"])
    is_sound = 0.1 <= facts["spacing_mm"] <= 20 and 0 <= float(facts.get("min_peak", 0)) <= 1
    if not is_sound or not isinstance(facts.get("test_time_mirroring", False), bool):
        raise ValueError
    with torch.device("meta"):  # it may ask for any size
        return SegUNet(**parts["network"]), facts


def load_networks(paths: str | Path | Sequence[str | Path]) -> tuple[list[SegUNet], dict]:
    """Build the networks of one checkpoint, or of several that predict together, with their facts.

    The facts of several are those that all share, and their digests joined by "+". Raises
    LungsegError as `load_weights` does, and for networks that do not work on the same voxels.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not paths:
        raise LungsegError(
            "checkpoint", "an empty list", "give at least one checkpoint, or None for those shipped"
        )
    models, facts = zip(*map(load_weights, paths))
    made_for = [
        f"voxels of {own['spacing_mm']:g} mm, channels {model.in_channels} in, "
        f"{model.out_channels} out"
        for model, own in zip(models, facts)
    ]
    if (models[0].in_channels, models[0].out_channels) != (1, 1):
        raise LungsegError(paths[0], f"made for {made_for[0]}: not for one CT and one mask", OWN)
    for path, voxels in zip(paths, made_for):
        if voxels != made_for[0]:
            raise LungsegError(
                path,
                f"made for {voxels}, but {paths[0]} for {made_for[0]}",
                "average checkpoints of one recipe only, or predict with each by itself",
            )
    shared = {
        name: value
        for name, value in facts[0].items()
        if all(own.get(name) == value for own in facts)
    }
    return list(models), shared | {"digest": "+".join(own["digest"] for own in facts)}


def fill(model: torch.nn.Module, tensors: dict, path: str | Path) -> None:
    """Put `tensors` into `model`; raise LungsegError naming what does not fit."""
    _check_fit(model, tensors, path)
    model.load_state_dict(tensors)


def _check_fit(model: torch.nn.Module, tensors: Any, path: str | Path) -> None:
    own = model.state_dict()
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise LungsegError(path, "it holds no table of weights", AGAIN)
    odd = [name for name, tensor in tensors.items() if not _is_plain(tensor)]
    if odd:
        raise LungsegError(path, f"its weights are no plain numbers ({odd[0]})", OWN)
    misfits = [f"{name} is missing" for name in own if name not in tensors]
    misfits += [f"{name} is unknown" for name in tensors if name not in own]
    misfits += [
        f"{name} is {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise LungsegError(
            path, f"its weights do not fit the network: {'; '.join(misfits[:3])}{more}", AGAIN
        )
    unsound = [
        name
        for name, tensor in tensors.items()
        if not torch.isfinite(tensor.to(own[name].dtype)).all()
        or (name.endswith("running_var") and (tensor < 0).any())
    ]
    if unsound:
        raise LungsegError(
            path, f"its weights are not finite, or a variance is negative ({unsound[0]})", AGAIN
        )


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is a dense table of real numbers of two bytes or more."""
    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    is_coded = tensor.is_complex() or tensor.is_quantized or tensor.element_size() < 2
    return is_dense and not is_coded


def load_state(path: str | Path) -> dict[str, Any]:
    """Read the state of a training run.

    Raises LungsegError when it is missing, damaged or holds anything else.
    """
    return _unzip_state(path, _read(path))


def find(path: str | Path) -> Path:
    """Return the file that `path` means: "shipped" is the default's, "synthetic" the other one."""
    path = Path(path)
    is_name = path.parent in (Path(), home()) and not path.exists()
    return NAMED.get(path.name, path) if is_name else path


def _read(path: str | Path) -> bytes:
    path = find(path)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise LungsegError(path, f"larger than {LARGEST_BYTES >> 30} GiB: no checkpoint", AGAIN)
        content = path.read_bytes()
    except OSError as error:
        raise file_error(path, error, "give the path of a checkpoint") from error
    if not content.strip(b"\0"):
        raise LungsegError(path, "empty" if not content else "nothing but zeros", AGAIN)
    return content


def _parse_weights(path: str | Path, content: bytes) -> tuple[str, dict]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header.get("__metadata__") or {}  # safetensors lets null pass
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise LungsegError(path, "damaged or not a checkpoint", AGAIN) from error
    if "lungseg" not in metadata:
        raise LungsegError(path, "weights of another program", OWN)
    if metadata.get("digest") != _digest(tensors, metadata["lungseg"]):
        raise LungsegError(path, "damaged: its checksum does not match", AGAIN)
    return metadata["lungseg"], tensors


def _unzip_state(path: str | Path, content: bytes) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST_BYTES:
                raise LungsegError(
                    path, f"unpacks to more than {LARGEST_BYTES >> 30} GiB: no checkpoint", AGAIN
                )
            broken = archive.testzip()  # torch itself never verifies the checksums
        if broken:
            raise LungsegError(path, f"damaged: the checksum of {broken} does not match", AGAIN)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except LungsegError:
        raise
    except Exception as error:  # torch's own text explains how to load it unsafely: never repeat it
        raise LungsegError(
            path, "damaged, or it holds more than numbers and so may run code", AGAIN
        ) from error
    if not isinstance(state, dict):
        raise LungsegError(path, "not the state of a training run", AGAIN)
    return state


def _digest(tensors: dict[str, torch.Tensor], described: str) -> str:
    digest = hashlib.blake2b(described.encode(), digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
