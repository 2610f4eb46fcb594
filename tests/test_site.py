"""The site: built from the committed notebooks, whole in itself, and fit for every reader."""

import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from conftest import ROOT
from test_jupyterlab import CHROMIUM, FLAGS
from test_notebooks import NAMES

pytest.importorskip("sphinx_book_theme", reason="the extra docs is not installed: make site does")

SITE = ROOT / "build" / "site"
PICTURES = {"img": "src", "script": "src", "iframe": "src", "source": "src", "link": "href"}
OUTSIDE = re.compile(r"(https?:)?//")
VIEWED = [
    "docs/index.html",
    "notebooks/01_explore_data.html",
    "docs/reference/results.html",
    "docs/lecturers.html",
]


@pytest.fixture(scope="module")
def pages():
    """Build the site; return its pages, parsed, by their paths."""
    from bs4 import BeautifulSoup

    options = ["--fail-on-warning", "--keep-going", "--quiet", "-c", ROOT / "docs"]
    folders = ["-d", ROOT / "build" / "doctrees", ROOT, SITE]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *map(str, options + folders)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    found = [path for path in SITE.rglob("*.html") if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in sorted(found)}


def test_it_has_lessons_reference_design_and_cards(pages):
    wanted = {f"notebooks/{name}.html" for name in NAMES}
    wanted |= {
        f"docs/{name}.html" for name in ("index", "design", "robustness", "scale", "lecturers")
    }
    wanted |= {"CHANGELOG.html", "lungseg_utils/weights/README.html", "index.html", "search.html"}
    assert wanted <= {path.relative_to(SITE).as_posix() for path in pages}
    assert (SITE / "searchindex.js").is_file()


def test_the_first_page_of_the_reference_predicts_in_five_lines(pages):
    page = pages[SITE / "docs" / "reference" / "index.html"]
    code = page.select_one("article pre").get_text()
    assert len(code.strip().splitlines()) <= 5
    assert "prediction.predict(" in code and "volume.write_mask(" in code
    names = {tag["id"] for path in pages for tag in pages[path].select("dt.sig[id]")}
    for name in ("volume.read", "prediction.predict", "evaluation.dice", "segunet.SegUNet"):
        assert any(f"lungseg_utils.{name}" == found for found in names), name


def local_links(path: Path, page) -> list[tuple[str, Path, str]]:
    """Return each link of a page to the site itself: as written, its file and its anchor."""
    found = []
    for tag, name in (("a", "href"), *PICTURES.items()):
        for written in (element[name] for element in page.find_all(tag) if element.get(name)):
            if not re.match(r"[a-z]+:|//", written):
                target, _, anchor = urllib.parse.unquote(written).partition("#")
                target = target.partition("?")[0]
                found.append(
                    (written, (path.parent / target).resolve() if target else path, anchor)
                )
    return found


def test_no_link_or_picture_is_dead(pages):
    anchors = {path: {tag["id"] for tag in page.select("[id]")} for path, page in pages.items()}
    dead = []
    for path, page in pages.items():
        for written, target, anchor in local_links(path, page):
            if not target.is_file() or (anchor and anchor not in anchors.get(target, {anchor})):
                dead.append(f"{path.relative_to(SITE)}: {written}")
    assert dead == []


def test_nothing_is_fetched_from_another_host(pages):
    fetched = []
    for path, page in pages.items():
        for tag, name in PICTURES.items():
            fetched += [
                f"{path.relative_to(SITE)}: {element[name]}"
                for element in page.find_all(tag)
                if OUTSIDE.match(element.get(name, "")) and element.get("rel") != ["canonical"]
            ]
    for path in SITE.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text())
        fetched += [f"{path.relative_to(SITE)}: {address}" for address in found]
    assert fetched == []


def test_every_picture_is_described_in_words(pages):
    bare = [
        f"{path.relative_to(SITE)}: {picture}"
        for path, page in pages.items()
        for picture in page.select("article img")
        if len(picture.get("alt", "").split()) < 4 or re.search(r"\.png|/", picture["alt"])
    ]
    assert bare == []


def test_solutions_are_folded_and_formulas_are_drawn_without_a_script(pages):
    for name in NAMES:
        solutions = pages[SITE / "notebooks" / f"{name}.html"].select("details")
        assert len(solutions) >= 2 and not any(solution.has_attr("open") for solution in solutions)
    formulas = pages[SITE / "notebooks" / "01_explore_data.html"].select("math")
    assert any("HU" in formula.get_text() for formula in formulas)


# --- in Chromium ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(pages):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.mark.parametrize("name", VIEWED)
def test_a_page_is_readable_and_fits_a_phone(browser, name):
    """Contrast, names of links and pictures (axe-core); what it asks for; its width."""
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    failed = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto((SITE / name).as_uri())
    rules = ["color-contrast", "image-alt", "link-name", "button-name", "document-title"]
    for width in (1400, 390):
        page.set_viewport_size({"width": width, "height": 844})
        outcome = Axe().run(page, options={"runOnly": {"type": "rule", "values": rules}})
        assert outcome.violations_count == 0, outcome.generate_report()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    page.close()
    assert failed == [] and [address for address in asked if OUTSIDE.match(address)] == []


def test_the_search_finds(browser):
    page = browser.new_page()
    page.goto(f"{(SITE / 'search.html').as_uri()}?q=hausdorff")
    page.wait_for_selector("#search-results ul.search a", timeout=30_000)
    assert "Evaluate" in page.inner_text("#search-results")
    page.close()
