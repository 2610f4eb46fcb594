"""The wheel: built from what a container is given, it works without the clone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import ROOT
from test_notebooks import NAMES
from test_repository import tracked

from lungseg_utils import __version__, phantom, volume

BIN = "Scripts" if sys.platform == "win32" else "bin"


@pytest.fixture(scope="module")
def no_python_path():
    """Leave PYTHONPATH out: pip would find the package there and install none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def environment(no_python_path, tmp_path_factory):
    """A virtual environment with the wheel in it; all else is that of this Python."""
    pytest.importorskip("setuptools", minversion="77", reason="it builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        for path in tracked():
            if path.relative_to(ROOT).parts[0] == name:
                copy = folder / "context" / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*build, folder / "context"], check=True)
    shutil.rmtree(folder / "context")

    venv.create(folder / "venv", symlinks=sys.platform != "win32")
    (wheel,) = folder.glob("lungseg-*.whl")
    python = folder / "venv" / BIN / "python"
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True)
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    # plain paths: an editable installation of this clone, itself a .pth file there, stays unseen
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(own) / "others.pth").write_text("\n".join(others), encoding="utf-8")
    return folder / "venv"


@pytest.fixture
def run(environment, tmp_path):
    """Run a command of the environment in an empty folder; return what it has printed."""

    def run(program, *arguments):
        kept = {name: value for name, value in os.environ.items() if name != "LUNGSEG_HOME"}
        return subprocess.run(
            [environment / BIN / program, *arguments],
            cwd=tmp_path,
            env={**kept, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"},
            check=True,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=600,
        ).stdout

    return run


def test_it_is_the_wheel_that_runs(run, environment):
    asked = run("python", "-c", "import lungseg_utils; print(lungseg_utils.__file__)")
    assert Path(asked.strip()).is_relative_to(environment)
    assert run("lungseg", "--version").split() == ["lungseg", __version__]


def test_it_predicts_what_the_clone_predicts(run, lungseg, tmp_path):
    scan, _ = phantom.make_case(5)
    volume.write_nifti(tmp_path / "ct.nii.gz", scan.hu, scan.affine)
    command = ["predict", "ct.nii.gz", "--device", "cpu"]
    assert run("lungseg", *command, "-o", "wheel.nii.gz").startswith("ct:")
    clone = lungseg(*command, "-o", "clone.nii.gz")
    assert clone.returncode == 0, clone.stderr
    wheels, clones = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("wheel", "clone"))
    assert np.array_equal(np.asarray(wheels.dataobj), np.asarray(clones.dataobj))
    assert np.array_equal(wheels.affine, clones.affine) and np.asarray(wheels.dataobj).any()


def test_it_has_the_course_in_it(run, tmp_path):
    run("lungseg", "course", "--copy", "my_course")
    copied = {path.name for path in (tmp_path / "my_course").rglob("*")}
    assert copied >= {f"{name}.ipynb" for name in NAMES} | {"params", "quick.yaml"}


def test_it_holds_the_cards_of_the_weights_and_no_tests(environment):
    (package,) = environment.rglob("lungseg_utils")
    held = {path.name for path in (package / "weights").iterdir()}
    assert held >= {"segunet.safetensors", "synthetic.safetensors", "README.md", "metadata.json"}
    assert "real_tumours.csv" in held  # notebook 07 draws it
    assert not list(package.parent.glob("tests"))
