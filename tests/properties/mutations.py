"""What happens to files: bytes that change, and values of other types in them. A mutation is a tuple of plain values, which hypothesis
shrinks and a test can name in `@example`; a position counts from the start and wraps."""

import io
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

# Bytes.

ByteChange = tuple[str, int, int, bytes]
PAYLOADS = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b'"', b",", b";", b":", b"[" * 200, b"{" * 200,
    b"-", b"'", b"\\", b"\\ud800", b"NaN", b"1e999", b"Infinity", b"9" * 5000, b"0x" + b"f" * 5000, b"null", b"true", b"&a [*a]",
    b"!!python/object/apply:os.abort []", b"<<: *a", b"? ", b"- ", b"\x7f" * 8, b"\xff" * 8, b"\0" * 64, b"1:1:1:1.5", b"../../",
    b"\x1b]8;;http://x\x07", b"a" * 5000, b"\xe2\x80\xae", b"=1+1",
)  # fmt: skip
BYTE_CHANGES = st.tuples(
    st.sampled_from(("flip", "cut", "insert", "overwrite", "delete", "repeat", "utf-16", "latin-1", "lines")),
    st.integers(0, 1 << 20),
    st.integers(1, 64),
    st.one_of(st.sampled_from(PAYLOADS), st.binary(min_size=1, max_size=16)),
)


def change_bytes(content: bytes, changes: Sequence[ByteChange]) -> bytes:
    for how, position, length, payload in changes:
        at = position % max(1, len(content))
        end = at + length
        if how == "flip":
            content = content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1 :] if content else b""
        elif how == "cut":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + payload + content[at:]
        elif how == "overwrite":
            content = content[:at] + payload + content[at + len(payload) :]
        elif how == "delete":
            content = content[:at] + content[end:]
        elif how == "repeat":
            content = content[:end] + content[at:]
        elif how == "utf-16":
            content = content.decode("utf-8", "replace").encode("utf-16")
        elif how == "latin-1":
            content = content.decode("utf-8", "replace").encode("latin-1", "replace") + b"\xe9"
        else:
            content = _change_lines(content, position, length, payload)
    return content


def _change_lines(content: bytes, position: int, length: int, payload: bytes) -> bytes:
    """Replace a cell of a line, or have a line twice or not at all."""
    lines = content.split(b"\n")
    at = position % len(lines)
    if length % 3 == 0:
        lines.insert(at, lines[at])
    elif length % 3 == 1:
        del lines[at]
    else:
        cells = lines[at].split(b",")
        cells[position % len(cells)] = payload
        lines[at] = b",".join(cells)
    return b"\n".join(lines)


# JSON and what is made of it. Some values have no form in Python, and are written by their text.


class Raw(str):
    """Text in the place of a value."""

    __slots__ = ()


DEEP = Raw("[" * 100_000 + "]" * 100_000)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2, 1.5, 1e308, -0.0, 2**31, 2**63, 2**64, 2**70, 10**400, "", "x", "0", "\0", "\ud800", "a\nb",
    "../../x", "/etc/passwd", "a" * 70_000, "\x1b[31m", "NaN", "1970-01-01", [], {}, [[]], [None], [{}], {"": None}, {"x": {"y": []}},
    Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), DEEP, Raw("[" * 90 + "]" * 90), Raw('"\\ud800"'), Raw("{}{}"), Raw(""),
    Raw('{"a":1,"a":2}'), Raw("1" + ":1" * 200 + ".5"),
)  # fmt: skip
TreeChange = tuple[str, int, Any]
TREE_CHANGES = st.tuples(
    st.sampled_from(("replace", "drop", "add", "twice", "rename", "swap", "wrap")),
    st.integers(0, 1 << 16),
    st.sampled_from(ODD),
)


class Pairs(list[list[Any]]):
    """An object as a list of [key, value], which can have a key twice."""


def to_tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs([key, to_tree(inner)] for key, inner in value.items())
    return [to_tree(inner) for inner in value] if isinstance(value, list | tuple) else value


def from_tree(tree: Any) -> Any:
    """Return a tree as a value; of a key that is there twice the last."""
    if isinstance(tree, Pairs):
        return {str(key): from_tree(inner) for key, inner in tree}
    return [from_tree(inner) for inner in tree] if isinstance(tree, list) else tree


def write_tree(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {write_tree(inner)}" for key, inner in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(write_tree, tree)) + "]"
    return write_tree(to_tree(tree)) if isinstance(tree, dict) else json.dumps(tree)


def _places(tree: Any) -> list[tuple[Any, int]]:
    """Every value below the top, as its collection and its index in it."""
    found, queue = [], [tree]
    for current in queue:
        if isinstance(current, Pairs):
            found += [(current, n) for n in range(len(current))]
            queue += [inner for _, inner in current]
        elif isinstance(current, list):
            found += [(current, n) for n in range(len(current))]
            queue += current
    return found


def change_tree(value: Any, changes: Sequence[TreeChange]) -> Any:
    """Return a changed copy of a JSON value as a tree."""
    tree = to_tree(value)
    for how, position, odd in changes:
        places = _places(tree)
        if not places:
            return to_tree(odd)
        within, at = places[position % len(places)]
        item = within[at]
        old = item[1] if isinstance(within, Pairs) else item

        def put(new: Any, within: Any = within, at: int = at) -> None:
            if isinstance(within, Pairs):
                within[at][1] = new
            else:
                within[at] = new

        if how == "replace":
            put(to_tree(odd))
        elif how == "wrap":
            put([old])
        elif how == "drop":
            del within[at]
        elif how == "twice":
            within.insert(at, list(item) if isinstance(within, Pairs) else item)
        elif how == "add":
            within.insert(at, ["added", to_tree(odd)] if isinstance(within, Pairs) else to_tree(odd))
        elif how == "rename" and isinstance(within, Pairs):
            within[at][0] = odd if isinstance(odd, str) else f"{item[0]}x"
        elif how == "swap" and isinstance(within, Pairs):
            other = within[(at + 1) % len(within)]
            item[1], other[1] = other[1], item[1]
    return tree


# Tables.

TABLE_CHANGES = st.tuples(
    st.sampled_from(("null", "type", "drop", "rename", "metadata", "rows", "value", "codec", "twice")),
    st.integers(0, 1 << 16),
    st.sampled_from(ODD),
)
TYPES = (
    pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(), pa.null(), pa.list_(pa.string()), pa.list_(pa.float64()),
    pa.timestamp("ns"), pa.uint8(), pa.date32(), pa.struct({"a": pa.int64()}), pa.decimal128(30, 3), pa.list_(pa.list_(pa.int32())),
    pa.dictionary(pa.int32(), pa.string()), pa.duration("us"), pa.float16(), pa.large_string(),
)  # fmt: skip


def _values_of(kind: pa.DataType, count: int) -> pa.Array:
    samples: tuple[Any, ...] = ("x", 7, -1, 1.5, True, b"\xff", None, ["a"], [0.5], {"a": 1}, [[1]], 0)
    for sample in samples:
        try:
            return pa.array([sample] * count, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    return pa.nulls(count, kind)


def change_table(content: bytes, changes: Sequence[TreeChange]) -> bytes:
    """Return a valid parquet file with other columns, types, values or metadata."""
    with pq.ParquetFile(io.BytesIO(content)) as file:
        table = file.read()
    codec = "snappy"
    for how, position, odd in changes:
        if not table.num_columns:
            break
        at = position % table.num_columns
        name = table.column_names[at]
        if how == "null":
            table = table.set_column(at, name, pa.nulls(len(table), table.schema.field(at).type))
        elif how == "type":
            table = table.set_column(at, name, _values_of(TYPES[position // 7 % len(TYPES)], len(table)))
        elif how == "drop":
            table = table.remove_column(at)  # another may have its name
        elif how == "rename":
            table = table.rename_columns([*table.column_names[:at], "renamed", *table.column_names[at + 1 :]])
        elif how == "twice":
            table = table.append_column(name, table.column(at))
        elif how == "rows":
            table = table.slice(position % (len(table) + 1), position % 3)
        elif how == "codec":
            codec = ("none", "gzip", "zstd", "brotli")[position % 4]
        elif how == "value":
            rows = table.column(at).to_pylist()
            if rows:
                rows[position % len(rows)] = odd
            try:
                column = pa.array(rows, table.schema.field(at).type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                continue
            table = table.set_column(at, name, column)
        else:
            table = table.replace_schema_metadata(_change_metadata(table.schema.metadata or {}, position, odd))
    target = io.BytesIO()
    pq.write_table(table, target, compression=codec)
    return target.getvalue()


def _change_metadata(metadata: dict[bytes, bytes], position: int, odd: Any) -> dict[bytes, bytes]:
    key = sorted(metadata)[position % len(metadata)] if metadata else b"added"
    text = metadata.get(key, b"{}")
    try:
        new = write_tree(change_tree(json.loads(text), [("replace", position // 5, odd)]))
    except (ValueError, RecursionError):
        new = str(odd)
    return metadata | {key: new.encode("utf-8", "replace")}


def change_workbook(content: bytes, changes: Sequence[TreeChange]) -> bytes:
    """Return a workbook with other values in some cells, or without a sheet."""
    book = openpyxl.load_workbook(io.BytesIO(content))
    for how, position, odd in changes:
        sheet = book.worksheets[position % len(book.worksheets)]
        cell = sheet.cell(1 + position // 11 % sheet.max_row, 1 + position % max(1, sheet.max_column))
        if how == "drop" and len(book.worksheets) > 1:
            book.remove(sheet)
        elif how == "twice":
            sheet.append([inner.value for inner in sheet[cell.row]])
        elif how == "rename":
            sheet.title = "Other"
        elif isinstance(odd, str | int | float | None) and not (isinstance(odd, str) and (len(odd) > 30_000)):
            try:
                cell.value = f"{odd}" if isinstance(odd, Raw) else odd
            except (openpyxl.utils.exceptions.IllegalCharacterError, ValueError):
                continue
    target = io.BytesIO()
    try:
        book.save(target)
    except (ValueError, OverflowError, UnicodeEncodeError):
        return content
    return target.getvalue()


def change_header(content: bytes, changes: Sequence[TreeChange]) -> bytes:
    """Return a safetensors file with another header; its length is right."""
    (length,) = struct.unpack("<Q", content[:8])
    tree = write_tree(change_tree(json.loads(content[8 : 8 + length]), changes)).encode("utf-8", "replace")
    return struct.pack("<Q", len(tree)) + tree + content[8 + length :]


def change_json(content: bytes, changes: Sequence[TreeChange]) -> bytes:
    return write_tree(change_tree(json.loads(content), changes)).encode("utf-8", "replace")


def change_json_lines(content: bytes, changes: Sequence[TreeChange]) -> bytes:
    lines = [line for line in content.split(b"\n") if line.strip()]
    at = changes[0][1] % len(lines)
    lines[at] = change_json(lines[at], changes)
    return b"\n".join(lines) + b"\n"


def sign_after(sign: Callable[[Any], bytes], content: bytes, changes: Sequence[TreeChange]) -> bytes:
    """Change a JSON object and sign it again, as somebody does who forges it; what cannot be signed is written as it is."""
    tree = change_tree({key: inner for key, inner in json.loads(content).items() if key != "sha256"}, changes)
    try:
        return sign(json.loads(write_tree(tree)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return write_tree(tree).encode("utf-8", "replace")
