"""What a parameter of a family may be set to, where not everything of its type will do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Values:
    """The values that a number, a word, or each item of a list may have."""

    least: float = -math.inf
    """The smallest number."""
    below: float = math.inf
    """Numbers stay below it."""
    step: int | None = None
    """Whole numbers, up from `least` in these steps; None: all numbers between `least` and `below`."""
    choices: tuple[str, ...] = ()
    """The words to choose from; where there are any, nothing else is allowed."""

    def why_not(self, value: Any) -> str:
        """Return what a value, or the items of a list, must be instead; an empty text where they are right."""
        items = value if isinstance(value, list) else [value]
        wrong = [item for item in items if not self._allows(item)]
        if items and not wrong:
            return ""
        each = "each of its items" if isinstance(value, list) else "it"
        return f"{each} must be {self._told(wrong[0])}" if wrong else "it needs at least one item"

    def _allows(self, item: Any) -> bool:
        if self.choices:
            return item in self.choices
        if isinstance(item, bool) or not isinstance(item, int if self.step else int | float):
            return False
        return self.least <= item < self.below and (not self.step or (item - self.least) % self.step == 0)

    def _told(self, item: Any) -> str:
        """Say what is allowed; of numbers in steps, also those nearest to `item`."""
        if self.choices:
            return " or ".join(self.choices)
        if self.step is None:
            return f"at least {self.least:g}" + (f" and below {self.below:g}" if self.below < math.inf else "")
        first = [f"{self.least + k * self.step:g}" for k in range(3)]
        told = f"one of {', '.join(first)} and so on"
        if isinstance(item, int | float) and item > self.least:
            under = item - (item - self.least) % self.step
            told += f"; the nearest are {under:g} and {under + self.step:g}"
        return told
