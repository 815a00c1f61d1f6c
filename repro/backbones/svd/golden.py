"""Hold SVD against golden features: every stored tensor, one relative L2 each.

A folder of golden values holds one safetensors file per window: `frames` (uint8 [T, h, w, 3]), `n_real`, the conditioning
(`crossattn`, `concat`, `vector`) and features `tTT_layerLL_mean` [T, C], for all frames of the window, padding included.
Their noise comes from numpy's default_rng([23, 0]) and ([23, 1]), the same for every window.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from repro.backbones.comparison import Deviation, read_golden, relative_l2
from repro.backbones.devices import move
from repro.backbones.noise import Stream
from repro.backbones.svd import networks
from repro.backbones.svd.config import SVD_GRID, SvdConfig
from repro.backbones.svd.model import Request, SvdModel, needs, refuse_unfit
from repro.backbones.svd.pictures import pixels
from repro.core.errors import MissingError

_FEATURE = re.compile(r"t(\d+)_layer(\d+)_mean")


class GoldenNoise:
    """The noise golden windows were made with."""

    def draw(self, stream: Stream, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
        streams: tuple[Stream, ...] = ("augmentation", "posterior", "latent")
        return np.random.default_rng([23, streams.index(stream)]).standard_normal(shape, dtype=np.float32)


def against_golden(
    config: SvdConfig, checkpoint: Path, folder: Path, device: str = "cpu", batch: int | None = None
) -> Iterator[Deviation]:
    """Compute every window of `folder` and yield each stored tensor's deviation.

    Raises:
        UsageError: no such folder, no golden files in it, or a cell in them that does not exist; texts condition.
        MissingError: a golden file or the checkpoint is damaged or of another layout; sgm is asked for and not there.
    """
    refuse_unfit(config, None)
    windows = read_golden(folder)
    for path, golden in windows:
        _refuse(path, golden)
    # A file may hold the conditioning alone; then any place will do.
    places = {
        path: frozenset((int(m[1]), int(m[2])) for name in golden if (m := _FEATURE.fullmatch(name)))
        or frozenset({(0, 1)})
        for path, golden in windows
    }

    mixing = config.temporal_mixing == "learned"
    wanted = Request(mixing, frozenset().union(*places.values()))
    implementation = networks.resolve(config.implementation)
    loaded = networks.load(implementation, checkpoint, config.architecture, needs(config, [wanted]))
    move(loaded, device)
    noise = GoldenNoise()
    for path, golden in windows:
        height, width = (8 * n for n in golden["concat"].shape[-2:])
        sized = config.model_copy(update={"size": (height, width)})
        # Golden values are of all frames; without mixing the black ones are no padding but frames like any other.
        real = int(golden["n_real"].item()) if mixing and "n_real" in golden else len(golden["frames"])
        model = SvdModel(sized, loaded, {"": Request(mixing, places[path])}, device, batch)
        with model.computing(len(golden["frames"])):
            conditioning = model.condition(pixels(golden["frames"], sized.size, model.device), real, noise)
        ours = {
            "crossattn": conditioning.crossattn,
            "concat": conditioning.concat,
            "vector": conditioning.vector,
        } | {
            f"t{t:02d}_layer{n:02d}_mean": mean
            for (t, n), mean in model.window(golden["frames"], real, noise)[""].items()
        }
        for name in sorted(set(golden) - {"frames", "n_real"}):
            if name not in ours:
                raise MissingError(f"golden file {path}: tensor '{name}' is none this backbone has")
            computed = ours[name].cpu().numpy()
            if computed.shape != golden[name].shape:
                raise MissingError(
                    f"golden file {path}: '{name}' is {list(golden[name].shape)}, "
                    f"this backbone gives {list(computed.shape)}"
                )
            yield Deviation(path.name, name, relative_l2(computed, golden[name]))


def _refuse(path: Path, golden: Mapping[str, np.ndarray]) -> None:
    for name, dimensions in (("frames", 4), ("concat", 4)):
        if name not in golden or golden[name].ndim != dimensions:
            raise MissingError(f"golden file {path}: no '{name}' of {dimensions} dimensions in it")
    height, width = (8 * n for n in golden["concat"].shape[-2:])
    if not height or not width or height % SVD_GRID or width % SVD_GRID:
        raise MissingError(
            f"golden file {path}: 'concat' is of frames of {height}x{width}, not of multiples of {SVD_GRID}"
        )
    if golden["frames"].dtype != np.uint8 or golden["frames"].shape[-1] != 3:
        raise MissingError(f"golden file {path}: 'frames' is not uint8 [T, h, w, 3]")
    if "n_real" in golden and (golden["n_real"].size != 1 or not 1 <= golden["n_real"].item() <= len(golden["frames"])):
        raise MissingError(f"golden file {path}: 'n_real' is not one number from 1 to {len(golden['frames'])}")
