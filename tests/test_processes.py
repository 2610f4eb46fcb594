"""Several processes: they share each batch, hold the same weights, and resume to the bit as one."""

import csv
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from helpers_cases import TINY, make_prepared

from lungseg_utils import checkpoint, phantom
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import loop, make_loss, start_run, validate
from lungseg_utils.training import run as runs
from lungseg_utils.training.distributed import share_of_batch

WORKER = """
import contextlib, copy, dataclasses, sys
from pathlib import Path
import torch
from accelerate.utils import gather_object
from filelock import FileLock
from helpers_cases import TINY, make_prepared
from test_processes import STEPS, random_network, take_a_step
from lungseg_utils.patches import make_training_case
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import fit, make_loss
from lungseg_utils.training.distributed import (
    average_buffers, distribute, seed_epoch, share_of_batch, start_accelerator, whole_batch
)
from lungseg_utils.training.validation import add_hard_examples, validate

torch.set_num_threads(1)
cases = [make_prepared(seed) for seed in range(4)]
folder = Path(sys.argv[1])
accelerator = start_accelerator("cpu")
rank = accelerator.process_index
own = share_of_batch(accelerator, 4)
assert accelerator.num_processes == 2 and list(own) == [2 * rank, 2 * rank + 1]

def train(name, epochs, resume=False):
    config = dataclasses.replace(TINY, epochs=epochs)
    return fit(
        cases[:2], cases[2:], run_dir=folder / name, config=config, device="cpu", resume=resume
    )

# a run, and one that is resumed
history = train("straight", 4)
train("parts", 2)
assert train("parts", 4, resume=True) == history

# running statistics are averaged, counts are left
norm = torch.nn.BatchNorm3d(2)
norm.running_mean.copy_(torch.tensor([1.0 + rank, 5.0]))
norm.running_var.fill_(2.0 * rank)
norm.num_batches_tracked.fill_(7)
average_buffers(accelerator, norm)
assert norm.running_mean.tolist() == [1.5, 5.0] and norm.running_var.tolist() == [1.0, 1.0]
assert norm.num_batches_tracked == 7

# until then each process has its own
norm = torch.nn.BatchNorm3d(1)
alone = copy.deepcopy(norm)
network, _ = distribute(accelerator, norm, torch.optim.SGD(norm.parameters(), 0.1))
with torch.no_grad():
    for _ in range(2):
        image = torch.randn(2, 1, 4, 4, 4) + rank
        assert torch.equal(network(image), alone(image))
assert torch.equal(norm.running_mean, alone.running_mean)

# other patches in each process, the same history
generator = torch.Generator().manual_seed(0)
seed_epoch(accelerator, generator, 0, 3)
draws = gather_object([float(torch.rand((), generator=generator))])
assert len(draws) == 2 and draws[0] != draws[1]
histories = gather_object([history])
assert histories[0] == histories[1]

# the loss of the whole batch, and a gradient whose mean over the processes is that of the batch
logits = torch.linspace(-3, 3, 32).reshape(4, 1, 2, 2, 2).requires_grad_()
label = (logits.detach() > 1).float()
assert torch.equal(whole_batch(accelerator, label[own]), label)
for name in ("dice_ce", "dice_ce_balanced", "tversky", "focal"):
    logits.grad = None
    mine = logits.detach()[own].requires_grad_()
    whole = make_loss(name)(logits, label)
    joined = make_loss(name)(whole_batch(accelerator, mine), label)
    whole.backward()
    joined.backward()
    assert torch.allclose(whole, joined), name
    assert torch.allclose(mine.grad, 2 * logits.grad[own]), name

# a step of two processes
for name, changes in STEPS.items():
    weights = take_a_step(changes)
    gathered = gather_object([weights])
    assert all(torch.equal(gathered[0][key], gathered[1][key]) for key in weights), name
    if rank == 0:
        torch.save(weights, folder / f"{name}.pt")

# each process predicts its share of the cases; all know of every hard example
silent = SegUNet(channels=(2, 4))
torch.nn.init.constant_(silent.head.bias, -9.0)
training = [make_training_case(case) for case in cases[:3]]
for case in add_hard_examples(training, cases[:3], silent, TINY):
    missed = zip(case.hard_examples, case.lesions, strict=True)
    assert all(torch.equal(example, lesion) for example, lesion in missed)

# and its share of a validation; all know the scores of one process on all cases
scores = gather_object([validate(random_network(), cases[:3], TINY)])
assert scores[0] == scores[1]
if rank == 0:
    torch.save(scores[0], folder / "scores.pt")

# all are refused, not the first alone
with contextlib.ExitStack() as another:
    if rank == 0:
        another.enter_context(FileLock(folder / "straight" / ".lock"))
    try:
        train("straight", 4, resume=True)
    except LungsegError as refusal:
        assert "another training is at work" in str(refusal)
    else:
        raise AssertionError("not refused")
(folder / f"done-{rank}-of-{accelerator.num_processes}").touch()
accelerator.wait_for_everyone()  # as `fit` ends: none leaves while the other still sends
"""

STEP = dataclasses.replace(
    TINY,
    batch_size=4,
    steps_per_epoch=1,
    optimiser="sgd",
    learning_rate=0.1,
    warmup_steps=0,
    frozen_norm_share=1.0,  # one that learns sees its process's patches alone
)
STEPS = {
    "dice_ce": {},
    "balanced": {"loss": "dice_ce_balanced", "gradient_clip": 0.05},
    "focal": {"loss": "focal", "upsample": "transpose"},
    "deep": {"loss": "tversky", "channels": (2, 4, 6), "deep_supervision": True},
}


def random_network() -> SegUNet:
    """Return a network that marks some of a scan, and always the same."""
    torch.manual_seed(0)
    return SegUNet(channels=(2, 4)).eval()


def take_a_step(changes) -> dict[str, torch.Tensor]:
    """Train for one step on this process's share of four patches; return weights and gradients.

    In float32, so that sums differ by rounding alone.
    """
    config = dataclasses.replace(STEP, **changes)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 1, 8, 8, 8, generator=generator)
    label = (torch.rand(4, 1, 8, 8, 8, generator=generator) < 0.2).float()
    label[2] = 0  # as many processes, as many losses, if each took its own

    def batch(run, _cases, _config):
        own = list(share_of_batch(run.accelerator, 4))
        by_voxel = image[own].contiguous(memory_format=torch.channels_last_3d)
        yield 0, by_voxel, label[own], ["case"] * len(own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "pick_precision", lambda _device: torch.float32)
        patch.setattr(loop, "epoch_batches", batch)
        run = start_run(config, "cpu")
        row = loop.train_one_epoch(run, [], make_loss(config.loss), config)
    found = {f"weight {name}": value for name, value in run.model.state_dict().items()}
    found |= {f"mean {name}": value for name, value in run.ema.state_dict().items()}
    found |= {f"head {name}": value for name, value in run.heads.state_dict().items()}
    for name, weight in [*run.model.named_parameters(), *run.heads.named_parameters()]:
        found[f"gradient {name}"] = weight.grad
    return found | {"loss": torch.tensor(row["loss"])}


PREPARING = """
import os, sys
from pathlib import Path
import torch
from lungseg_utils import cli
from lungseg_utils.preprocess import cache

torch.set_num_threads(1)
prepare, prepared = cache.prepare, []
cache.prepare = lambda scan, **options: prepared.append(scan.name) or prepare(scan, **options)
assert cli.main(sys.argv[1:]) == 0
assert len(prepared) == (2 if os.environ["RANK"] == "0" else 0), prepared
if os.environ["RANK"] == "0":
    for path in Path(sys.argv[2]).glob("imagesTr/*"):
        path.write_bytes(path.read_bytes()[:5000])
assert cli.main(sys.argv[1:]) == 1
"""


def launch_two(script, *arguments, **environment):
    """Run `script` in two processes as torchrun would; return their codes, outputs and errors."""
    for _attempt in range(3):
        launched = [launch(script, arguments, place, environment) for place in start_places()]
        outputs = [process.communicate(timeout=300) for process in launched]
        codes = [process.returncode for process in launched]
        if not any("EADDRINUSE" in errors for _, errors in outputs):  # somebody took the port
            break
    return codes, *zip(*outputs)


def start_places() -> list[dict[str, str]]:
    """Return what a launcher sets in the environment of each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    return [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


def launch(script, arguments, place, environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).parent,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | place | environment,
    )


def test_two_processes_train_one_network_and_resume_to_the_bit(tmp_path):
    codes, outputs, errors = launch_two(WORKER, tmp_path)
    assert codes == [0, 0] and errors == ("", ""), errors
    assert len(outputs[0].splitlines()) == 8 and outputs[1] == ""  # the first alone prints
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0-of-2", "done-1-of-2"]
    rows = list(csv.DictReader((tmp_path / "straight" / "history.csv").open()))
    assert len(rows) == 4 and {"loss", "validation_dice"} <= rows[0].keys()
    facts = [
        checkpoint.load_weights(tmp_path / name / "best.safetensors")[1]
        for name in ("straight", "parts")
    ]
    assert facts[0]["digest"] == facts[1]["digest"]
    scores = validate(random_network(), [make_prepared(seed) for seed in range(3)], TINY)
    assert torch.load(tmp_path / "scores.pt") == scores and scores["validation_dice"] > 0
    for name, changes in STEPS.items():  # the step of one process on the whole batch
        expected = take_a_step(changes)
        found = torch.load(tmp_path / f"{name}.pt")
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


def test_the_first_process_prepares_every_scan_and_its_error_ends_them_all(tmp_path):
    dataset = phantom.write_dataset(tmp_path / "set", cases=2, test_cases=0)
    command = ["train", dataset, "--run-dir", tmp_path / "run", "--epochs", "1"]
    command += ["-p", "spacing_mm", "8", "-p", "patch_size", "[16,16,16]", "-p", "device", "cpu"]
    command += ["-p", "channels", "[2,4]", "-p", "steps_per_epoch", "1"]
    codes, _, errors = launch_two(PREPARING, *command, LUNGSEG_HOME=str(tmp_path))
    assert codes == [0, 0], errors
    faults = [[line for line in text.splitlines() if line.startswith("error: ")] for text in errors]
    assert faults[0] == faults[1] and "lung_00" in faults[0][0]


def test_a_batch_that_cannot_be_shared_is_an_error(monkeypatch):
    alone = Accelerator(cpu=True)
    assert share_of_batch(alone, 3) == range(3)
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(Accelerator, "process_index", 1)
    assert share_of_batch(alone, 4) == range(2, 4)
    with pytest.raises(
        LungsegError, match="3 patches cannot be shared by 2 processes. Use a multiple of 2"
    ):
        share_of_batch(alone, 3)
