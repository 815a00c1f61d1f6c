"""Clips, windows and vectors of splits in this workspace: stored ones and remaining ones, each counted once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from repro.backbones.config import Cell
from repro.core.errors import UsageError
from repro.datasets.config import DatasetConfig
from repro.plan.amounts import Amount, counted, estimated
from repro.plan.lengths import Portion, from_audit, from_config
from repro.plan.workspace_state import Here


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """One split's clips and their features of one backbone."""

    whole: Portion
    left: Portion
    """What remains to be computed."""
    held: int
    """Number of clips whose features are stored."""
    basis: str
    """Source of the counts."""


class Counts:
    def __init__(self, here: Here) -> None:
        self.here = here
        self.split = cache(self._split)

    def clips(self, dataset: str, split: str) -> Amount:
        """Return the number of clips of a split.

        Raises:
            UsageError: neither the data set's files nor its config say it.
        """
        listed, facts = self.here.dataset(dataset), self.here.config(dataset).splits[split]
        if listed is not None:
            return counted(len(listed.split(split).clips))
        if facts.clips is not None:
            return counted(facts.clips)
        if facts.estimated_clips is None:
            raise UsageError(
                f"configs/datasets/{dataset}.yaml: splits.{split} has neither clips nor estimated_clips, which a plan counts "
                f"from where the data set's files have not been read (`repro data status {dataset}` reads them)"
            )
        return estimated(facts.estimated_clips)

    def _split(self, dataset: str, split: str, backbone: str, cell: Cell) -> SplitCounts:
        """
        Raises:
            UsageError: neither an audit nor the data set's config say how long its clips are.
        """
        here = self.here
        facts, config = here.config(dataset).splits[split], here.backbone(backbone)
        listed, audit, held = here.dataset(dataset), here.audit(dataset), here.held(dataset, backbone, cell)
        ids = [] if listed is None else [clip.id for clip in listed.split(split).clips]
        left = [clip for clip in ids if clip not in held]
        count = len(ids) - len(left)
        if audit:
            whole, rest = (from_audit((audit[i] for i in some if i in audit), config) for some in (ids, left))
            return SplitCounts(whole, rest, count, "frames counted by `repro data audit`")
        if facts.frames is None:
            raise UsageError(
                f"configs/datasets/{dataset}.yaml: splits.{split} does not say how long its clips are (frames): "
                f"`repro data audit {dataset}` counts them, once the data are there"
            )
        clips = self.clips(dataset, split)
        number = round(clips.likely)
        whole = from_config(clips, facts.frames, config)
        how = "counted from" if whole.windows.exact else "estimated from"
        return SplitCounts(whole, whole.share(number - count, number), count, f"{how} {facts.frames.source}")


def uncovered(config: DatasetConfig, splits: Sequence[str]) -> tuple[str, ...]:
    """Return the splits that together contain all clips of `splits`, none of them twice."""
    wanted = tuple(dict.fromkeys(splits))
    return tuple(s for s in wanted if not (within := config.splits[s].within) or not set(within) <= set(wanted))
