"""Sheets of an xlsx workbook, by name, and columns by their headings."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.datasets.annotations import DataError, check_not_empty, one_line

Rows = list[tuple[int, tuple[Any, ...]]]
"""Number of the row, as a spreadsheet shows it, and the values of the columns asked for."""


def read_workbook(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, Rows]:
    """The columns `wanted` of each sheet, in that order; other columns and sheets may stand beside them, and rows without
    any of these values are left out.

    Raises:
        DataError: not a workbook, or a sheet or column is not there.
    """
    import openpyxl

    check_not_empty(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of extensions it does not read: drop-down lists, colours
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                raw = {name: list(book[name].iter_rows(values_only=True)) for name in wanted if name in book.sheetnames}
                names = list(book.sheetnames)
            finally:
                book.close()
    except Exception as error:
        # A damaged file fails anywhere in the unzipping and the XML, with whatever those raise.
        reason = one_line(str(error)) or type(error).__name__
        raise DataError(f"{path}: not a whole xlsx workbook ({reason}): fetch the owners' file again") from error
    sheets = {}
    for sheet, columns in wanted.items():
        if sheet not in raw:
            raise DataError(
                f"{path}: no sheet '{sheet}', but {one_line(', '.join(names))}: fetch the owners' file again"
            )
        sheets[sheet] = list(_rows(f"{path}: sheet {sheet}", raw[sheet], columns))
    return sheets


def _rows(where: str, raw: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    header = [str(value).strip() for value in raw[0]] if raw else []
    for column in columns:
        if header.count(column) != 1:
            problem = "two columns" if column in header else "no column"
            raise DataError(f"{where} row 1: {problem} '{column}', found {one_line(', '.join(header)) or 'nothing'}")
    places = [header.index(column) for column in columns]
    for number, row in enumerate(raw[1:], start=2):
        values = tuple(row[place] if place < len(row) else None for place in places)
        if any(value is not None for value in values):
            yield number, values
