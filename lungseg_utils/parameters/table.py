"""The table of parameters: each is declared once, in a line, with its default, meaning and range.

Command line, YAML files and the notebooks' cells follow from these declarations. A new parameter
is a line here, and one where it is used; `python -m lungseg_utils.parameters` prints the rest.
"""

import dataclasses
import json

from lungseg_utils.parameters.kinds import Parameter, parameter
from lungseg_utils.runtime import LungsegError


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a run turns out; written to config.json, compared on resume."""

    epochs: int = parameter(
        30,
        "passes of steps_per_epoch steps each; params/quick.yaml has all that may be set",
        "[1, 100000]",
    )
    steps_per_epoch: int = parameter(12, "steps of the optimiser in an epoch", "[1, 100000]")
    batch_size: int = parameter(4, "patches in a step, of all processes together", "[1, 1024]")
    patch_size: tuple[int, int, int] = parameter(
        (40, 40, 40),
        "sides of a training patch (D, H, W), in voxels",
        "[8, 512]",
        multiple=8,
        length=(3, 3),
    )
    spacing_mm: float = parameter(
        3.0, "side of the cubic voxels that the network works on, in mm", "[0.3, 8]"
    )
    loss: str = parameter(
        "dice_ce",
        "loss that training minimises",
        choices=("dice_ce", "dice_ce_balanced", "tversky", "focal"),
    )
    deep_supervision: bool = parameter(
        False, "whether the coarser decoder stages learn to predict too"
    )
    optimiser: str = parameter(
        "adamw",
        "optimiser; sgd has Nesterov momentum, as in nnU-Net",
        choices=("adamw", "sgd"),
    )
    learning_rate: float = parameter(
        3e-3, "highest learning rate, reached after the warm-up", "(0, 1]"
    )
    schedule: str = parameter(
        "constant",
        "how the learning rate changes after the warm-up",
        choices=("constant", "cosine", "poly"),
    )
    warmup_steps: int = parameter(
        20, "steps over which the learning rate rises from zero", "[0, 100000]"
    )
    weight_decay: float = parameter(1e-2, "weight decay of the optimiser", "[0, 1]")
    gradient_clip: float = parameter(
        5.0, "largest norm of the gradient; a larger one is scaled down", "(0, 1000]"
    )
    foreground_share: float = parameter(
        0.67, "share of the patches that are centred in a lesion", "[0, 1]"
    )
    hard_example_share: float = parameter(
        0.0, "share of the patches centred on an error of the starting weights", "[0, 1]"
    )
    shares: tuple[float, ...] = parameter(
        (),
        "share of the patches that each of several sets gives; empty: by their cases",
        "[0, 1000]",
        length=(0, 100),
    )
    cube_share: float = parameter(
        0.5,
        "share of the patches of whole scans cut to cubes, if a set holds crops",
        "[0, 1]",
    )
    ema_decay: float = parameter(
        0.95, "decay of the exponential moving average of the weights", "[0, 1)"
    )
    frozen_norm_share: float = parameter(
        0.0, "share of the run, at its end, with frozen batch norms", "[0, 1]"
    )
    validate_every: int = parameter(1, "epochs from one validation to the next", "[1, 100000]")
    channels: tuple[int, ...] = parameter(
        (8, 16, 32, 64),
        "channels of the network's stages, from the first",
        "[1, 2048]",
        length=(2, 8),
    )
    upsample: str = parameter(
        "unpool",
        "how the decoder enlarges: as SegNet or as U-Net does",
        choices=("unpool", "transpose"),
    )
    skip: str = parameter(
        "concat",
        "whether the encoder's features are joined to the decoder's",
        choices=("concat", "none"),
    )
    augment: bool = parameter(True, "whether patches are flipped, turned, scaled and varied")
    elastic_voxels: float = parameter(
        0.0, "largest shift of an elastic deformation, in voxels", "[0, 20]"
    )
    low_resolution: float = parameter(
        0.0, "share of the patches blurred as if their voxels were thicker", "[0, 1]"
    )
    field_of_view_crop: float = parameter(
        0.0, "share of the patches that end in air, as in a cropped scan", "[0, 1]"
    )
    compile: bool = parameter(False, "whether torch.compile compiles the network, on a GPU")
    seed: int = parameter(0, "seed of every random choice", "[0, 4294967295]")

    def __post_init__(self) -> None:
        if self.foreground_share + self.hard_example_share > 1 + 1e-9:
            raise LungsegError(
                "foreground_share, hard_example_share",
                f"shares of {self.foreground_share:g} and {self.hard_example_share:g} of the "
                "patches are more than all",
                "let them be 1 together at most",
            )


# What does not decide how a training turns out: places, machine, prediction, the synthetic set
OPTIONS = {
    "dataset_dir": Parameter(
        "", "folder of a set with its dataset.json; empty: the synthetic quick set"
    ),
    "run_dir": Parameter("", "folder of the training run; empty: runs/quick"),
    "checkpoint": Parameter(
        "", "weights; empty: the best of the run, with ct_path alone the shipped ones"
    ),
    "ct_path": Parameter(
        "", "NIfTI file or DICOM folder of a chest CT; empty: a phantom test case"
    ),
    "device": Parameter(
        "auto",
        "where the network runs; auto takes a GPU if there is one",
        choices=("auto", "cpu", "cuda", "mps"),
    ),
    "workers": Parameter(2, "scans prepared at a time", "[0, 256]"),
    "fold": Parameter(0, "fold of the cross-validation whose patients validate", "[0, 99]"),
    "overlap": Parameter(
        0.25, "overlap of neighbouring prediction windows, as a share of their side", "[0, 0.9)"
    ),
    "threshold": Parameter(0.5, "probability from which a voxel counts as tumour", "(0, 1)"),
    "cases": Parameter(12, "training scans of a synthetic set", "[2, 5000]"),
    "test_cases": Parameter(4, "test scans of a synthetic set", "[0, 5000]"),
    "tier": Parameter(
        "quick", "level of detail of a synthetic set", choices=("quick", "medium", "full")
    ),
}

PARAMETERS: dict[str, Parameter] = OPTIONS | {
    field.name: field.metadata["parameter"] for field in dataclasses.fields(TrainingConfig)
}


def defaults() -> dict:
    """Return every parameter with its default: the quick run on a CPU."""
    return {name: list(p.default) if p.length else p.default for name, p in PARAMETERS.items()}


def quick_yaml() -> str:
    """Return the text of params/quick.yaml: every parameter with its default and meaning."""
    text = "# The default of every parameter: the quick run on a CPU. Copy this file and edit it.\n"
    for name, value in defaults().items():
        text += f"{name}: {json.dumps(value)}  # {PARAMETERS[name].meaning}\n"
    return text


def notebook_line(name: str) -> str:
    """Return the line of a notebook's parameters cell that declares parameter `name`."""
    value = defaults()[name]
    shown = json.dumps(value) if isinstance(value, str) else repr(value)
    return f"{name}: {type(value).__name__} = {shown}  # {PARAMETERS[name].meaning}"
