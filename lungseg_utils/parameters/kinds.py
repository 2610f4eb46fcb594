"""What one parameter may be, and how a value from outside is brought to its kind."""

import ast
import dataclasses
import os
import re
from typing import Any, TypeVar

T = TypeVar("T")
# YAML and papermill's -p turn 007 into 7, which is another folder
A_PATH = "a path as text, not a number: 007 is ./007, -r of papermill, or in quotes in YAML"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """The default, meaning and range of a parameter; those of a list hold for each of its items."""

    default: Any
    meaning: str  # a phrase that makes sense on its own: the comment and the help
    interval: str = ""  # of a number, as in mathematics: [0, 1)
    choices: tuple[str, ...] = ()  # of a text; none: any text
    multiple: int = 1
    length: tuple[int, int] | None = None  # fewest and most items of a list; None: not a list

    @property
    def kind(self) -> type:
        """Return int, float, bool or str: what the value, or an item of a list, is."""
        if self.length is None:
            return type(self.default)
        return type(self.default[0]) if self.default else float

    def __str__(self) -> str:
        """Return what is allowed, in the words of an error message."""
        if self.kind is str:
            return f"one of {', '.join(self.choices)}" if self.choices else A_PATH
        if self.kind is bool:
            return "true or false"
        noun = "whole number" if self.kind is int else "number"
        multiple = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
        if self.length is None:
            return f"a {noun} in {self.interval}{multiple}"
        low, high = self.length
        count = low if low == high else f"{low} to {high}"
        return f"a list of {count} {noun}s in {self.interval}{multiple}"

    def coerce(self, value: object) -> Any:
        """Return `value` in this kind: "1e-3" becomes 0.001. Raises where it does not fit."""
        if self.length is None:
            return self._coerce_one(value)
        low, high = self.length
        items = ast.literal_eval(value) if isinstance(value, str) else value
        if low == high and isinstance(items, (int, float)):
            items = [items] * low  # one number stands for a cube
        if not isinstance(items, (list, tuple)) or not low <= len(items) <= high:
            raise ValueError
        return [self._coerce_one(item) for item in items]

    def _coerce_one(self, value: Any) -> Any:
        text = "" if value is None else str(value)
        if self.kind is str:
            coerced: Any = text
            choice = re.sub(r"^cuda:\d{1,3}$", "cuda", text)  # the second of several GPUs is cuda:1
            fits = not self.choices or choice in self.choices
            fits = fits and isinstance(value, (str, os.PathLike, type(None))) and "\0" not in text
        elif self.kind is bool:
            coerced = text.lower() == "true"
            fits = text.lower() in ("true", "false")
        else:
            number = float(value)
            coerced = self.kind(number)
            fits = isinstance(value, (int, float, str)) and not isinstance(value, bool)
            fits = fits and (self.kind is float or number % self.multiple == 0)
            fits = fits and _contains(self.interval, number)
        if not fits:
            raise ValueError
        return coerced


def _contains(interval: str, number: float) -> bool:
    low, high = map(float, interval[1:-1].split(","))
    is_end = (interval[0] == "[" and number == low) or (interval[-1] == "]" and number == high)
    return low < number < high or is_end  # NaN is neither


def parameter(
    default: T,
    meaning: str,
    interval: str = "",
    *,
    choices: tuple[str, ...] = (),
    multiple: int = 1,
    length: tuple[int, int] | None = None,
) -> T:
    """Declare a parameter as a field of a dataclass, which carries its row of the table."""
    row = Parameter(default, meaning, interval, choices, multiple, length)
    return dataclasses.field(default=default, metadata={"parameter": row})
