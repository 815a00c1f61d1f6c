"""What a check reports, and what checks are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from repro.core.errors import UsageError
from repro.core.workspace import Workspace, device_from_environment, environment_values
from repro.features.rates import kind_of
from repro.plan.doctor.probes import ListedGpus, RunningProbe, query_gpus, start_probe
from repro.plan.plan import RowPlan, make_plan
from repro.plan.workspace_state import WorkspaceState
from repro.table.imported import has_imported_features
from repro.table.requirements import MissingItem, gpus_visible, missing_items
from repro.table.row import Row

FindingState = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `repro doctor`."""

    name: str
    state: FindingState
    """ok; warn: works with less, or will not be noticed until later; fail: the row, or without one any row, cannot run."""
    what: str
    """What was found."""
    remedy: str = ""
    """What to do; empty if nothing."""


class Subject:
    """The machine, the workspace and the row that are examined. What several checks need is looked up once."""

    def __init__(self, workspace: Workspace, row: Row | None = None, device: str | None = None) -> None:
        """`device` is the one of --device, if it was given."""
        self.workspace, self.row = workspace, row
        self.environment: Mapping[str, str] = environment_values()
        self._device = device
        # Started first: they take seconds, during which the other checks run.
        self._probes = {"torch": start_probe("torch", device or self.environment.get("REPRO_DEVICE", ""))}
        # A process of its own: a decoder that crashes must not take torch's answers with it.
        self._probes["video"] = start_probe("video")

    def probe(self, name: str) -> RunningProbe:
        """Return the probe of torch (with the GPU and sgm) or of video (the decoders)."""
        return self._probes[name]

    def torch_facts(self, name: str) -> dict[str, Any]:
        """Return what is known of torch, gpu or sgm; if nothing, the reason as `problem`."""
        probe = self._probes["torch"]
        return dict(probe.facts().get(name, {"problem": probe.failure}))

    @property
    def requested_device(self) -> str | None:
        """The device of --device or REPRO_DEVICE; None if neither names one.

        Raises:
            UsageError: REPRO_DEVICE names no kind of device.
        """
        return self._device or device_from_environment()

    @cached_property
    def visible_gpus(self) -> int:
        """Number of GPUs that the driver lists for this process."""
        return gpus_visible()

    @cached_property
    def listed_gpus(self) -> ListedGpus:
        """The machine's GPUs, by nvidia-smi."""
        return query_gpus()

    @property
    def computes_on_gpu(self) -> bool:
        """Whether a row would compute on a GPU: one is requested, or none is and the driver lists one."""
        requested = self.requested_device
        return self.visible_gpus > 0 if requested is None else requested != "cpu"

    @cached_property
    def imported(self) -> bool:
        """Whether features of all clips of the row were imported, so that it needs nothing else."""
        return self.row is not None and has_imported_features(self.row, self.workspace)

    @cached_property
    def missing(self) -> tuple[MissingItem, ...]:
        """What the row needs and the workspace does not have; empty without a row."""
        if self.row is None or self.imported:
            return ()
        state, data = WorkspaceState(self.workspace, [self.row]), self.row.data
        clips = [found for name in (data.train, data.test) if (found := state.missing_clips(name))]
        return (*missing_items(self.row, self.workspace), *clips)

    @cached_property
    def plan(self) -> RowPlan | None:
        """What the row still takes in this workspace; None without a row, or if it cannot be estimated, as before an audit of data
        whose config does not say how long clips are."""
        if self.row is None:
            return None
        try:
            return make_plan([self.row], self.workspace, kind_of(self.requested_device or "cuda"), 1, None).rows[0]
        except UsageError:
            return None
