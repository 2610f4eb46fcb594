"""Build the site with Sphinx: the whole repository is the source, and nothing is executed.

Every page stays where it lies, so that its links hold here and on GitHub alike.
"""

import re
import sys
from pathlib import Path

import latex2mathml.converter

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from address import find_address  # noqa: E402

from lungseg_utils import __version__  # noqa: E402

ADDRESS = find_address()  # of the repository on GitHub; "" where git knows none

project = "lungseg"
author = "The lungseg contributors"
release = __version__
language = "en-GB"
html_title = "lungseg: a course on lung-tumour segmentation"

extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "benchmarks/**.md",
    "data/*.md",
    "docs/**.md",
    "figures/*.md",
    "lungseg_utils/weights/*.md",
    "notebooks/0*.ipynb",
    "recipes/*.md",
]
exclude_patterns = ["**/.*"]
templates_path = ["_templates"]
suppress_warnings = ["toc.not_included"]  # pages that only links lead to

# --- notebooks and Markdown -----------------------------------------------------------------------

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"  # a browser draws it by itself, without a script from elsewhere

# --- API reference --------------------------------------------------------------------------------

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False

# --- look -----------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/lungs.svg"
html_additional_pages = {"index": "redirect.html"}
html_context = {"default_mode": "light"}
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_domain_indices = False
html_theme_options = {
    "article_header_end": ["toggle-secondary-sidebar.html"],
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navbar_persistent": [],  # one search is enough
    "pygments_light_style": "a11y-high-contrast-light",
}
if ADDRESS:
    html_theme_options |= {
        "repository_url": ADDRESS,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
        "article_header_end": ["article-header-buttons.html", "toggle-secondary-sidebar.html"],
    }


def write_math(translator, node) -> None:
    """Write a formula as MathML, on a line of its own or within one."""
    display = "block" if node.tagname == "math_block" else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise_skip()


def raise_skip() -> None:
    """Tell docutils that the node is written, children and all."""
    from docutils.nodes import SkipNode

    raise SkipNode


def as_restructured_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Turn the few things in docstrings that Sphinx reads otherwise than our readers."""
    text = "\n".join(lines).replace("|", r"\|")
    if re.search(r"^ {4}\S", text, re.MULTILINE):  # `name: meaning`, hanging below its name
        text = re.sub(r"^(\w+): ", r"* **\1**: ", text, flags=re.MULTILINE)
        text = re.sub(r"^ {4}(?=\S)", "  ", text, flags=re.MULTILINE)
    lines[:] = text.splitlines()


def setup(app) -> None:
    """Register what is above."""
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    app.connect("autodoc-process-docstring", as_restructured_text)
