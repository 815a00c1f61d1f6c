"""The rules that a run record must keep to be judged. Their ids are permanent: a rule that is dropped leaves its id unused."""

RULES = {
    "R01": "record and predictions can be read and are as they were written",
    "R02": "a record is the one of its folder",
    "R03": "every epoch of the recipe is there, with its score",
    "R04": "the selected epoch is the best of all epochs, the last one the last",
    "R05": "every recorded score is the one computed from the predictions",
    "R06": "every number is finite",
    "R07": "clips and classes are those of the split",
    "R08": "targets are those of the annotation files, or else those that the record's sha256 of the split is of",
    "R09": "the keys of run, group, grid and features are the content keys of the record",
    "R10": "no two seeds, or rows, have equal predictions, weights or losses",
    "R11": "the time of a run is a time, with its zone, and not in the future",
    "R12": "runs of one set have the same splits, audits, checkpoint and software versions",
    "R13": "a seed and cell counts once: the newest run",
    "R14": "the configs of row, backbone and data sets are those that the rule set pins",
    "R15": "a run measures the row as configured: version, recipe, cell, splits, number of clips, published protocol",
    "R16": "seeds are the published one and those that follow it, without a gap",
}
"""What must hold, by the id that a refusal is printed with (expected/README.md)."""


def format_refusal(rule: str, why: str) -> str:
    """Return a refusal as one line that begins with the rule's id."""
    assert rule in RULES
    return f"{rule} {why}"
