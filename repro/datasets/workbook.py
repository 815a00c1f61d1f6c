"""Read columns of xlsx sheets by their headings."""

import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from repro.core.errors import state_reason
from repro.datasets.annotations import DataError, check_not_empty, to_one_line

MOST_WORKBOOK = 256 << 20
"""Of a workbook, unpacked. Those of publishers have up to 30 MB."""
MOST_COLUMNS = 100
SheetRows = list[tuple[int, tuple[Any, ...]]]
"""Row number, as a spreadsheet program shows it, and the values of the requested columns."""


def read_workbook(path: Path, wanted: Mapping[str, Sequence[str]]) -> dict[str, SheetRows]:
    """Read the columns `wanted` of each sheet, in that order.

    Other columns and sheets are ignored, and so are rows in which all of these columns are empty.

    Raises:
        DataError: not a workbook, or a sheet or column is missing.
    """
    import openpyxl

    check_not_empty(path)
    _check_unpacked_size(path)
    try:
        with ExitStack() as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of extensions that it ignores: drop-down lists, colours.
            # Opened here, as openpyxl leaves the file of a workbook open that it cannot read.
            file = opened.enter_context(path.open("rb"))
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            try:
                names = list(book.sheetnames)
                sheets = {
                    name: list(_select_columns(f"{path}: sheet {name}", _iterate_rows(book[name]), columns))
                    for name, columns in wanted.items()
                    if name in names
                }
            finally:
                book.close()
    except DataError:
        raise
    except Exception as error:
        # A damaged file can fail anywhere in unzipping or XML parsing, with any exception of theirs.
        raise DataError(
            f"{path}: not a complete xlsx workbook ({state_reason(error)}): fetch the publisher's file again"
        ) from error
    for sheet in wanted:
        if sheet not in sheets:
            raise DataError(
                f"{path}: no sheet '{sheet}', but {to_one_line(', '.join(names))}: fetch the publisher's file again"
            )
    return sheets


def _check_unpacked_size(path: Path) -> None:
    """Refuse, with a DataError, a workbook that unpacks to more than a publisher's does."""
    with suppress(zipfile.BadZipFile, OSError, ValueError, NotImplementedError), zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > MOST_WORKBOOK:
            raise DataError(
                f"{path}: unpacks to {size / 1e6:.0f} MB, at most {MOST_WORKBOOK / 1e6:.0f} MB are read: fetch the publisher's file again"
            )


def _iterate_rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Yield a sheet's rows, of the first columns: one value in its last column would make 16,384 of each row."""
    yield from sheet.iter_rows(values_only=True, max_col=MOST_COLUMNS)


def _select_columns(
    where: str, rows: Iterator[tuple[Any, ...]], columns: Sequence[str]
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    header = ["" if value is None else str(value).strip() for value in next(rows, ())]
    for column in columns:
        if header.count(column) != 1:
            problem = "two columns" if column in header else "no column"
            raise DataError(
                f"{where} row 1: {problem} '{column}', found {to_one_line(', '.join(filter(None, header))) or 'nothing'}"
            )
    places = [header.index(column) for column in columns]
    for number, row in enumerate(rows, start=2):
        # Trailing empty cells are not stored, so rows may be shorter than the header.
        values = tuple(row[place] if place < len(row) else None for place in places)
        if any(value is not None for value in values):
            yield number, values
