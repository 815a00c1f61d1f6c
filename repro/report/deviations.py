"""Which entries of docs/deviations.md concern which rows (configs/deviations.yaml)."""

from collections.abc import Iterable
from dataclasses import dataclass

from repro.core.config import Config, configs_folder, load_config
from repro.table.row import Row


class _Concerned(Config):
    setting: tuple[str, ...] = ()
    backbone: tuple[str, ...] = ()
    metric: tuple[str, ...] = ()

    def __str__(self) -> str:
        given = {"setting": self.setting, "backbone": self.backbone, "metric": self.metric}
        return "; ".join(f"{key} {', '.join(names)}" for key, names in given.items() if names) or "all rows"

    def includes(self, row: Row) -> bool:
        given = ((self.setting, row.setting), (self.backbone, row.backbone), (self.metric, row.metric))
        return all(value in allowed for allowed, value in given if allowed)


class _Entry(Config):
    number: int
    what: str
    rows: _Concerned


class _Entries(Config):
    entries: tuple[_Entry, ...]


@dataclass(frozen=True, slots=True)
class DocumentedDeviation:
    """An entry of docs/deviations.md, and those of the given rows that it concerns."""

    number: int
    what: str
    rows: tuple[str, ...]
    concerned: str
    """Which rows of the table it concerns, in words."""


def list_deviations(rows: Iterable[Row]) -> list[DocumentedDeviation]:
    """Return the deviations that may touch the number of one of `rows`, in the order of their numbers."""
    rows, entries = list(rows), load_config(_Entries, configs_folder() / "deviations.yaml").entries
    found = [
        DocumentedDeviation(e.number, e.what, tuple(row.name for row in rows if e.rows.includes(row)), str(e.rows))
        for e in entries
    ]
    return [deviation for deviation in found if deviation.rows]
