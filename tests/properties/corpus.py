"""Changes that once were not refused in one line, by format: found by long runs, and tried in every run."""

from properties.mutations import Raw

BYTES: dict[str, list[list[tuple[str, int, int, bytes]]]] = {
    "packed features": [[("lines", 402, 8, b"\0")], [("overwrite", 60, 1, b"9" * 30)]],
    "own parquet": [[("flip", 4, 1, b"\0"), ("flip", 6, 1, b"\0")]],
    "predictions": [[("flip", 4, 1, b"\0")]],
    "index of packed features": [[("overwrite", 3784, 1, b"\x0e")]],
    "Charades-Ego classes": [[("insert", 0, 1, b"\0")]],
    "row": [[("insert", 0, 1, b"a: 1" + b":1" * 500_000 + b"\n")], [("insert", 0, 1, b"a: 1" + b":1" * 90 + b".5\n")]],
    "audit journal": [[("insert", 0, 1, b'[4, ["x"], 1, 2, 3, 4, "", "", "", null]\n')]],
    "kept results": [[("overwrite", 1 << 19, 1, b"UEsDBBQAAAAA")]],
}
VALUES: dict[str, list[list[tuple[str, int, object]]]] = {
    "own row, values": [[("replace", 1, "\0")], [("replace", 0, "\0")], [("replace", 0, "a\nb")]],
    "row, values": [[("replace", 1, Raw("1" + ":1" * 200 + ".5"))]],
    "features of a clip, forged": [[("replace", 0, None)]],
    "audit manifest, values": [[("type", 6 + 7 * 2, None)], [("value", 6, Raw("NaN"))]],
}
