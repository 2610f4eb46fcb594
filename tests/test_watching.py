"""What is seen of a training while it runs, and how one that was stopped by hand goes on."""

import contextlib
import io
import re
import sys

import pytest
from helpers_cases import TINY, make_prepared
from helpers_sets import write_crops
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import Image as Picture
from PIL import Image

from lungseg_utils import checkpoint, course, decathlon, parameters, plotting, training
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.training import loop, stopping, watching

EPOCHS = TINY.epochs


@pytest.fixture(scope="module")
def cases():
    return [make_prepared(seed) for seed in range(3)]


@pytest.fixture
def run(cases, tmp_path):
    def start(config=TINY, **options):
        options = {"run_dir": tmp_path / "run", "device": "cpu", "config": config} | options
        return training.fit(cases[:2], cases[2:], **options)

    return start


@pytest.fixture
def shown(monkeypatch):
    """Whatever one output of a cell shows, from first to last, in a notebook that is looked at."""
    shown = []

    class Handle:
        update = staticmethod(shown.append)

    def display(first, *, display_id):
        assert display_id
        shown.append(first)
        return Handle

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(watching, "UPDATE_S", 0)
    monkeypatch.setitem(watching.PICTURE_S, "watched", 0)
    for module in (watching, stopping):
        monkeypatch.setattr(module, "is_live", lambda: True)
    return shown


def stop_in_epoch(monkeypatch, number):
    """Press the stop button while that epoch is validated."""
    validate = loop.validate
    epochs = iter(range(1, 100))

    def stopped(*arguments):
        if next(epochs) == number:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", stopped)


# --- what is seen ---------------------------------------------------------------------------------


def test_the_run_folder_has_the_curves_of_all_epochs_as_a_picture(run, tmp_path, monkeypatch):
    drawn = []
    plot_history = plotting.plot_history

    def noted(history):
        drawn.append(len(history))
        return plot_history(history)

    monkeypatch.setattr(plotting, "plot_history", noted)
    run()
    assert drawn[0] == 1 and drawn[-1] == EPOCHS
    assert Image.open(tmp_path / "run" / "history.png").width > 800


def test_in_a_notebook_a_bar_moves_and_the_curves_grow_in_one_output(run, shown):
    run()
    *updates, last = shown
    pages = [update.data for update in updates]
    steps = re.findall(r'value="(\d)" max="2".*? epoch (\d) of 4: steps, \1 of 2', "\n".join(pages))
    assert steps == [(str(step), str(epoch)) for epoch in range(1, 5) for step in range(3)]
    assert sum('value="0" max="1"' in page and "validating" in page for page in pages) == EPOCHS
    drawn = re.findall(r'alt="loss and scores of (\d) of 4 epochs"', "\n".join(pages))
    assert drawn == sorted(drawn) and {*drawn} == {"1", "2", "3"}
    assert isinstance(last, Picture)  # no bar


def test_a_run_that_goes_on_shows_the_curves_of_before_at_once(run, shown):
    run()
    shown.clear()
    longer = training.TrainingConfig(**vars(TINY) | {"epochs": EPOCHS + 1})
    run(longer, resume="auto")
    assert f"loss and scores of {EPOCHS} of {EPOCHS + 1} epochs" in shown[1].data


def test_silenced_or_headless_nothing_is_displayed(run, shown, monkeypatch):
    with contextlib.redirect_stdout(None):
        run()
    monkeypatch.setattr(watching, "is_live", lambda: False)
    run()
    assert shown == []


def test_a_terminal_shows_the_bar_of_the_epoch_and_a_pipe_the_lines_alone(run, monkeypatch, capsys):
    run()
    piped = capsys.readouterr()
    assert len(piped.out.splitlines()) == EPOCHS and piped.err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run()
    seen = capsys.readouterr()
    assert len(seen.out.splitlines()) == EPOCHS
    assert re.search(r"epoch 3 of 4: steps: +0%\|.*0/2 \[", seen.err)
    assert "validating: scans:   0%|" in seen.err


# --- stopped by hand ------------------------------------------------------------------------------


def traceback_of(error) -> str:
    """Return what a notebook's cell prints of an error."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        shell = InteractiveShell()
        shell.showtraceback((type(error), error, error.__traceback__))
    return printed.getvalue()


def test_stopped_in_a_notebook_it_says_one_sentence_and_the_cell_goes_on(
    run, shown, tmp_path, monkeypatch, capsys
):
    undisturbed = run(run_dir=tmp_path / "undisturbed")
    stop_in_epoch(monkeypatch, 3)
    with pytest.raises(training.Stopped) as stopped:
        run(resume="auto")
    assert traceback_of(stopped.value) == (
        "Training stopped: run the cell again to go on after the last whole epoch.\n"
    )
    assert isinstance(shown[-1], Picture)
    assert capsys.readouterr().err == ""
    assert run(resume="auto") == undisturbed
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14] for line in lines] == ["epoch   3 of 4", "epoch   4 of 4"]


def test_stopped_in_its_first_epoch_it_leaves_no_bar_and_begins_again(run, shown, monkeypatch):
    stop_in_epoch(monkeypatch, 1)
    with pytest.raises(training.Stopped):
        run(resume="auto")
    assert shown[-1].data == ""
    assert len(run(resume="auto")) == EPOCHS


def test_a_call_that_would_not_go_on_says_what_would(run, shown, monkeypatch):
    stop_in_epoch(monkeypatch, 2)
    with pytest.raises(training.Stopped, match="call it again with resume=True to go on"):
        run()


def test_auto_begins_again_where_the_settings_are_others(run, tmp_path, capsys):
    run(resume="auto")
    other = training.TrainingConfig(**vars(TINY) | {"learning_rate": 0.02})
    assert len(run(other, resume="auto")) == EPOCHS
    printed = capsys.readouterr()
    assert "starting again: the run was made with other settings: learning_rate" in printed.out
    assert "an earlier run was moved to earlier-1" in printed.err
    assert (tmp_path / "run" / "earlier-1" / "history.png").is_file()


def test_a_model_that_a_notebook_needs_is_finished_by_notebook_04(tmp_path, shown, monkeypatch):
    """What the later notebooks say when their training is stopped is true."""
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    dataset = decathlon.load(write_crops(tmp_path / "own"))
    changes = {"dataset_dir": str(dataset.root), "device": "cpu", "workers": 1, "spacing_mm": 6.0}
    changes |= {"patch_size": [8, 8, 8], "channels": [2, 4], "batch_size": 1}
    changes |= {"epochs": 2, "steps_per_epoch": 1}
    stop_in_epoch(monkeypatch, 1)
    with pytest.raises(training.Stopped, match="Training stopped: run the cell again."):
        course.ensure_model("", dataset, changes)
    stop_in_epoch(monkeypatch, 2)
    with pytest.raises(training.Stopped, match="notebook 04 goes on .* takes it as it is"):
        course.ensure_model("", dataset, changes)
    best = course.ensure_model("", dataset, changes)
    assert checkpoint.load_weights(best)[1]["epoch"] == 1
    parts = [prepare_cases(part, spacing_mm=6.0) for part in decathlon.split(dataset)]
    config = training.training_config(parameters.defaults() | changes)
    history = training.fit(*parts, run_dir=best.parent, config=config, device="cpu", resume="auto")
    assert [row["epoch"] for row in history] == [1, 2]
