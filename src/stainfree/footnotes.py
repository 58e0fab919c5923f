"""Footnotes of a study, lettered below the table, the figure or the claims that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

from stainfree.errors import DataError

Placed = str | Mapping[str, Any]


@dataclass
class Notes:
    """The footnotes of one table: each gets a letter when it is first met, so that none is listed without a mark.

    Parameters
    ----------
    texts
        Id -> text of every footnote of the study.
    placed
        The table's own: an id, which stands at the caption, or a mapping of ``id`` and ``at``: the number whose keys
        have these values, ours or, with ``published: true``, the study's.
    """

    texts: Mapping[str, str]
    placed: Sequence[Placed] = ()
    _letters: dict[str, str] = field(default_factory=dict)

    def mark(self, ids: Sequence[str]) -> str:
        """Return the letters of footnotes, such as ``a, b``.

        Raises
        ------
        DataError
            If the study has no footnote of that name.
        """
        for name in ids:
            if name not in self.texts:
                raise DataError(f"study: no footnote is called `{name}`; there are {', '.join(self.texts)}")
            self._letters.setdefault(name, ascii_lowercase[len(self._letters)])
        return ", ".join(sorted(self._letters[name] for name in ids))

    def caption(self) -> str:
        """Return the letters that stand at the caption."""
        return self.mark([one for one in self.placed if isinstance(one, str)])

    def at(self, *, published: bool = False, **keys: Any) -> str:
        """Return the letters that stand at a number, ours or the published one."""
        keys["published"] = published
        found = [one for one in self.placed if not isinstance(one, str)]
        return self.mark([
            one["id"] for one in found if all(keys.get(key) == value for key, value in _place(one).items())
        ])  # fmt: skip

    def listed(self) -> list[tuple[str, str]]:
        """Return letter and text of every footnote that was marked so far."""
        return [(letter, self.texts[name]) for name, letter in self._letters.items()]


def _place(placed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that tell where a footnote stands: at our number unless it says otherwise."""
    return {"published": False, **placed["at"]}
