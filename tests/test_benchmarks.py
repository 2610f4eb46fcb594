"""benchmarks/: the workers time stages that the package really has."""

import json
import os
import subprocess
import sys

import pytest

from lungseg_utils.phantom import write_dataset
from lungseg_utils.runtime import ROOT


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """A synthetic set of one scan."""
    return write_dataset(tmp_path_factory.mktemp("benchmarks") / "set", cases=1, test_cases=0)


def run_worker(tool, scan, out, *options):
    """Run benchmarks/workers.py as predict.py and preprocess.py do; return what it prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / "workers.py"), tool, str(scan), str(out)]
    ended = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("tool", "stages"),
    [
        ("ours-predict", {"read", "preprocess", "network", "write"}),
        ("ours-preprocess", {"preprocess"}),
    ],
)
def test_a_worker_times_every_stage(tool, stages, phantoms, tmp_path):
    scan = sorted((phantoms / "imagesTr").glob("*.nii.gz"))[0]
    label = phantoms / "labelsTr" / scan.name
    out = tmp_path / ("mask.nii.gz" if tool == "ours-predict" else "cache")
    facts = run_worker(tool, scan, out, "--label", str(label))
    assert set(facts["seconds"]) == stages
    assert all(seconds > 0 for seconds in facts["seconds"].values())
    assert out.exists()
