"""Whether anybody is there who sees what moves: a widget, a bar, a curve that grows."""

import os


def is_live() -> bool:
    """Return whether a front end that can run widgets asked for this cell.

    JupyterLab, Notebook 7 and VS Code send the cell's id with each request to execute; nbclient
    (papermill, nbconvert) and nbval do not. So this holds for a run without a front end that was
    started from inside one. `LUNGSEG_HEADLESS=1` makes the answer False whatever asks.
    """
    if os.environ.get("LUNGSEG_HEADLESS", "0") not in ("", "0"):
        return False
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return "cellId" in request.get("metadata", {})
