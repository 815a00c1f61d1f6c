"""Which runs a row asks for, and their keys.

A run's key is a hash of everything its numbers depend on: features, splits, recipe, protocol, precision and seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from repro.core.hashing import content_key
from repro.core.workspace import Workspace
from repro.pipeline.row_data import ReadoutInputs, split_records
from repro.readout import checkpoints
from repro.readout.compute import ON_CPU, Compute
from repro.readout.recipe import Protocol
from repro.records.record import SplitRecord, StoredRun, stored_run


@dataclass(frozen=True)
class RunPlan:
    """The runs of one row, cell and protocol, which differ in their seed alone."""

    inputs: ReadoutInputs
    protocol: Protocol
    compute: Compute
    splits: Mapping[str, SplitRecord]
    """What records state of "train" and "test"."""

    @cached_property
    def group(self) -> dict[str, Any]:
        """Everything a run depends on but its seed. Hashed: changing a key or a value here orphans every recorded run."""
        row, data = self.inputs.row, self.inputs.data
        return {
            # The code: raised if it would train other weights from the same inputs.
            "training": checkpoints.READOUT_VERSION,
            "row": row.name,
            "row_version": row.version,
            "features": {"key": self.inputs.store.key, "cell": row.features.name},
            # Ids, targets and video hashes of the clips, in order.
            "splits": {part: split.model_dump() for part, split in self.splits.items()},
            "recipe": row.readout.model_dump(mode="json", exclude={"note"}),
            "protocol": self.protocol,
            # Device, threads and the number trained together are left out: a run made on another machine is still this run. They
            # change results by rounding; and on a GPU, PyTorch samples other dropout masks from the same seed than on a CPU.
            "precision": self.compute.precision,
            # These add scores to the record and train nothing else.
            "segments": data.segments,
            "also": [str(split.name) for split in data.also],
        } | row.own_identity

    @property
    def grid(self) -> str:
        """The group's key without the cell: equal for all cells of a grid."""
        return content_key({**self.group, "features": {"key": self.inputs.store.key}})

    def stored_run(self, seed: int, workspace: Workspace) -> StoredRun:
        """Where the run of `seed` is stored, whether it exists or not."""
        run = content_key(self.group | {"seed": seed})
        return stored_run(workspace.runs, self.inputs.row.name, seed, run)


def plan_runs(
    inputs: ReadoutInputs,
    protocol: Protocol = "published",
    compute: Compute = ON_CPU,
    splits: Mapping[str, SplitRecord] | None = None,
) -> RunPlan:
    """Plan the runs of `inputs`. `splits` are those of another cell's plan, which saves hashing the clips again."""
    return RunPlan(inputs, protocol, compute, split_records(inputs) if splits is None else splits)


@dataclass(frozen=True)
class PlannedRun:
    """A run without a record yet."""

    plan: RunPlan
    seed: int
    workspace: Workspace
    is_grid_cell: bool = False
    """Whether it is a cell of a grid other than the row's own: predictions are ranks, and scores of every clip apart."""
    keep_scores: bool = False
    """Whether to keep these also if another cell of the grid, with the same seed, is better."""

    @cached_property
    def stored(self) -> StoredRun:
        return self.plan.stored_run(self.seed, self.workspace)
