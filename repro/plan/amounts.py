"""Numbers that are counted exactly, or estimated with a lower and an upper limit."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Amount:
    likely: float
    least: float
    most: float
    exact: bool = False
    """True if counted, False if estimated."""

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.likely + other.likely,
            self.least + other.least,
            self.most + other.most,
            # One estimated part makes the sum an estimate.
            self.exact and other.exact,
        )

    def times(self, factor: float) -> "Amount":
        return Amount(self.likely * factor, self.least * factor, self.most * factor, self.exact)

    def share(self, part: int, of: int) -> "Amount":
        """The share of `part` clips out of `of`. Clips differ in length, so it is an estimate unless it is all or none."""
        if part == of:
            return self
        return counted(0) if part == 0 or of == 0 else self.map_estimate(lambda value: value * part / of)

    def map_estimate(self, function: Callable[[float], float]) -> "Amount":
        """Return the estimate with `function` applied to each of its three values. `function` must be increasing."""
        # Increasing, so that the lower limit stays the lower one.
        return Amount(function(self.likely), function(self.least), function(self.most))

    def as_json(self) -> dict[str, object]:
        """As JSON; large values are rounded to whole numbers."""
        return {
            "likely": _round_for_json(self.likely),
            "least": _round_for_json(self.least),
            "most": _round_for_json(self.most),
            "exact": self.exact,
        }


def counted(value: float) -> Amount:
    """Return a number that is known exactly."""
    return Amount(value, value, value, exact=True)


def estimated(likely: float, least: float | None = None, most: float | None = None) -> Amount:
    """Return an estimate; a limit that is not given equals the likely value."""
    return Amount(likely, likely if least is None else least, likely if most is None else most)


def sum_amounts(amounts: Iterable[Amount | None]) -> Amount | None:
    """Return the sum; None if a part is unknown."""
    total = counted(0)
    for amount in amounts:
        # A sum without its unknown part would read as a complete one.
        if amount is None:
            return None
        total += amount
    return total


def _round_for_json(value: float) -> float:
    """Round to three decimals, values of 1000 and more to whole numbers."""
    return round(value) if value >= 1000 or value == int(value) else round(value, 3)
