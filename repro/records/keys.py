"""The content keys of a run, computed again from its record.

`RunPlan.group` (repro/pipeline/runs/plan.py) makes them before there is a record; a test compares the two.
"""

from collections.abc import Iterator
from typing import Any

from repro.core.hashing import content_key
from repro.records.record import RunRecord

EARLIER = [{"training": training, "store": store, "segments": None} for training in (3, 2, 1) for store in (2, 1)]
"""What `key_rest` may have been for records that do not have it."""


def compute_keys(record: RunRecord, rest: dict[str, Any], protocol: str = "") -> tuple[str, str, str, str]:
    """Return the keys of run, group, grid and features that the contents of `record` give.

    Args:
        record: The keys in it are not read, except that of the features, which the other three are made of.
        rest: As `RunRecord.key_rest`.
        protocol: The protocol's name at the time [default: today's].
    """
    rest = dict(rest)
    store = rest.pop("store", None)
    group = {
        "row": record.row,
        "row_version": record.row_version,
        "features": {"key": record.features.key, "cell": record.features.cell},
        "splits": {"train": record.train.model_dump(), "test": record.test.model_dump()},
        "recipe": record.recipe.model_dump(mode="json", exclude={"note"}),
        "protocol": protocol or record.protocol,
        "precision": record.precision,
        "also": [part.name for part in record.subsets],
        **rest,
    }
    features = {"store": store, "stored_as": record.features.stored_as} | record.features.identity
    return (
        content_key(group | {"seed": record.seed}),
        content_key(group),
        # Without the cell: the runs of a grid share this key.
        content_key(group | {"features": {"key": record.features.key}}),
        content_key(features),
    )


def explain_keys(record: RunRecord) -> str:
    """Return which keys of `record` are not those of its contents; empty if they are, or if too little is recorded to tell.

    Records of versions up to 0.1.0 do not have Animal Kingdom's segments of classes, which are part of the keys.
    """
    stored = (record.run, record.group, record.grid, record.features.key)
    closest: tuple[str, ...] = ("run", "group", "grid", "features")
    for found in _possible_keys(record):
        wrong = tuple(
            name
            for name, ours, theirs in zip(("run", "group", "grid", "features"), found, stored, strict=True)
            # Records from before grids have no such key.
            if ours != theirs and not (name == "grid" and not theirs and not record.key_rest)
        )
        if not wrong:
            return ""
        # Of several former forms, the one that explains most of the keys is what the message is about.
        closest = min(closest, wrong, key=len)
    if not record.key_rest and any("_macro_" in name for name in record.best_epoch_on_test.scores):
        return ""
    return f"the key of {' and '.join(closest)} is not that of its contents"


def _possible_keys(record: RunRecord) -> Iterator[tuple[str, str, str, str]]:
    # The held-out protocol's name in versions up to 0.1.0.
    protocols = ("held-out", "honest") if record.protocol == "held-out" else (record.protocol,)
    for rest in [record.key_rest] if record.key_rest else EARLIER:
        for protocol in protocols:
            yield compute_keys(record, rest, protocol)
