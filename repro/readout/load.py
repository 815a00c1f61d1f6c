"""What a training takes of the machine: processor, memory and GPU, for the log of the training."""

import os
import resource
import time
from contextlib import suppress

import torch

SHORTEST_LOAD = 1.0
"""Seconds. Over less, the share of the processors is mostly the clock's resolution."""
MEGABYTE = 1e6


class LoadMeter:
    """Measures this process, and the GPU it computes on, from one reading to the next.

    Args:
        device: The device of the training.
    """

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)
        self._last = (time.perf_counter(), time.process_time())
        self._epoch, self._found = 0, dict[str, float]()
        self._asks_driver = self._device.type == "cuda"

    def read(self, epoch: int) -> dict[str, float]:
        """Return the readings after an epoch, which trainings that are computed together share; empty if the last were just before.

        Returns:
            Values by name, spelled as MLflow spells its system metrics, with the unit in the name. Memory is the peak so far,
            processor use the mean since the last reading, use and power of the GPU are the driver's at this moment.
        """
        if epoch == self._epoch:
            return self._found
        seconds, processor = time.perf_counter(), time.process_time()
        self._epoch, self._found = epoch, {}
        if seconds - self._last[0] >= SHORTEST_LOAD:
            share = (processor - self._last[1]) / (seconds - self._last[0]) / len(os.sched_getaffinity(0))
            # ru_maxrss is in units of 1024 bytes.
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
            found = {
                "cpu_utilization_percentage": 100 * share,
                "process_memory_peak_megabytes": peak,
            } | self._read_gpu()
            self._found = {name: round(value, 2) for name, value in found.items()}
            self._last = seconds, processor
        return self._found

    def _read_gpu(self) -> dict[str, float]:
        if self._device.type != "cuda":
            return {}
        found = {"gpu_0_memory_peak_megabytes": torch.cuda.max_memory_allocated(self._device) / MEGABYTE}
        if self._asks_driver:
            self._asks_driver = False
            # Whatever fails: without nvidia-ml-py torch cannot ask the driver, and a part of a GPU has no values of its own.
            with suppress(Exception):
                found["gpu_0_utilization_percentage"] = float(torch.cuda.utilization(self._device))
                found["gpu_0_power_usage_watts"] = torch.cuda.power_draw(self._device) / 1000
                self._asks_driver = True
        return found
