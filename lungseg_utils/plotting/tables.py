"""Tables that a notebook cell can end with."""

import html
import re

NUMBER = re.compile(r"[-−+~<>≤≥]?\d|nan$|–?$")  # what a column of numbers may hold


class Table(str):
    """A Markdown table: Jupyter shows it as a table, everything else as the same text."""

    def _repr_markdown_(self) -> str:
        return str(self)

    __repr__ = str.__str__


def table(rows: list[dict]) -> Table:
    """Return `rows`, dicts with the same keys, as a Markdown table with numbers at the right.

    A cell shows its value as `str` does; format what needs it first: `f"{dice:.2f}"`.
    """
    columns = []
    for name in rows[0] if rows else ():
        texts = [html.escape(str(text), quote=False) for text in (name, *(r[name] for r in rows))]
        texts = [text.replace("|", r"\|") for text in texts]
        width = max(3, *map(len, texts))
        is_number = all(NUMBER.match(text) for text in texts[1:])
        cells = [text.rjust(width) if is_number else text.ljust(width) for text in texts]
        cells.insert(1, "-" * (width - 1) + (":" if is_number else "-"))
        columns.append(cells)
    return Table("\n".join(f"| {' | '.join(line)} |" for line in zip(*columns)))
