"""Runs from the command line: fine-tuned, resumed by their folder alone, cross-validated."""

import csv
import json
import shutil

import pytest

from lungseg_utils import checkpoint, cli, phantom
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import crossvalidation, recipe

TINY = {
    "spacing_mm": "8",
    "patch_size": "[16,16,16]",
    "channels": "[2,4]",
    "steps_per_epoch": "1",
    "device": "cpu",
}
OPTIONS = [word for name, value in TINY.items() for word in ("-p", name, value)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return phantom.write_dataset(tmp_path_factory.mktemp("sets") / "set", cases=3, test_cases=0)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `lungseg` with its home in the test's folder; return what it prints, errors too."""
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))

    def run(*arguments, code=0):
        assert cli.main([str(argument) for argument in arguments]) == code
        return "".join(capsys.readouterr())

    return run


def test_a_run_is_resumed_with_its_own_dataset_and_settings(command, dataset, tmp_path):
    run_dir = tmp_path / "run"
    command("train", dataset, "--run-dir", run_dir, "--epochs", "2", *OPTIONS)
    said = command("train", "--run-dir", run_dir, "--resume", "--epochs", "3")
    assert "epoch   3 of 3" in said and "epoch   2" not in said
    said = command("train", dataset, "--run-dir", run_dir, "--resume", "--epochs", "4")
    assert "epoch   4 of 4" in said and "epoch   3" not in said
    recipe = json.loads((run_dir / "config.json").read_text())["recipe"]
    assert recipe["datasets"] == [str(dataset.resolve())] and recipe["settings"]["channels"] == [
        2,
        4,
    ]


def test_what_may_not_change_is_named(command, dataset, tmp_path):
    command("train", dataset, "--run-dir", tmp_path / "run", "--epochs", "1", *OPTIONS)
    change = ("--resume", "-p", "learning_rate", "0.1")
    said = command("train", "--run-dir", tmp_path / "run", *change, code=1)
    assert "learning_rate was 0.003 and is now 0.1" in said


def test_a_run_that_nobody_began_cannot_be_resumed_without_its_dataset(command, tmp_path):
    said = command("train", "--run-dir", tmp_path / "none", "--resume", code=1)
    assert "does not name the dataset of the run" in said and "lungseg train DATASET" in said


@pytest.fixture
def weights(tmp_path):
    """Weights of another training, with facts that change prediction."""
    path = tmp_path / "before.safetensors"
    facts = {"spacing_mm": 8.0, "min_peak": 0.75, "test_time_mirroring": True}
    checkpoint.save_weights(path, SegUNet(channels=(2, 4)), facts)
    return path


def test_fine_tuned_weights_keep_the_facts_that_change_prediction(
    command, dataset, weights, tmp_path
):
    start = ["--weights", weights, *OPTIONS]
    said = command("train", dataset, "--run-dir", tmp_path / "run", "--epochs", "1", *start)
    assert said.index("before the first step: validation Dice") < said.index("epoch   1 of 1")
    for name in ("best.safetensors", "last.pt"):
        facts = checkpoint.load_weights(tmp_path / "run" / name)[1]
        assert facts["min_peak"] == 0.75 and facts["test_time_mirroring"] is True
    said = command("train", "--run-dir", tmp_path / "run", "--resume", "--epochs", "2")
    assert "epoch   2 of 2" in said and "before the first step" not in said


def test_a_run_is_resumed_where_the_weights_that_it_started_from_are_gone(
    command, dataset, weights, tmp_path
):
    run_dir = tmp_path / "run"
    start = ["--weights", weights, *OPTIONS]
    command("train", dataset, "--run-dir", run_dir, "--epochs", "1", *start)
    shutil.copytree(run_dir, tmp_path / "copy")
    command("train", "--run-dir", tmp_path / "copy", "--resume", "--epochs", "2")
    weights.unlink()
    said = command("train", "--run-dir", run_dir, "--resume", "--epochs", "2")
    assert "epoch   2 of 2" in said and "before the first step" not in said
    (here, facts), (there, expected) = (
        checkpoint.load_weights(path / "last.pt") for path in (run_dir, tmp_path / "copy")
    )
    assert facts == expected and facts["min_peak"] == 0.75
    assert all((there.state_dict()[name] == one).all() for name, one in here.state_dict().items())
    assert "gone: no such file" in command(*_resumed(run_dir, "gone", dataset), code=1)


def test_hard_examples_need_the_weights_that_the_run_started_from(
    command, dataset, weights, tmp_path
):
    start = ["--weights", weights, *OPTIONS, "-p", "hard_example_share", "0.3"]
    command("train", dataset, "--run-dir", tmp_path / "run", "--epochs", "1", *start)
    weights.unlink()
    said = command("train", "--run-dir", tmp_path / "run", "--resume", "--epochs", "2", code=1)
    assert f"{weights.name}: no such file" in said


def _resumed(run_dir, weights, dataset):
    return ["train", dataset, "--run-dir", run_dir, "--resume", "--weights", weights, *OPTIONS]


def test_the_weights_to_start_from_are_the_best_until_an_epoch_is_better(
    command, dataset, weights, tmp_path
):
    start = ["--weights", weights, *OPTIONS, "-p", "validate_every", "9"]
    command("train", dataset, "--run-dir", tmp_path / "run", "--epochs", "1", *start)
    best = checkpoint.load_weights(tmp_path / "run" / "best.safetensors")[0].state_dict()
    before = checkpoint.load_weights(weights)[0].state_dict()
    assert all((best[name] == tensor).all() for name, tensor in before.items())


def test_cross_validation_scores_each_case_by_a_fold_that_has_not_seen_it(
    command, dataset, tmp_path
):
    folder = tmp_path / "cv"
    said = command("crossvalidate", dataset, "--run-dir", folder, "-p", "epochs", "1", *OPTIONS)
    assert "3 scans: mean Dice" in said
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    cases = sorted(path.name.split(".")[0] for path in (dataset / "imagesTr").glob("*.nii.gz"))
    assert [row["case"] for row in rows] == cases
    assert (folder / "summary.json").is_file()
    unseen = []
    for fold in range(3):
        config = json.loads((folder / f"fold{fold}" / "config.json").read_text())
        unseen += config["validation_cases"]
        assert (folder / f"fold{fold}" / "best.safetensors").is_file()
    assert sorted(unseen) == cases
    said = command("crossvalidate", dataset, "--run-dir", folder, "-p", "epochs", "1", *OPTIONS)
    assert "epoch" not in said  # what is finished is not trained again
    assert "1 of 1 scans are done already" in said and "fold 0" not in said  # nor segmented


def test_folds_done_by_several_jobs_are_scored_as_by_one(command, dataset, tmp_path):
    words = ["-p", "epochs", "1", *OPTIONS]
    command("crossvalidate", dataset, "--run-dir", tmp_path / "one", *words)
    shared = ["crossvalidate", dataset, "--run-dir", tmp_path / "jobs", *words, "--shard"]
    said = command(*shared, "1/2")
    assert "metrics.csv is to come, with the other folds" in said and "mean Dice" not in said
    assert not (tmp_path / "jobs" / "fold1").exists()
    assert "3 scans: mean Dice" in command(*shared, "2/2")
    assert "3 scans: mean Dice" in command(*shared, "4/4")  # more jobs than folds
    scores = [(tmp_path / name / "metrics.csv").read_text() for name in ("one", "jobs")]
    assert scores[0] == scores[1]


def test_folds_that_fail_are_named_and_the_others_are_finished(command, dataset, tmp_path):
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv" / "fold1").touch()  # where its folder should be
    words = ["crossvalidate", dataset, "--run-dir", tmp_path / "cv", "-p", "epochs", "1", *OPTIONS]
    said = command(*words, code=1)
    assert "cv: 1 of 3 folds failed: fold 1: " in said and "fold1: file exists" in said
    assert "fold 0: lung_" in said and "fold 2: lung_" in said
    (tmp_path / "cv" / "fold1").unlink()
    said = command(*words)
    assert said.count("epoch   1 of 1") == 1 and "3 scans: mean Dice" in said


def test_a_fold_without_memory_is_named_and_the_others_are_finished(
    command, dataset, tmp_path, monkeypatch
):
    def train(sets, folder, settings, **options):
        if settings["fold"] == 1:
            raise RuntimeError("CUDA out of memory")
        return recipe.train(sets, folder, settings, **options)

    monkeypatch.setattr(crossvalidation, "train", train)
    words = ["crossvalidate", dataset, "--run-dir", tmp_path / "cv", "-p", "epochs", "1", *OPTIONS]
    said = command(*words, code=1)
    assert "1 of 3 folds failed: fold 1: " in said and "RuntimeError: CUDA out of memory" in said
    assert "fold 0: lung_" in said and "fold 2: lung_" in said


def test_a_fold_killed_while_its_state_was_written_goes_on_where_it_was(command, dataset, tmp_path):
    folder = tmp_path / "cv"
    words = ["crossvalidate", dataset, "--run-dir", folder, "--shard", "1/3", *OPTIONS]
    command(*words, "-p", "epochs", "1")
    (folder / "fold0" / "last.pt").replace(folder / "fold0" / "previous.pt")
    said = command(*words, "-p", "epochs", "2")
    assert "epoch   2 of 2" in said and "epoch   1" not in said
    assert not (folder / "fold0" / "earlier-1").exists()


def test_masks_of_other_scans_are_refused_before_the_training(command, dataset, tmp_path):
    masks = tmp_path / "cv" / "masks"
    masks.mkdir(parents=True)
    (masks / "lung_999.nii.gz").touch()
    said = command("crossvalidate", dataset, "--run-dir", tmp_path / "cv", *OPTIONS, code=1)
    assert "masks of other scans (lung_999). Move them away" in said and "epoch" not in said
