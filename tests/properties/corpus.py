"""Changes that once were not refused in one line, by format: found by long runs, and tried in every run."""

from properties.mutations import Raw

BYTES: dict[str, list[list[tuple[str, int, int, bytes]]]] = {
    "packed features": [[("lines", 402, 8, b"\0")], [("overwrite", 60, 1, b"9" * 30)]],
    "own parquet": [
        [("flip", 4, 1, b"\0"), ("flip", 6, 1, b"\0")],
        [("flip", 450, 41, b"\0")],
        [("overwrite", 399, 49, b",")],
    ],
    "predictions": [[("flip", 4, 1, b"\0")]],
    "index of packed features": [[("overwrite", 3784, 1, b"\x0e")]],
    "Charades-Ego classes": [[("insert", 0, 1, b"\0")]],
    "row": [[("insert", 0, 1, b"a: 1" + b":1" * 500_000 + b"\n")], [("insert", 0, 1, b"a: 1" + b":1" * 90 + b".5\n")]],
    "audit journal": [[("insert", 0, 1, b'[4, ["x"], 1, 2, 3, 4, "", "", "", null]\n')]],
    "pickled encoder": [[("overwrite", 1141, 1, b"true")]],
    "expected table": [[("lines", 1, 2, b"a" * 5000)], [("lines", 2, 50, b"a" * 5000)]],
    "own row": [[("insert", 1048570, 1, b"9" * 5000)]],
    "kept results": [[("overwrite", 1 << 19, 1, b"UEsDBBQAAAAA")]],
}
VALUES: dict[str, list[list[tuple[str, int, object]]]] = {
    "own parquet, values": [[("drop", 0, None)] * 3],
    "own row, values": [[("replace", 1, "\0")], [("replace", 0, "\0")], [("replace", 0, "a\nb")]],
    "row, values": [[("replace", 1, Raw("1" + ":1" * 200 + ".5"))]],
    "record, forged": [[("rename", 0, "9" * 5000)]],
    "workspace, values": [[("replace", 0, "a" * 5000)], [("replace", 1, "a" * 5000)]],
    "trained readout, values": [[("replace", 0, "a" * 5000)]],
    "features of a clip, values": [[("replace", 0, "a" * 5000)]],
    "encoder, values": [[("replace", 0, "a" * 5000)]],
    "diffusion checkpoint, values": [[("replace", 0, "a" * 5000)]],
    "golden window, values": [[("replace", 0, "a" * 5000)]],
    "predictions, values": [[("twice", 0, None), ("drop", 0, None)]],
    "features of a clip, forged": [[("replace", 0, None)]],
    "audit manifest, values": [[("metadata", 0, "a" * 5000)], [("type", 6 + 7 * 2, None)], [("value", 6, Raw("NaN"))]],
}
