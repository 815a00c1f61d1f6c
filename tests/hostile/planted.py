"""Files with code in them, which leaves a file behind if it runs; and files that are small and unpack to gigabytes."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

RAN = "ran"
"""File that planted code makes in the working folder."""


class Runs:
    """Code that a pickle runs when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(RAN),))


CALL = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{RAN}]]"
YAML_TAGS = (
    CALL, f"!!python/object/new:os.system ['touch {RAN}']", f"!!python/object/apply:os.system ['touch {RAN}']",
    "!!python/module:os\n", "!!python/name:os.system", "!<tag:yaml.org,2002:python/object/apply:os.abort> []",
)  # fmt: skip


def pickled(protocol: int = 2) -> bytes:
    return pickle.dumps(Runs(), protocol)


def saved_by_torch(*, legacy: bool = False) -> bytes:
    target = io.BytesIO()
    torch.save({"model": Runs(), "a": torch.zeros(2)}, target, _use_new_zipfile_serialization=not legacy)
    return target.getvalue()


def object_array() -> bytes:
    target = io.BytesIO()
    array = np.empty(1, object)
    array[0] = Runs()
    np.save(target, array, allow_pickle=True)
    return target.getvalue()


def object_arrays() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a.npy", object_array())
    return target.getvalue()


def extension_type() -> bytes:
    """A parquet file with a column type that pyarrow before 14.0.1 unpickled (CVE-2023-47248)."""
    target = io.BytesIO()
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled()}
    pq.write_table(pa.table([[1]], pa.schema([pa.field("clip", pa.int64(), metadata=extension)])), target)
    return target.getvalue()


# Workbooks.

SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)


def workbook(change: Callable[[dict[str, bytes]], object], rows: int = 1) -> bytes:
    """A workbook with the sheet AR, of which `change` alters the members."""
    book, target = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    sheet.title = "AR"
    for n in range(rows):
        sheet.append(["video_id", "type"] if not n else [f"v{n}", "train"])
    book.save(target)
    with zipfile.ZipFile(target) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def with_sheet(text: str, before: str = "") -> Callable[[dict[str, bytes]], object]:
    xml = f'<?xml version="1.0"?>{before}{SHEET.format(text)}'.encode()
    return lambda members: members.update({"xl/worksheets/sheet1.xml": xml})


HEADER = '<row r="1"><c r="A1" t="inlineStr"><is><t>video_id</t></is></c><c r="B1" t="inlineStr"><is><t>type</t></is></c></row>'
LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
WORKBOOKS: dict[str, Callable[[dict[str, bytes]], object]] = {
    "external entity": with_sheet(
        HEADER + '<row r="2"><c r="A2" t="inlineStr"><is><t>&x;</t></is></c></row>', '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    ),
    "billion laughs": with_sheet(
        HEADER + '<row r="2"><c r="A2" t="inlineStr"><is><t>&a11;</t></is></c></row>', f'<!DOCTYPE a [<!ENTITY a0 "ha">{LAUGHS}]>'
    ),
    "macro": lambda members: members.update({"xl/vbaProject.bin": pickled()}),
    "formula": with_sheet(HEADER + '<row r="2"><c r="A2" t="str"><f>CALL("Shell32","ShellExecuteA")</f><v>v1</v></c></row>'),
    "text of gigabytes": with_sheet(HEADER + " " * 30_000_000),
    "values in the last column": with_sheet(HEADER + "".join(f'<row r="{n}"><c r="XFD{n}"><v>1</v></c></row>' for n in range(2, 60_000))),
    "a row far below": with_sheet(HEADER + '<row r="1048576"><c r="A1048576"><v>1</v></c></row>'),
}  # fmt: skip


# Tables.


def repeated_text(rows: int = 200_000, length: int = 200_000) -> bytes:
    """A parquet file of some kilobytes whose table has a long text in each row."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * length]))
    target = io.BytesIO()
    labels = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows, dtype=np.int32) % 2), pa.array(["a", "b"]))
    pq.write_table(
        pa.table({"path": column, "label": labels, "clip": column, "group": column}), target, compression="zstd"
    )
    return target.getvalue()


def many_rows() -> bytes:
    """A parquet file of some kilobytes that has six million rows."""
    target = io.BytesIO()
    column = pa.array(np.zeros(1_000_000, np.int64))
    table = pa.table({"path": column, "label": column, "clip": column})
    with pq.ParquetWriter(target, table.schema) as writer:
        for _ in range(6):
            writer.write_table(table)
    return target.getvalue()


def safetensors(length: int, header: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + header


def huge_tensor() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    return safetensors(len(header), header)


def huge_array() -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array_header_1_0(target, {"descr": "<f4", "fortran_order": False, "shape": (2**44, 4)})
    return target.getvalue()
