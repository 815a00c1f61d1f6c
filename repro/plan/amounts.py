"""Numbers that are counted exactly, or estimated with a lower and an upper limit."""

from collections.abc import Iterable
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
            self.exact and other.exact,
        )

    def times(self, factor: float) -> "Amount":
        return Amount(self.likely * factor, self.least * factor, self.most * factor, self.exact)

    def share(self, part: int, of: int) -> "Amount":
        """The share of `part` clips out of `of`. Clips differ in length, so it is an estimate unless it is all or none."""
        if part == of:
            return self
        return counted(0) if part == 0 or of == 0 else estimated(*(v * part / of for v in self.ends))

    @property
    def ends(self) -> tuple[float, float, float]:
        return self.likely, self.least, self.most

    def as_json(self) -> dict[str, object]:
        """As JSON; large values are rounded to whole numbers."""
        return {
            "likely": _plain(self.likely),
            "least": _plain(self.least),
            "most": _plain(self.most),
            "exact": self.exact,
        }


def counted(value: float) -> Amount:
    return Amount(value, value, value, exact=True)


def estimated(likely: float, least: float | None = None, most: float | None = None) -> Amount:
    return Amount(likely, likely if least is None else least, likely if most is None else most)


def total(amounts: Iterable[Amount | None]) -> Amount | None:
    """Return the sum; None if a part is unknown."""
    whole = counted(0)
    for amount in amounts:
        if amount is None:
            return None
        whole += amount
    return whole


def _plain(value: float) -> float:
    """Round to three decimals, values of 1000 and more to whole numbers."""
    return round(value) if value >= 1000 or value == int(value) else round(value, 3)
