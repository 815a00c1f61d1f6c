"""The nearest of the names that there are, for a name that there is not."""

import difflib
from collections.abc import Iterable

CUTOFF = 0.6
"""Least similarity of a suggestion. Cyclopts takes the same for options and choices."""


def find_nearest(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the nearest of `names`, or an empty string if none is near."""
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=CUTOFF)
    return f"; did you mean '{near[0]}'?" if near else ""
