"""The first door: a reader opens the notebooks in JupyterLab, in a real Chromium, and uses them."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from urllib.parse import urlparse

import nbformat
import numpy as np
import pytest
from conftest import ROOT

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL on a machine without a graphics card
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LAPTOP = {"width": 1366, "height": 768}
SCREENSHOTS = ROOT / "build" / "screenshots"
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("0*.ipynb"))
EPOCHS = 10  # of the short training: enough for the widgets to have something to show

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


# --- JupyterLab and the browser -------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for data and runs; the synthetic set is taken over where it has been made."""
    home = tmp_path_factory.mktemp("home")
    made = ROOT / "data" / "synthetic_quick"
    if (made / "dataset.json").is_file():
        shutil.copytree(made, home / "data" / "synthetic_quick")
    return home


@pytest.fixture(scope="module")
def lab(home, tmp_path_factory):
    """JupyterLab on a copy of the notebooks, with settings of its own; yields its address."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for path in (folder / "notebooks").glob("0*.ipynb"):  # as a reader would who is in a hurry
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("epochs: int = 30 ", f"epochs: int = {EPOCHS} "), "utf-8")
    folders = {
        name: str(folder / name)
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }
    news = folder / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    (news / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    arguments = [
        "--no-browser",
        "--port=0",
        "--allow-root",
        "--IdentityProvider.token=",
        "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True",
        "--LabApp.extension_manager=readonly",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
    ]
    with open(folder / "lab.log", "w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, **folders, "LUNGSEG_HOME": str(home)},
        )
        try:
            yield wait_for_address(folder / "lab.log", server), folder / "notebooks"
        finally:
            server.terminate()
            server.wait(timeout=30)


def wait_for_address(log, server, seconds=120):
    for _ in range(seconds * 4):
        found = re.search(r"http://(?:localhost|127\.0\.0\.1):\d+/lab", log.read_text())
        if found:
            return found[0]
        assert server.poll() is None, log.read_text()
        time.sleep(0.25)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def laptop(browser, lab):
    """A page of a laptop's size; in the end, no error on its console, no request elsewhere."""
    page = browser.new_page(viewport=LAPTOP)
    page.set_default_timeout(120_000)
    errors, hosts = [], set()
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlparse(request.url).netloc))
    page.on("websocket", lambda socket: hosts.add(urlparse(socket.url).netloc))
    yield page
    page.close()
    assert errors == []
    assert hosts - {""} == {urlparse(lab[0]).netloc}  # data: and blob: have no host


@pytest.fixture
def page(browser, lab):
    with laptop(browser, lab) as page:
        yield page


# If JupyterLab asks for a kernel, it gets a reader's answer: the one that it proposes.
READY = """() => {
    document.querySelector('.jp-Dialog .jp-mod-accept')?.click();
    const panel = window.jupyterapp?.shell.currentWidget;
    const kernel = panel?.sessionContext?.session?.kernel;
    return panel?.content?.model?.cells.length > 0 && kernel?.status === 'idle';
}"""
RUN_ALL = """() => {
    window.hasRun = false;
    const run = jupyterapp.commands.execute('notebook:run-all-cells');
    run.then(() => { window.hasRun = true; });
}"""
CELLS = """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
    .filter(cell => cell.cell_type === 'code')
    .map(cell => ({count: cell.execution_count, outputs: cell.toJSON().outputs}))"""
ASK = """async (code) => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({ code, store_history: false });
    let text = '';
    future.onIOPub = ({ content }) => {
        text += content.text ?? content.traceback?.join('') ?? '';
    };
    await future.done;
    return text;
}"""


def run_notebook(page, lab, name, meanwhile=lambda page: None):
    """Open a notebook, run all its cells, look at it `meanwhile`, and return them."""
    page.goto(f"{lab[0]}/tree/{name}?reset")
    page.wait_for_function(READY, polling=500)
    page.evaluate(RUN_ALL)
    meanwhile(page)
    page.wait_for_function("() => window.hasRun", polling=500, timeout=400_000)
    cells = page.evaluate(CELLS)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    return cells


def ask(page, code):
    """Return what Python code prints in the notebook's kernel, as JSON."""
    text = page.evaluate(ASK, code)
    try:
        return json.loads(text)
    except ValueError:
        raise AssertionError(text) from None


def shut_down(page):
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def shoot(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


# --- a viewer in the page -------------------------------------------------------------------------


class Hands:
    """What a reader does with one viewer of the page."""

    def __init__(self, page, number=0):
        self.page = page
        self.root = page.locator(".lv").nth(number)
        self.root.and_(page.locator("[data-loaded]")).wait_for()
        self.main = self.root.locator(".lv-main")
        for _ in range(20):  # JupyterLab lays out what comes into view, and moves the rest
            self.root.evaluate("root => root.scrollIntoView({ block: 'start' })")
            self.settle()
            if is_whole(page, self.root):
                break

    def settle(self):
        self.page.wait_for_timeout(150)

    def press(self, name):
        self.root.get_by_role("button", name=name, exact=True).click()
        self.settle()

    def keys(self, *keys):
        self.main.focus()
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def slice(self):
        return tuple(map(int, self.root.locator(".lv-large output").inner_text().split(" of ")))

    def text(self, part):
        return self.root.locator(part).inner_text()

    def answered(self, act):
        """Do something and wait until Python has answered."""
        before = int(self.root.get_attribute("data-answered"))
        act()
        for _ in range(600):
            if int(self.root.get_attribute("data-answered")) > before:
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(self.text(".lv-message"))

    def over(self, voxel, shape, spacing_mm):
        """Return where, on the whole axial slice, the voxel (d, h, w) lies on the screen."""
        box = self.main.bounding_box()
        sides = np.array([shape[2] * spacing_mm[2], shape[1] * spacing_mm[1]])
        scale = (np.array([box["width"], box["height"]]) / sides).min()
        at = (np.array([voxel[2], voxel[1]]) + 0.5) * [spacing_mm[2], spacing_mm[1]] - sides / 2
        middle = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
        return tuple(middle + at * scale)

    def set_threshold(self, value):
        self.root.get_by_label("threshold").evaluate(
            "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
            value,
        )


def is_whole(page, root):
    """Return whether an element is seen from end to end in the notebook's part of the window."""
    box, seen = (
        part.bounding_box()
        for part in (
            root,
            page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"),
        )
    )
    return (
        seen["y"] - 2 <= box["y"]
        and box["y"] + box["height"] <= seen["y"] + seen["height"] + 2
        and box["x"] + box["width"] <= seen["x"] + seen["width"] + 2
    )


READER = """
import json
import numpy as np
from lungseg_utils import phantom, viewer, volume
from lungseg_utils.components import list_components

for seed in range(5001, 5100):  # the first of some tumours, the smallest solid in its middle
    scan, truth = phantom.make_case(seed)
    lesions = sorted(list_components(truth), key=len)
    from_centre = np.square(lesions[0] - lesions[0].mean(0)).sum(1)
    missed = lesions[0][from_centre.argmin()].tolist()
    if len(lesions) > 1 and len(lesions[0]) > 50 and scan.hu[tuple(missed)] > -100:
        break
probability = np.zeros(truth.shape, np.float32)
for lesion in lesions[1:]:
    probability[tuple(lesion.T)] = 0.9
probability[5:9, 60:66, 60:66] = 0.6
"""
SESSION = """
session = viewer.Session(scan, probability, truth=truth)
session.view()
"""
STATE = """
print(json.dumps({
    "voxels": int(session.mask.sum()), "threshold": session.threshold, "scores": session.scores(),
    "shape": scan.hu.shape, "spacing": scan.spacing_mm, "missed": missed,
    "kept": [mark.is_kept for mark in session.marks],
    "tumour": np.flatnonzero(truth.any(axis=(1, 2))).tolist()}))
"""


@pytest.fixture(scope="module")
def hands(browser, lab):
    """A viewer on a scan with tumours found and missed, and a false positive."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (READER, SESSION)]
    nbformat.write(notebook, lab[1] / "reader.ipynb")
    with laptop(browser, lab) as page:
        run_notebook(page, lab, "reader.ipynb")
        yield Hands(page)
        shut_down(page)


def test_from_another_plane_back_to_axial_the_tumour_is_still_shown(hands):
    """The scan has fewer slices than rows: the last coronal slice has no axial of its number."""
    state = ask(hands.page, STATE)
    slices, rows, columns = state["shape"]
    assert slices < rows
    first = hands.slice()
    assert first[1] == slices and first[0] - 1 in state["tumour"]
    for plane, size in (("Coronal", rows), ("Sagittal", columns)):
        hands.press(plane)
        assert hands.slice()[1] == size
        hands.keys("End")
        assert hands.slice() == (size, size)
        hands.press("3D")
        shoot(hands.page, f"viewer_{plane.lower()}_and_3d")
        hands.press("Axial")
        assert hands.slice() == first


def test_it_fits_the_window_and_wheel_keys_and_pointer_do_what_they_say(hands):
    assert is_whole(hands.page, hands.root)
    state = ask(hands.page, STATE)
    start = hands.slice()[0]
    hands.keys("ArrowUp", "ArrowUp", "ArrowDown", "PageUp", "PageDown")
    assert hands.slice()[0] == start + 1
    x, y = hands.over(state["missed"], state["shape"], state["spacing"])
    hands.page.mouse.move(x, y)
    for _ in range(3):
        hands.page.mouse.wheel(0, 100)
    hands.settle()
    assert hands.slice()[0] == start - 2
    hands.keys("2")
    assert (
        hands.root.get_by_role("button", name="soft tissue").get_attribute("aria-pressed") == "true"
    )
    hands.keys("1")
    rows = hands.root.locator(".lv-row, .lv-missed").count()
    for _ in range(rows):  # on to the one that was missed, wherever the list stands
        hands.keys("n")
        if "missed" in hands.text(".lv-is-selected"):
            break
    assert "missed" in hands.text(".lv-is-selected")
    assert hands.slice()[0] == state["missed"][0] + 1
    hands.page.mouse.move(x + 1, y)
    hands.page.wait_for_timeout(500)
    d, h, w = state["missed"]
    exact = ask(hands.page, f"print(int(scan.hu[{d}, {h}, {w}]))")
    world = ask(hands.page, f"print((scan.affine @ [{d}, {h}, {w}, 1])[:3].round(1).tolist())")
    shown = hands.text(".lv-place").replace("−", "-")
    assert shown.startswith(f"{exact} HU · {', '.join(f'{mm:.1f}' for mm in world)} mm")
    assert f"slice {d + 1}, row {h + 1}, column {w + 1} · truth" in shown
    shoot(hands.page, "viewer_axial")


def test_a_reader_decides_clicks_paints_takes_back_and_saves(hands, tmp_path):
    page = hands.page
    before = ask(page, STATE)
    assert before["scores"]["false_positives"] == 1 and before["threshold"] == 0.5
    hands.answered(lambda: hands.set_threshold(0.7))
    state = ask(page, STATE)
    assert state["threshold"] == 0.7 and state["scores"]["false_positives"] == 0
    assert hands.text(".lv-scores").split()[0] == f"{state['scores']['dice']:.2f}"
    hands.answered(lambda: hands.press("Undo"))
    boxes = hands.root.locator(".lv-row input")
    false = boxes.count() - 1  # the smallest
    hands.answered(lambda: boxes.nth(false).click())
    state = ask(page, STATE)
    assert state["kept"][false] is False and state["scores"]["false_positives"] == 0
    hands.answered(lambda: boxes.nth(false).click())
    assert ask(page, STATE)["voxels"] == before["voxels"]
    hands.answered(lambda: boxes.nth(false).click())

    hands.root.locator(".lv-missed").first.click()
    hands.press("Click to add")
    x, y = hands.over(state["missed"], state["shape"], state["spacing"])
    hands.answered(lambda: page.mouse.click(x, y))
    assert "added by region growing" in hands.text(".lv-message")
    added = ask(page, STATE)
    assert added["scores"]["lesions_found"] == before["scores"]["lesions_found"] + 1
    shoot(page, "viewer_click_to_add")

    hands.press("Brush")
    page.mouse.move(x, y - 60)
    page.mouse.down()
    page.mouse.move(x + 50, y - 60, steps=10)
    shoot(page, "viewer_brush")
    hands.answered(page.mouse.up)
    painted = ask(page, STATE)["voxels"]
    assert painted > added["voxels"]
    hands.press("Eraser")
    page.mouse.move(x, y - 60)
    page.mouse.down()
    page.mouse.move(x + 50, y - 60, steps=10)
    hands.answered(page.mouse.up)
    assert ask(page, STATE)["voxels"] < painted
    hands.answered(lambda: hands.keys("z"))
    assert ask(page, STATE)["voxels"] == painted
    hands.answered(lambda: hands.press("Undo"))
    assert ask(page, STATE)["voxels"] == added["voxels"]

    ask(page, f"session.folder = {str(tmp_path)!r}; print(0)")
    hands.answered(lambda: hands.press("Save"))
    saved = next(tmp_path.glob("*.nii.gz"))
    assert hands.text(".lv-message") == f"saved in {tmp_path.as_posix()}: {saved.name}"
    assert is_whole(page, hands.root)
    assert hands.root.evaluate("root => root.scrollWidth <= root.clientWidth")  # a long message
    same = f"np.array_equal(volume.read_label({str(saved)!r}, like=scan), reference.mask)"
    ask(page, "reference = viewer.Session(scan, probability, truth=truth); print(0)")
    ask(page, f"reference.drop({false + 1}); reference.add(missed); print(0)")
    assert ask(page, f"print(json.dumps(bool({same})))")


# --- a training in the page -----------------------------------------------------------------------

TRAINING = """() => jupyterapp.shell.currentWidget.content.widgets.find(
    cell => cell.model.sharedModel.source.includes('resume="auto",'))"""
CHOOSE = f"""() => {{
    const notebook = jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = notebook.widgets.indexOf(({TRAINING})());
    return notebook.scrollToItem(notebook.activeCellIndex, 'start');
}}"""
RUN_CELL = """() => {
    window.hasRun = false;
    const run = jupyterapp.commands.execute('notebook:run-cell');
    run.finally(() => { window.hasRun = true; });
}"""
SEEN = f"""() => {{
    const output = ({TRAINING})().outputArea.node;
    const bar = output.querySelector('progress');
    const epochs = output.querySelector('img[alt^="loss and scores of"]')?.alt.match(/[0-9]+/g);
    return {{ part: bar && bar.value / bar.max, epochs: epochs?.map(Number) ?? [0, 0] }};
}}"""
OUTPUTS = f"() => ({TRAINING})().model.sharedModel.getOutputs()"
SENTENCE = "Training stopped: run the cell again to go on after the last whole epoch."


def watch_training(page, until=3, of=EPOCHS):
    """Look at the training until its curves have `until` epochs; return all that was seen."""
    page.evaluate(CHOOSE)
    seen = [page.evaluate(SEEN)]
    for _ in range(6000):
        if seen[-1]["epochs"] >= [until, of] and seen[-1]["epochs"][1] == of:
            return seen
        page.wait_for_timeout(50)
        seen.append(page.evaluate(SEEN))
    raise TimeoutError(seen[-1])


def check_that_it_moves(page):
    """A bar moves within the epoch, and the curves have more epochs later."""
    seen = watch_training(page)
    shoot(page, "04_training")
    assert any(0 < moment["part"] < 1 for moment in seen if moment["part"] is not None)
    epochs = [moment["epochs"][0] for moment in seen if moment["part"] is not None]
    assert {0, 1, 2} <= {*epochs} and epochs == sorted(epochs)


def stop_training_and_go_on(page):
    """The stop button ends it with a sentence; the same cell, run again, goes on from there."""
    page.evaluate(CHOOSE)
    picture, lines = page.evaluate(OUTPUTS)
    assert "image/png" in picture["data"] and len(lines["text"].splitlines()) == EPOCHS
    ask(page, "config = dataclasses.replace(config, epochs=99); print(0)")
    page.evaluate(RUN_CELL)
    watch_training(page, EPOCHS + 1, 99)
    page.locator('.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]').click()
    page.wait_for_function("() => window.hasRun")
    page.get_by_text(SENTENCE).scroll_into_view_if_needed()
    shoot(page, "04_stopped")
    picture, lines, error = page.evaluate(OUTPUTS)
    assert error["output_type"] == "error" and error["traceback"] == [SENTENCE]
    assert "<progress" not in json.dumps(picture)
    whole = EPOCHS + len(lines["text"].splitlines())
    ask(page, f"config = dataclasses.replace(config, epochs={whole + 1}); print(0)")
    page.evaluate(RUN_CELL)
    page.wait_for_function("() => window.hasRun")
    picture, lines = page.evaluate(OUTPUTS)
    assert re.fullmatch(rf"epoch +{whole + 1} of {whole + 1}: .*\n", lines["text"])


# --- the notebooks --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_through_and_what_moves_in_it_is_moved(page, lab, name):
    """Run All Cells: each cell has its number, none fails, pictures are there."""
    meanwhile = {"meanwhile": check_that_it_moves} if name.startswith("04") else {}
    cells = run_notebook(page, lab, name, **meanwhile)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "<progress" not in json.dumps(outputs)
    if name.startswith("04"):
        stop_training_and_go_on(page)
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 1
    views = sum("lungseg_utils.viewer" in json.dumps(output.get("data", {})) for output in outputs)
    assert views == {"01": 1, "06": 3, "07": 1}.get(name[:2], 0)
    for number in range(views):
        hands = Hands(page, number)
        assert is_whole(page, hands.root)
        first = hands.slice()
        hands.press("Coronal")
        hands.keys("End")
        hands.press("Axial")
        assert hands.slice() == first
        shoot(page, f"{name[:2]}_viewer_{number + 1}")
    if name.startswith("07"):
        hands.answered(lambda: hands.set_threshold(0.3))
        hands.answered(lambda: hands.press("Save"))
        saved = "volume.read_label(session.save()[0], like=scan)"
        assert ask(
            page, f"print(int(session.threshold == 0.3 and ({saved} == session.mask).all()))"
        )
    shut_down(page)


# --- speed ----------------------------------------------------------------------------------------

LARGE = """
import json
from dataclasses import replace
import numpy as np
from lungseg_utils import phantom, viewer
from lungseg_utils.volume.grid import grid_of

small, truth = phantom.make_case(5001)
where = np.ix_(*[np.arange(n) * m // n for n, m in zip((300, 512, 512), truth.shape)])
noise = np.random.default_rng(0).normal(0, 25, (10, 512, 512)).astype(np.int16)
hu = small.hu[where] + np.resize(noise, (300, 512, 512))
spacing_mm = tuple(a * m / n for a, m, n in zip(small.spacing_mm, truth.shape, hu.shape))
affine = small.affine @ np.diag([*np.divide(truth.shape, hu.shape), 1])
scan = replace(
    small, hu=hu, affine=affine, spacing_mm=spacing_mm, grid=grid_of(hu.shape, affine))
view = viewer.Session(scan, truth[where].astype(np.float32)).view(interactive=True)
view
"""
STEP = """async (key) => {
    const main = document.querySelector('.lv-main');
    const times = [];
    for (let i = 0; i < 30; i++) {
        await new Promise(requestAnimationFrame);
        const began = performance.now();
        main.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        await new Promise((drawn) => requestAnimationFrame(drawn));
        main.getContext('2d').getImageData(0, 0, 1, 1);  // waits until it is on the canvas
        times.push(performance.now() - began);
    }
    return times.sort((a, b) => a - b);
}"""


def test_a_scan_of_300_slices_is_small_to_send_and_quick_to_move_through(page, lab):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(LARGE)]
    nbformat.write(notebook, lab[1] / "large.ipynb")
    received = []
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda payload: received.append(len(payload))),
    )
    run_notebook(page, lab, "large.ipynb")
    hands = Hands(page)
    measured = {"bytes": sum(received)}
    for plane in ("Axial", "Coronal", "Sagittal"):
        hands.press(plane)
        hands.page.wait_for_timeout(1000)  # the picture in 3D is drawn when nothing moves
        times = page.evaluate(STEP, "ArrowUp")
        measured[f"ms a step, {plane.lower()}: median, shortest"] = [
            times[len(times) // 2],
            times[0],
        ]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "measured.json").write_text(json.dumps(measured, indent=2))
    shoot(page, "viewer_300_slices")
    shut_down(page)
    assert 1_000_000 < measured["bytes"] <= 10_000_000
    assert all(times[1] < 50 for times in list(measured.values())[1:])  # whatever else is running
