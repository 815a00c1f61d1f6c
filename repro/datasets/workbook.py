"""Read columns of xlsx sheets by their headings."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.datasets.annotations import DataError, check_not_empty, to_one_line

Rows = list[tuple[int, tuple[Any, ...]]]
"""Row number, as a spreadsheet program shows it, and the values of the requested columns."""


def read_workbook(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, Rows]:
    """Read the columns `wanted` of each sheet, in that order.

    Other columns and sheets are ignored, and so are rows in which all of these columns are empty.

    Raises:
        DataError: not a workbook, or a sheet or column is missing.
    """
    import openpyxl

    check_not_empty(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of extensions that it ignores: drop-down lists, colours.
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
            try:
                raw = {name: list(book[name].iter_rows(values_only=True)) for name in wanted if name in book.sheetnames}
                names = list(book.sheetnames)
            finally:
                book.close()
    except Exception as error:
        # A damaged file can fail anywhere in unzipping or XML parsing, with any exception of theirs.
        reason = to_one_line(str(error)) or type(error).__name__
        raise DataError(f"{path}: not a complete xlsx workbook ({reason}): fetch the publisher's file again") from error
    sheets = {}
    for sheet, columns in wanted.items():
        if sheet not in raw:
            raise DataError(
                f"{path}: no sheet '{sheet}', but {to_one_line(', '.join(names))}: fetch the publisher's file again"
            )
        sheets[sheet] = list(_select_columns(f"{path}: sheet {sheet}", raw[sheet], columns))
    return sheets


def _select_columns(
    where: str, raw: Sequence[tuple[Any, ...]], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    header = [str(value).strip() for value in raw[0]] if raw else []
    for column in columns:
        if header.count(column) != 1:
            problem = "two columns" if column in header else "no column"
            raise DataError(f"{where} row 1: {problem} '{column}', found {to_one_line(', '.join(header)) or 'nothing'}")
    places = [header.index(column) for column in columns]
    for number, row in enumerate(raw[1:], start=2):
        # Trailing empty cells are not stored, so rows may be shorter than the header.
        values = tuple(row[place] if place < len(row) else None for place in places)
        if any(value is not None for value in values):
            yield number, values
