"""Batches shrink when memory is full, losing and doubling nothing, and what a device computes later is what it computes now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.waits import Waits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from repro.backbones.config import Cell
from repro.backbones.device import BatchLimit, is_out_of_memory, start_download, upload, upload_constants
from repro.backbones.extractor import Backbone, Execution
from repro.backbones.noise import WindowNoise
from repro.backbones.registry import describe_backbone, load_backbone, open_extractors
from repro.backbones.svd.config import SvdConfig
from repro.backbones.svd.extractor import SvdExtractor
from repro.backbones.vit.extractor import VitExtractor
from repro.core.errors import MissingError
from repro.core.workspace import Workspace

CPU = torch.device("cpu")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB")
NOISE = WindowNoise(23, "0" * 64, 0)


def too_much(work: Callable[[Tensor], Tensor], most: int) -> Callable[[Tensor], Tensor]:
    """The same as `work`, on a device whose memory is full with more than `most` at once."""

    def limited(values: Tensor) -> Tensor:
        if len(values) > most:
            raise FULL
        return work(values)

    return limited


def windows(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(len(lengths))
    return [random.integers(0, 256, (length, 60, 80, 3), np.uint8) for length in lengths]


def vit(workspace: Workspace, batch: int, say: Callable[[str], None] = print) -> VitExtractor:
    config = load_backbone("vjepa_tiny")
    backbone = describe_backbone(config, workspace)
    (extractor,) = open_extractors([(backbone, (Cell(layer="final"),))], Execution(batch=batch, say=say))
    assert isinstance(extractor, VitExtractor)
    return extractor


def test_a_batch_is_halved_until_it_fits_and_stays_so(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = windows(16, 16, 16, 16, 16, 16, 7)
    said: list[str] = []
    extractor, smaller = vit(workspace, 8, said.append), vit(workspace, 1)
    monkeypatch.setattr(extractor.encoder, "embed", too_much(extractor.encoder.embed, 1))
    found, expected = (one.features(clip, [])["vjepa_tiny"]["final"] for one in (extractor, smaller))
    # Nothing is lost or doubled: bit for bit the features of the smaller batch.
    np.testing.assert_array_equal(found, expected)
    assert extractor.at_once == 1
    assert extractor.batch == "a clip's windows by 1"
    assert [line.split(": ")[-1] for line in said] == ["from here on 3 at once, not 7", "from here on 1 at once, not 3"]
    assert len(extractor.features(clip, [])["vjepa_tiny"]["final"]) == len(expected)
    assert len(said) == 2


def test_svds_vae_takes_fewer_frames(tiny: SvdConfig, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.model_copy(update={"frames": tiny.frames.model_copy(update={"window": 5})})
    requests = [(Backbone(config, tiny_checkpoint, "sha", "diffusers"), (Cell(timestep=20, layer=2),))]
    said: list[str] = []
    extractor, smaller = SvdExtractor(requests, batch=4, say=said.append), SvdExtractor(requests, batch=2)
    networks: Any = extractor.model.networks
    monkeypatch.setattr(networks, "condition_latent", too_much(networks.condition_latent, 2))
    found, expected = (one.features(windows(4), [NOISE]) for one in (extractor, smaller))
    np.testing.assert_array_equal(found[tiny.name]["t20_layer02"], expected[tiny.name]["t20_layer02"])
    assert "2 frames in the VAE encoders" in extractor.batch
    (line,) = said
    assert "2.50 GiB more needed" in line
    assert line.endswith("from here on 2 frames at once in the VAE encoders, not 4")


def test_one_that_does_not_fit_is_refused_in_one_line_with_the_remedy(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = vit(workspace, 2, lambda line: None)
    monkeypatch.setattr(extractor.encoder, "embed", too_much(extractor.encoder.embed, 0))
    with pytest.raises(MissingError) as refused:
        extractor.features(windows(16, 16, 16), [])
    (line,) = str(refused.value).splitlines()
    assert "windows of 16 frames at 64 in fp32, 1 at once" in line
    assert "2.50 GiB more needed" in line
    assert "a device with more memory" in line
    assert "--batch" not in line


def test_other_errors_pass_and_a_gpus_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        "CUDA error: out of memory",
        "can't allocate memory",
    ):
        assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape '[2]' is invalid for input of size 3"))
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300_000_000, 16_900_000_000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 15_200_000_000)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    said: list[str] = []
    batch = BatchLimit(8, "at once", "windows", torch.device("cuda"), said.append)

    def work() -> int:
        if batch.size > 4:
            raise FULL
        return batch.size

    assert batch.compute(work, 20) == 4
    (line,) = said
    assert line.startswith(
        "out of memory on cuda (2.50 GiB more needed, 15.2 GB in use here, 0.3 of 16.9 GB free): windows: "
    )
    assert emptied == [True]
    with pytest.raises(ZeroDivisionError):
        batch.compute(lambda: 1 // 0, 20)


def test_the_tensors_of_a_failed_attempt_are_freed_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the smaller batch would meet the same full memory."""
    import weakref

    alive: list[weakref.ref[Tensor]] = []
    batch = BatchLimit(2, "at once", "windows", CPU, lambda line: None)

    def work() -> int:
        assert all(reference() is None for reference in alive)
        large = torch.ones(3)
        alive.append(weakref.ref(large))
        if batch.size > 1:
            raise torch.OutOfMemoryError("CUDA")
        return 7

    assert batch.compute(work, 2) == 7
    assert len(alive) == 2


class NoWaiting(TorchDispatchMode):
    """Refuses what waits for a GPU: a number or a shape that depends on values, as `.item()`, `bool(...)` and masks need."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket.__name__ not in self.WAITING, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["published", "fast"])
def test_nothing_of_svd_waits_for_the_device_before_features_are_read(
    tiny: SvdConfig, tiny_checkpoint: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"frames": tiny.frames.model_copy(update={"window": 3}), "precision": precision}
    backbone = Backbone(tiny.model_copy(update=changes), tiny_checkpoint, "sha", "diffusers")
    extractor = SvdExtractor([(backbone, (Cell(timestep=20, layer=9),))])
    waits = Waits(monkeypatch, "backbones.svd.pictures")
    with NoWaiting(), waits:
        finish = extractor.launch(windows(2), [NOISE])
    assert (waits.found, waits.uploads) == ([], 1)  # the frames
    (features,) = finish()
    assert np.isfinite(features[tiny.name]["t20_layer09"]).all()


def test_nothing_of_a_video_transformer_waits_for_the_device_before_features_are_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = vit(workspace, 2)
    waits = Waits(monkeypatch, "backbones.vit.pictures")
    with NoWaiting(), waits:
        finish = extractor.launch(windows(16, 7), [])
    assert (waits.found, waits.uploads) == ([], 2)
    assert [len(part["vjepa_tiny"]["final"]) for part in finish()] == [8, 4]


def test_a_picture_that_overflows_is_noticed_when_features_are_read(
    tiny: SvdConfig, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"frames": tiny.frames.model_copy(update={"window": 3}), "precision": "fast"}
    backbone = Backbone(tiny.model_copy(update=changes), tiny_checkpoint, "sha", "diffusers")
    extractor = SvdExtractor([(backbone, (Cell(timestep=20, layer=2),))], batch=1)
    vae: Any = extractor.model.vae
    moments, calls = vae.moments, []

    def overflow_in_the_second(picture: Tensor) -> Tensor:
        calls.append(len(picture))
        # Of the latent's variance alone, whose clamp hides it from the features.
        return moments(picture).index_fill(1, torch.tensor(5), torch.inf) if len(calls) % 3 == 2 else moments(picture)

    monkeypatch.setattr(vae, "moments", overflow_in_the_second)
    clip = windows(3)
    finish = extractor.launch(clip, [NOISE])
    assert extractor.recomputed_frames == 0
    (features,) = finish()
    assert extractor.recomputed_frames == 1
    monkeypatch.setattr(vae, "moments", moments)
    expected = extractor.features(clip, [NOISE])[tiny.name]["t20_layer02"]
    found = features[tiny.name]["t20_layer02"]
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


class Event:
    """torch.cuda.Event, as far as it is used; `log` says when it is waited for."""

    log: list[str]

    def __init__(self, blocking: bool) -> None:
        assert blocking

    def record(self, stream: object) -> None:
        self.log.append(f"record on {stream}")

    def synchronize(self) -> None:
        self.log.append("wait")


def test_a_gpus_results_are_waited_for_when_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(Tensor):
        """A tensor that says it is on a GPU."""

        device = torch.device("cuda", 1)  # type: ignore[assignment]

        def to(self, device: str, non_blocking: bool) -> Tensor:  # type: ignore[override]
            assert (device, non_blocking) == ("cpu", True)
            Event.log.append("copy")
            return torch.arange(3.0)

    Event.log = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    one = torch.zeros(3).as_subclass(OnGpu)
    wait = start_download({"a": one, "b": one})
    # One event after all copies, on their device; nothing has been waited for.
    assert Event.log == ["copy", "copy", "record on the stream of cuda:1"]
    assert wait()["b"].tolist() == [0, 1, 2]
    assert Event.log[3:] == ["wait"]


def test_frames_reach_a_gpu_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    class Pinned(Tensor):
        def to(self, device: torch.device, non_blocking: bool) -> Tensor:  # type: ignore[override]
            done.append((device, non_blocking))
            return torch.ones(1)

    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.as_subclass(Pinned))
    assert upload(np.zeros((2, 3), np.uint8)[:, ::2], "cuda").tolist() == [1]
    assert done == [(torch.device("cuda"), True)]
    assert upload(np.ones(2, np.uint8), CPU).tolist() == [1, 1]
    assert upload(torch.ones(2), "cuda").tolist() == [1]
    assert len(done) == 2


def test_constants_are_copied_to_a_device_once() -> None:
    assert upload_constants((0.5, 2.0), CPU) is upload_constants((0.5, 2.0), CPU)
    assert upload_constants((1.0, 2.0), CPU).tolist() == [1, 2]
