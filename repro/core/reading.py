"""Reading files that others may have written: nothing in a file's type or nesting makes a read wait or recurse for ever."""

import io
import json
import os
import stat
from collections.abc import Callable, Sequence
from errno import EINVAL, ELOOP, ENXIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

MAX_DEPTH = 100
"""Levels of nesting that are read. Files of this project have at most ten; Python's own limits vary between versions."""
MOST_TABLE = 1 << 30
"""Bytes that a table of a parquet file may take in memory. Those of this project take up to 200 MB."""
MOST_READ = 1 << 29
"""Of a file that is read at once. A few bytes of disk can be a file of terabytes."""
MOST_ROWS = 5_000_000
"""Of such a table. Predictions have one for each epoch and clip; other tables become objects of some hundred bytes a row."""


class IrregularFileError(OSError):
    """A named pipe, a socket or a device in the place of a file; a link in the place of one that is written to; or a file that is
    too large."""

    def __init__(self, path: str | Path, why: str = "not a regular file") -> None:
        super().__init__(EINVAL, why, str(path))


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; an `opener` for `open`.

    Raises:
        IrregularFileError: it is a named pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    # Without O_NONBLOCK, opening a named pipe waits for a writer for ever. It has no effect on regular files. The opened
    # file is checked rather than the path, which could be replaced in between.
    try:
        handle = os.open(path, flags | os.O_NONBLOCK, 0o666)
    except ValueError as error:  # a name from a file that somebody else wrote
        raise OSError(EINVAL, "a null byte in its name", str(path)) from error
    except OSError as error:
        if error.errno == ENXIO:  # a socket, or a pipe that is opened for writing
            raise IrregularFileError(path) from error
        raise
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` itself refuses folders
        return handle
    os.close(handle)
    raise IrregularFileError(path)


def open_in_place(path: str | Path, flags: int) -> int:
    """Open a regular file of the workspace that is written to as it is, such as a lock or a log; an `opener` for `open`.

    Other files are written to a new one, which replaces a link. Through a link, whoever made the workspace could have a file elsewhere
    changed.

    Raises:
        IrregularFileError: it is a link, a named pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    try:
        return open_regular(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == ELOOP and Path(path).is_symlink():
            raise IrregularFileError(
                path, f"a link to {Path(path).readlink()}, which nothing is written through"
            ) from error
        raise


def describe_absence(path: Path, expected: Literal["file", "folder", "file or folder"]) -> str:
    """Say why `path` is not the expected file or folder: nothing is there, or something of another type."""
    if path.is_dir():
        return "a folder, expected a file"
    if path.is_file():
        return "a file, expected a folder"
    if path.exists():
        return "neither a file nor a folder"
    if path.is_symlink():
        return f"a link to {path.readlink()}, which does not exist"
    return f"no such {expected}"


def check_regular(path: Path) -> None:
    """Check a file that a library opens by its path.

    Raises:
        IrregularFileError: it is a named pipe, a socket or a device.
        OSError: it cannot be opened.
    """
    os.close(open_regular(path))


def read_bytes(path: Path, most: int = MOST_READ) -> bytes:
    """Read a regular file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, is larger, or is not a regular file.
    """
    with open(path, "rb", opener=open_regular) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise IrregularFileError(path, f"larger than {most} bytes")
        return file.read()


def read_text(path: Path, errors: str = "strict", most: int = MOST_READ) -> str:
    """Read a regular file of at most `most` bytes as UTF-8, with line ends of any system.

    Raises:
        OSError: it cannot be read, is larger, or is not a regular file.
        UnicodeDecodeError: it is not UTF-8.
    """
    with io.TextIOWrapper(io.BytesIO(read_bytes(path, most)), encoding="utf-8", errors=errors) as file:
        return file.read()


def read_table(path: Path, columns: Sequence[str] | None = None, dictionaries: Sequence[str] = ()) -> "pa.Table":
    """Read a parquet file. A few bytes of one can become billions of values, or a long text a million times.

    Args:
        path: The file.
        columns: Names of the columns to read [default: all].
        dictionaries: Columns of texts that are read as dictionaries.

    Raises:
        ValueError: in memory it would take more than MOST_TABLE.
        OSError, pa.ArrowException: it cannot be read, or is no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq  # not its read_table, which imports pandas if installed and so takes 0.5 s

    check_regular(path)
    with pq.ParquetFile(path, buffer_size=4096) as file:
        schema = file.schema_arrow
        _open_columns(file)
    if len(set(schema.names)) < len(schema.names):
        raise ValueError("two columns of one name")
    texts = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        if pa.types.is_dictionary(kind) or kind in (pa.string(), pa.large_string()):
            texts.append(name)
        elif "dictionary" in str(kind):
            raise ValueError(f"column {name[:40]!r} is of the type {str(kind)[:80]}")
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        batch = _check_table_size(file.metadata, path, texts)
        if batch is None:
            table = file.read(columns=columns)
        else:
            parts, left = [], MOST_TABLE
            for part in file.iter_batches(batch, columns=columns):
                left = _subtract_size(part.nbytes, left)
                parts.append(part)
            table = pa.Table.from_batches(parts) if parts else file.read(columns=columns)
    return _spell_out(table, set(texts) - set(dictionaries))


def _open_columns(file: Any) -> None:
    """Open each column without reading a value. Where the file's statement of its columns contradicts itself, this raises OSError,
    while `RowGroupMetaData.column` ends the process (pyarrow 25)."""
    columns = [*range(file.metadata.num_columns)]
    # Without a column, pyarrow would divide by the size of a batch.
    for group in range(file.metadata.num_row_groups if columns else 0):
        for _ in file.reader.iter_batches(0, row_groups=[group], column_indices=columns, use_threads=False):
            pass


def _check_table_size(metadata: Any, path: Path, texts: Sequence[str]) -> int | None:
    """Return how many rows can be read at once; None if all can. Columns of `texts` are read as dictionaries.

    Raises:
        ValueError: the table is too large by its number of values.
    """
    if metadata.num_rows > MOST_ROWS:
        raise ValueError(f"a table of {metadata.num_rows} rows, at most {MOST_ROWS} are read")
    left, repeated = MOST_TABLE - path.stat().st_size, 0
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            left = _subtract_size(max(chunk.total_uncompressed_size, 4 * chunk.num_values), left)
            # A text that is in the file once can be in the table as often as there are rows.
            if (
                chunk.physical_type == "BYTE_ARRAY"
                and chunk.path_in_schema not in texts
                and chunk.num_values * chunk.total_uncompressed_size > MOST_TABLE
            ):
                repeated += chunk.total_uncompressed_size
    return max(1, MOST_TABLE // 8 // repeated) if repeated else None


def _subtract_size(size: int, left: int) -> int:
    if size > left:
        raise ValueError(f"a table of more than {MOST_TABLE / 1e9:.1f} GB in memory")
    return left - size


def _spell_out(table: "pa.Table", names: set[str]) -> "pa.Table":
    """Return a table with columns of texts in the place of dictionaries."""
    import pyarrow as pa
    import pyarrow.compute as pc

    left = MOST_TABLE
    for place, name in enumerate(table.column_names):
        if name in names:
            column = table.column(place)
            kind = column.type.value_type
            for chunk in column.chunks if kind in (pa.string(), pa.large_string(), pa.binary()) else ():
                lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
                left = _subtract_size(pc.sum(lengths).as_py() or 0, left)
            table = table.set_column(place, name, column.cast(kind))
    return table


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key {next(n for n in names if names.count(n) > 1)[:80]!r}")
    return found


def parse_json(text: str | bytes, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Parse JSON.

    Raises:
        ValueError: not JSON, nested deeper than MAX_DEPTH, or an object with a key twice, of which programs read another one.
    """
    too_deep = f"nested deeper than {MAX_DEPTH} levels"
    try:
        value = json.loads(text, parse_constant=parse_constant, object_pairs_hook=_refuse_duplicates)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    # What is parsed is hashed and written by functions that recurse, so the limit is below that of the parser.
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(too_deep)
