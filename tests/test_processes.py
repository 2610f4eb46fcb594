"""Several processes: they share each batch, hold the same weights, and resume to the bit as one does."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lungseg_utils import checkpoint
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import processes

WORKER = """
import dataclasses, sys
from pathlib import Path
import torch
from helpers_cases import TINY, make_prepared
from lungseg_utils.training import fit, processes

torch.set_num_threads(1)
cases, folder = [make_prepared(seed) for seed in range(4)], Path(sys.argv[1])

def train(name, epochs, resume=False):
    config = dataclasses.replace(TINY, epochs=epochs)
    return fit(cases[:2], cases[2:], run_dir=folder / name, config=config, device="cpu", resume=resume)

history = train("straight", 4)
train("parts", 2)
assert train("parts", 4, resume=True) == history
rank = processes.rank()
tensors = [torch.tensor([1.0 + rank, 5.0]), torch.tensor(2.0 * rank), torch.tensor(7), None]
processes.average(tensors)
assert tensors[0].tolist() == [1.5, 5.0] and tensors[1] == 1 and tensors[2] == 7
assert processes.gather([rank, "x"]) == [0, "x", 1, "x"]
generator = torch.Generator().manual_seed(0)
processes.seed_epoch(generator, 0, 3)
draws = processes.gather([float(torch.rand((), generator=generator)), history])
assert draws[0] != draws[2] and draws[1] == draws[3]  # other patches, the same history
(folder / f"done-{rank}-of-{processes.count()}").touch()
"""


def test_two_processes_train_one_network_and_resume_to_the_bit(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = [subprocess.Popen(  # with what torchrun and `accelerate launch` set
        [sys.executable, "-c", WORKER, str(tmp_path)], cwd=Path(__file__).parent, text=True, stdout=subprocess.PIPE,
        env=os.environ | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                          "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"})
        for rank in ("0", "1")]
    said = [process.communicate(timeout=300)[0] for process in launched]
    assert [process.returncode for process in launched] == [0, 0]
    assert len(said[0].splitlines()) == 8 and said[1] == ""  # one of the two speaks
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0-of-2", "done-1-of-2"]
    rows = list(csv.DictReader((tmp_path / "straight" / "history.csv").open()))
    assert len(rows) == 4 and {"loss", "validation_dice"} <= rows[0].keys()
    digests = {checkpoint.load_weights(tmp_path / name / "best.safetensors")[1]["digest"]
               for name in ("straight", "parts")}
    assert len(digests) == 1


def test_a_batch_that_cannot_be_shared_is_an_error(monkeypatch):
    assert processes.share(3) == 3  # alone
    monkeypatch.setattr(processes, "count", lambda: 2)
    assert processes.share(4) == 2
    with pytest.raises(LungsegError, match="3 patches cannot be shared by 2 processes. use a multiple of 2"):
        processes.share(3)
