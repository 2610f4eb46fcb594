"""Several processes: they share each batch, hold the same weights, and resume to the bit as one does."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lungseg_utils import checkpoint, phantom
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import distributed

WORKER = """
import contextlib, dataclasses, sys
from pathlib import Path
import torch
from filelock import FileLock
from helpers_cases import TINY, make_prepared
from lungseg_utils.patches import make_training_case
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import fit, make_loss, processes
from lungseg_utils.training.validation import add_hard_examples

torch.set_num_threads(1)
cases, folder = [make_prepared(seed) for seed in range(4)], Path(sys.argv[1])

def train(name, epochs, resume=False):
    config = dataclasses.replace(TINY, epochs=epochs)
    return fit(cases[:2], cases[2:], run_dir=folder / name, config=config, device="cpu", resume=resume)

history = train("straight", 4)
train("parts", 2)
assert train("parts", 4, resume=True) == history
rank = distributed.rank()
tensors = [torch.tensor([1.0 + rank, 5.0]), torch.tensor(2.0 * rank), torch.tensor(7), None]
distributed.average(tensors)
assert tensors[0].tolist() == [1.5, 5.0] and tensors[1] == 1 and tensors[2] == 7
assert distributed.gather([rank, "x"]) == [0, "x", 1, "x"]
generator = torch.Generator().manual_seed(0)
distributed.seed_epoch(generator, 0, 3)
draws = distributed.gather([float(torch.rand((), generator=generator)), history])
assert draws[0] != draws[2] and draws[1] == draws[3]  # other patches, the same history
logits = torch.linspace(-3, 3, 32).reshape(4, 1, 2, 2, 2).requires_grad_()
label, own = (logits.detach() > 1).float(), logits[2 * rank : 2 * rank + 2].detach().requires_grad_()
for name in ("dice_ce", "dice_ce_balanced", "tversky", "focal"):  # those of the whole batch, and its gradient
    logits.grad = own.grad = None
    whole, joined = (make_loss(name)(guess, label) for guess in (logits, distributed.join(own)))
    whole.backward()
    joined.backward()
    assert torch.allclose(whole, joined) and torch.allclose(own.grad, logits.grad[2 * rank : 2 * rank + 2])
silent = SegUNet(channels=(2, 4))
torch.nn.init.constant_(silent.head.bias, -9.0)
sources = [make_training_case(case) for case in cases[:3]]
wrong = add_hard_examples(sources, cases[:3], silent, TINY)  # each process looks at its share; all know of every lesion
assert all(torch.equal(a, b) for one in wrong for a, b in zip(one.hard_examples, one.lesions, strict=True))
with contextlib.ExitStack() as another:
    if rank == 0:
        another.enter_context(FileLock(folder / "straight" / ".lock"))
    try:
        train("straight", 4, resume=True)
    except LungsegError as refusal:  # all are refused, not the first alone
        assert "another training is at work" in str(refusal)
    else:
        raise AssertionError("not refused")
(folder / f"done-{rank}-of-{distributed.count()}").touch()
distributed.wait()  # as `fit` ends: none leaves while the other still sends
"""


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
    """Run `script` in two processes, with what torchrun and `accelerate launch` set; give codes, outputs, errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=Path(__file__).parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ
            | {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            }
            | environment,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=300) for process in launched]
    return [process.returncode for process in launched], *zip(*said)


def test_two_processes_train_one_network_and_resume_to_the_bit(tmp_path):
    codes, said, errors = launch_two(WORKER, tmp_path)
    assert codes == [0, 0], errors
    assert len(said[0].splitlines()) == 8 and said[1] == ""  # one of the two speaks
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0-of-2", "done-1-of-2"]
    rows = list(csv.DictReader((tmp_path / "straight" / "history.csv").open()))
    assert len(rows) == 4 and {"loss", "validation_dice"} <= rows[0].keys()
    digests = {
        checkpoint.load_weights(tmp_path / name / "best.safetensors")[1]["digest"]
        for name in ("straight", "parts")
    }
    assert len(digests) == 1


def test_the_first_process_prepares_every_scan_and_its_error_ends_them_all(tmp_path):
    dataset = phantom.write_dataset(tmp_path / "set", cases=2, test_cases=0)
    command = ["train", dataset, "--run-dir", tmp_path / "run", "--epochs", "1"]
    for setting in (
        "spacing_mm 8",
        "patch_size [16,16,16]",
        "channels [2,4]",
        "steps_per_epoch 1",
        "device cpu",
    ):
        command += ["-p", *setting.split()]
    codes, _, errors = launch_two(PREPARING, *command, LUNGSEG_HOME=str(tmp_path))
    assert codes == [0, 0], errors
    faults = [[line for line in text.splitlines() if line.startswith("error: ")] for text in errors]
    assert faults[0] == faults[1] and "lung_00" in faults[0][0]


def test_a_batch_that_cannot_be_shared_is_an_error(monkeypatch):
    assert distributed.part(3) == range(3)  # alone
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert distributed.part(4) == range(2)
    with pytest.raises(
        LungsegError, match="3 patches cannot be shared by 2 processes. use a multiple of 2"
    ):
        distributed.part(3)
