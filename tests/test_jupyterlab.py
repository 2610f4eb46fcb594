"""The first door: a reader opens a notebook in JupyterLab and runs it, in a real Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a copy of the notebooks, with settings of its own; yields its address."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    folders = {
        name: str(tmp_path / name)
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }
    arguments = [
        "--no-browser",
        "--port=0",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={tmp_path / 'notebooks'}",
    ]
    with open(tmp_path / "lab.log", "w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, **folders},
        )
        try:
            yield wait_for_address(tmp_path / "lab.log", server)
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for_address(log, server, seconds=60):
    for _ in range(seconds * 4):
        found = re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/lab", log.read_text())
        if found:
            return found[0]
        assert server.poll() is None, log.read_text()
        time.sleep(0.25)
    raise TimeoutError(log.read_text())


@pytest.fixture
def page(tmp_path):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 3000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


# If JupyterLab asks for a kernel, it gets a reader's answer: the one that it proposes.
READY = """() => {
    document.querySelector('.jp-Dialog .jp-mod-accept')?.click();
    const panel = window.jupyterapp?.shell.currentWidget;
    const kernel = panel?.sessionContext?.session?.kernel;
    return panel?.content?.model?.cells.length > 0 && kernel?.status === 'idle';
}"""
RUN_ALL = """() => {
    const run = jupyterapp.commands.execute('notebook:run-all-cells');
    run.then(() => { window.hasRun = true; });
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .filter(cell => cell.cell_type === 'code')
    .map(cell => ({count: cell.execution_count, outputs: cell.toJSON().outputs}))"""


def test_a_notebook_runs_through_in_jupyterlab(lab, page):
    """Run All Cells of notebook 01: each cell has its number, none fails, pictures are there."""
    page.goto(f"{lab}/tree/01_explore_data.ipynb?reset")
    page.wait_for_function(READY, polling=500)
    page.evaluate(RUN_ALL)
    page.wait_for_function("() => window.hasRun", polling=500, timeout=300_000)
    cells = page.evaluate(CELLS)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
