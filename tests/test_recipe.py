"""From a dataset and parameters to a run, and what is left to score it on."""

import dataclasses
import json

import pytest
from conftest import ROOT

from lungseg_utils import checkpoint, decathlon, parameters, phantom
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import TrainingConfig, read_start, training_config, unseen_cases


def test_what_a_run_was_trained_on_is_not_scored(tmp_path):
    phantom.write_dataset(tmp_path / "set", cases=2, test_cases=1)
    dataset = decathlon.load(tmp_path / "set")
    run = tmp_path / "run"
    assert unseen_cases(dataset, run_dir=run) == list(dataset.test)
    hidden = dataclasses.replace(dataset, test=())
    validating = unseen_cases(hidden, fold=0, run_dir=run)
    assert [case.id for case in validating] in (["lung_001"], ["lung_002"])
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"training_cases": [validating[0].id]}))
    with pytest.raises(LungsegError, match=f"its network was trained on {validating[0].id}"):
        unseen_cases(hidden, fold=0, run_dir=run)
    assert unseen_cases(hidden, fold=1, run_dir=run) != validating
    for damaged in ('{"training_cases": [', "[]", '{"training_cases": 3}'):
        (run / "config.json").write_text(damaged)
        with pytest.raises(LungsegError, match=r"config\.json: damaged.*Train again"):
            unseen_cases(hidden, fold=0, run_dir=run)


def test_settings_become_a_configuration():
    assert training_config({}) == TrainingConfig()
    config = training_config(parameters.defaults() | {"epochs": 3, "patch_size": [16, 16, 32]})
    assert config == TrainingConfig(epochs=3, patch_size=(16, 16, 32))


def test_the_recipe_for_scans_of_ones_own_fits_the_shipped_weights():
    settings = parameters.read(ROOT / "params" / "fine_tune.yaml")
    read_start(checkpoint.SHIPPED, training_config(settings))
    assert settings["spacing_mm"] == checkpoint.load_weights(checkpoint.SHIPPED)[1]["spacing_mm"]
