"""Cost of a window, ours compared with the computation as released: `python benchmarks/extraction.py [--device cuda]`.

Counts the work at the published size (2 per multiply-add, counted on the modules; nothing is computed). Then times both on
this machine, alternating, with the same random weights in one process: on a GPU at the published size, on a CPU at half the
published width and a 72nd of the pixels. Prints the tables of benchmarks/README.md.
"""

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from gpu_timing import photographs
from ratios import describe_ratio, median_seconds, time_in_turn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from repro.backbones.config import Cell
from repro.backbones.extractor import Noise, Stream
from repro.backbones.noise import CPU, SampledNoise, WindowNoise
from repro.backbones.registry import load_backbone
from repro.backbones.svd.config import SvdArchitecture, SvdConfig, SvdImageTower, SvdUnet
from repro.backbones.svd.model import Request, SvdModel, find_needs
from repro.backbones.svd.plain import NEEDS, compute_plain_window
from repro.backbones.svd.with_diffusers import DiffusersNetworks
from repro.backbones.vit.checkpoint import expected_tensors
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.encoder import Encoder, iterate_layers
from repro.backbones.vit.extractor import VitExtractor
from repro.backbones.vit.family import Videomaev2Family, VitFamily, VjepaFamily
from repro.backbones.vit.pictures import FrameResizer

GRID = (0, 5, 10, 15, 20, 25, 29)
LAYERS = range(1, 10)
PUBLISHED = {"one timestep": 372.0, "seven timesteps": 2606.0}
"""TFLOP of the release, from its modules."""


class Zeros:
    """Noise of windows whose work is counted."""

    def sample(self, stream: Stream, shape: tuple[int, ...], device: torch.device = CPU) -> torch.Tensor:
        return torch.zeros(shape, device=device)


def make_request(timesteps: Sequence[int], layers: Sequence[int], mixing: bool = True) -> Request:
    return Request(mixing, frozenset((t, n) for t in timesteps for n in layers))


JOBS: dict[str, dict[str, Request]] = {
    "one timestep": {"svd_xt": make_request([20], [9])},
    "seven timesteps": {"svd_xt": make_request(GRID, [9])},
    "one timestep, svd_xt and sdv2": {"svd_xt": make_request([20], [9]), "sdv2": make_request([20], [9], mixing=False)},
    "one timestep, sdv2": {"sdv2": make_request([20], [9], mixing=False)},
}


def make_window(config: SvdConfig) -> tuple[np.ndarray, SampledNoise]:
    """Return a window of photographs with its noise."""
    frames = photographs(config.frames.window)
    height, width = config.size
    latent = (len(frames), 4, height // 8, width // 8)
    shapes: dict[Stream, tuple[int, ...]] = {"posterior": latent, "augmentation": (len(frames), 3, height, width)}
    return frames, SampledNoise.of(WindowNoise(0, "0", 0), shapes)


def compute_ours(
    config: SvdConfig,
    networks: DiffusersNetworks,
    requests: dict[str, Request],
    device: str,
    window: tuple[np.ndarray, Noise] | None = None,
) -> None:
    frames, noise = window or make_empty_window(config)
    SvdModel(config, networks, requests, device).compute_window(frames, len(frames), noise)


def compute_released(
    config: SvdConfig,
    networks: DiffusersNetworks,
    requests: dict[str, Request],
    device: str,
    window: tuple[np.ndarray, Noise] | None = None,
) -> None:
    frames, noise = window or make_empty_window(config)
    for one in requests.values():
        compute_plain_window(config, networks, one, frames, noise, device)


def make_empty_window(config: SvdConfig) -> tuple[np.ndarray, Noise]:
    """Return a window to count the work of, on the meta device."""
    return np.zeros((config.frames.window, 90, 160, 3), np.uint8), Zeros()


def count_teraflops(run: Callable[[], None]) -> float:
    """Count the TFLOP of `run`. Attention is counted as the matrix products it consists of."""
    # FlopCounterMode does not see inside fused kernels; the MATH backend is plain products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops() / 1e12


def count_svd(config: SvdConfig) -> None:
    print("Counted work, TFLOP a window of 25 frames at 576x1024, layer 9\n")
    print("| | as released | ours | ratio |\n|---|---|---|---|")
    whole = DiffusersNetworks(config.architecture, NEEDS)
    whole.to("meta")
    for name, requests in JOBS.items():
        networks = DiffusersNetworks(config.architecture, find_needs(config, requests.values()))
        networks.to("meta")
        # On the meta device operations have shapes and no values, so the published size needs no memory.
        less = count_teraflops(lambda n=networks, r=requests: compute_ours(config, n, r, "meta"))
        more = count_teraflops(lambda r=requests: compute_released(config, whole, r, "meta"))
        print(f"| {name} | {more:.1f} | {less:.1f} | {more / less:.2f} |", flush=True)
    print()
    for name, last in (("layer 9", 9), ("layer 13", 13)):
        networks = DiffusersNetworks(config.architecture, find_needs(config, [make_request([20], [last])]))
        print(
            f"UNet parameters loaded for {name}: {count_parameters(networks) / 1e6:.0f} M of {count_parameters(whole) / 1e6:.0f} M"
        )
    print()


def count_parameters(networks: DiffusersNetworks) -> int:
    return sum(p.numel() for p in networks.unet.parameters())


def fill_randomly(networks: DiffusersNetworks, device: str) -> DiffusersNetworks:
    """Fill with random weights, scaled so that activations stay finite."""
    # Variance 1 / fan-in keeps the scale of activations from layer to layer; norms get weight 1 and biases 0.
    torch.manual_seed(0)
    for part in networks.parts:
        part.to_empty(device=device)
        for name, tensor in part.named_parameters():
            if tensor.ndim > 1:
                tensor.data.normal_(std=tensor[0].numel() ** -0.5)
            else:
                tensor.data.fill_(0.0 if name.endswith("bias") else 1.0)
    # A buffer, not a parameter: the loop above does not set it.
    embeddings = networks.image_tower.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device)[None]
    return networks


@contextmanager
def peak_memory(device: str) -> Iterator[list[float]]:
    """Measure the peak memory of the block in GB, less what was in use before; on a CPU by sampling the process every 5 ms."""
    found: list[float] = []
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append((torch.cuda.max_memory_allocated() - before) / 1e9)
        return
    done, most = threading.Event(), 0

    def resident() -> int:
        # The second value is the resident size, in pages of 4096 bytes on x86.
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, resident())

    before = resident()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
        found.append(max(0, most - before) / 1e9)


def measure_svd(config: SvdConfig, device: str, repeats: int) -> None:
    size = f"{config.size[0]}x{config.size[1]}"
    print(
        f"Seconds a window on {device} ({torch.get_num_threads()} threads), {size}, median of {repeats} interleaved\n"
    )
    print("| | as released | ours | ratio (lowest to highest) | windows/s, ours | peak memory, GB: released, ours |")
    print("|---|---|---|---|---|---|")
    whole, window = fill_randomly(DiffusersNetworks(config.architecture, NEEDS), device), make_window(config)
    for name, requests in JOBS.items():
        networks = fill_randomly(DiffusersNetworks(config.architecture, find_needs(config, requests.values())), device)
        works = [
            lambda r=requests: compute_released(config, whole, r, device, window),
            lambda n=networks, r=requests: compute_ours(config, n, r, device, window),
        ]
        rounds = time_in_turn(works, repeats)
        memory = []
        for work in works:
            with peak_memory(device) as peak:
                work()
            memory += peak
        slow, fast = median_seconds(rounds)
        print(
            f"| {name} | {slow:.2f} | {fast:.2f} | {describe_ratio(rounds)} | {1 / fast:.2f} | {memory[0]:.2f}, {memory[1]:.2f} |",
            flush=True,
        )


def measure_together(config: SvdConfig, device: str, repeats: int) -> None:
    """Time svd_xt by itself, and svd_xt and sdv2 together, of the same window."""
    jobs = [JOBS[name] for name in ("one timestep, svd_xt and sdv2", "one timestep")]
    works, tflop = [], []
    for requests in jobs:
        networks = DiffusersNetworks(config.architecture, find_needs(config, requests.values()))
        networks.to("meta")
        tflop.append(count_teraflops(lambda n=networks, r=requests: compute_ours(config, n, r, "meta")))
        filled = fill_randomly(networks, device)
        window = make_window(config)
        works.append(lambda n=filled, r=requests, w=window: compute_ours(config, n, r, device, w))
    rounds = time_in_turn(works, repeats, time.process_time if device == "cpu" else time.perf_counter)
    together, alone = median_seconds(rounds)
    print(
        f"svd_xt and sdv2 together at {config.size[0]}x{config.size[1]} ({torch.get_num_threads()} threads): {together:.2f} s a window, svd_xt alone {alone:.2f} s, "
        f"ratio {describe_ratio(rounds)}; by counted work {tflop[0] / tflop[1]:.3f}\n",
        flush=True,
    )


def halve_sizes(config: SvdConfig, unet_channels: int = 160, size: tuple[int, int] = (64, 128)) -> SvdConfig:
    """Return the config with every network at half the published width and inputs at a 72nd of the pixels, for a CPU."""
    tower = SvdImageTower(width=640, layers=32, heads=8, patch=14, image=28, embed_dim=512)
    unet = SvdUnet(channels=unet_channels, head_channels=64, context_dim=512)
    architecture = SvdArchitecture(unet=unet, vae_channels=64, image_tower=tower)
    return config.model_copy(update={"architecture": architecture, "size": size})


VITS: dict[str, VitFamily[Any]] = {
    "vjepa": VjepaFamily(),
    "vjepa_l16": VjepaFamily(),
    "videomaev2": Videomaev2Family(),
    "videomaev2_b": Videomaev2Family(),
    "videomaev2_s": Videomaev2Family(),
}
"""The release has no code for VideoMAEv2 and V-JEPA. Their work is counted, and several windows at once are compared with
one at a time."""


def build_vit(name: str, device: str) -> tuple[VitConfig, Encoder]:
    """Build an encoder of the published size with random weights."""
    config = cast(VitConfig, load_backbone(name))
    sizes = config.encoder
    assert sizes is not None
    patches = (config.picture.size // sizes.patch) ** 2 * config.table_frames // sizes.tubelet
    tensors = {
        key: torch.empty(shape, device=device).normal_(std=0.02)
        if device != "meta"
        else torch.empty(shape, device=device)
        for key, shape in expected_tensors(sizes, config, VITS[name].layout, patches)
    }
    return config, VITS[name].encoder_builder()(tensors, sizes, config.num_heads, config.table_frames)


def count_vits() -> None:
    print("Counted work of a window of 16 frames\n\n| | encoder, M parameters | tokens | TFLOP |\n|---|---|---|---|")
    for name in VITS:
        config, encoder = build_vit(name, "meta")
        size, sizes = config.picture.size, encoder.sizes
        seen = torch.empty(1, 3, config.frames.window, size, size, device="meta")

        def run(encoder: Encoder = encoder, seen: torch.Tensor = seen, depth: int = sizes.depth) -> None:
            for _ in iterate_layers(encoder, seen, depth):
                pass

        tokens = config.frames.window // sizes.tubelet * (size // sizes.patch) ** 2
        values = sum(
            np.prod(s) for key, s in expected_tensors(sizes, config, VITS[name].layout, 0) if key != "pos_embed"
        )
        print(f"| {config.title} | {values / 1e6:.1f} | {tokens} | {count_teraflops(run):.2f} |", flush=True)
    print()


def measure_vits(device: str, repeats: int) -> None:
    """Time a clip's windows in three ways: each with its own resizing, one by one, and together."""
    print(
        "| windows of 16 frames of 360x640 | by themselves, s | one by one, s | 4 together, s | sharing (lowest to highest) | "
        "together (lowest to highest) | windows/s |\n|---|---|---|---|---|---|---|"
    )
    for name in ("videomaev2_s",) if device == "cpu" else ("vjepa", "videomaev2"):
        config, encoder = build_vit(name, device)
        length, hop = config.frames.window, config.frames.hop
        count = 8
        clip = np.random.default_rng(0).integers(0, 256, (length + (count - 1) * hop, 360, 640, 3), dtype=np.uint8)
        windows = [clip[first * hop : first * hop + length] for first in range(count)]
        ways = [VitExtractor(config, encoder, [Cell(layer="final")], device, n) for n in (1, 1, 4)]
        # A hop of a complete window: no window shares frames with the one before it.
        ways[0].resizer = FrameResizer(config.picture, length, device)

        def compute(extractor: VitExtractor, windows: list[np.ndarray] = windows) -> None:
            for first in range(0, len(windows), extractor.at_once):
                extractor.features(windows[first : first + extractor.at_once], [])

        rounds = time_in_turn([lambda e=extractor: compute(e) for extractor in ways], repeats)
        apart, alone, together = median_seconds(rounds)
        print(
            f"| {config.title}, {count} windows, one every {hop} frames | {apart:.2f} | {alone:.2f} | {together:.2f} | "
            f"{describe_ratio(rounds)} | {describe_ratio(rounds, 1, 2)} | {count / together:.2f} |",
            flush=True,
        )
    print()


def measure_resizing(device: str, repeats: int) -> None:
    """Time resizing alone, of overlapping windows: shared frames once, and every window by itself."""
    config = cast(VitConfig, load_backbone("videomaev2"))
    length, hop = config.frames.window, config.frames.hop
    clip = np.random.default_rng(0).integers(0, 256, (length + 31 * hop, 360, 640, 3), dtype=np.uint8)
    windows = [clip[first : first + length] for first in range(0, len(clip) - length + 1, hop)]

    def resize(distance: int) -> None:
        resizer = FrameResizer(config.picture, distance, device)
        for window in windows:
            resizer.resize_windows([window], length)

    rounds = time_in_turn([lambda: resize(length), lambda: resize(hop)], repeats)
    apart, shared = median_seconds(rounds)
    print(
        f"Resizing {len(windows)} windows of 360x640, one every {hop} frames: {apart:.2f} s by themselves, {shared:.2f} s with "
        f"each frame once, ratio {describe_ratio(rounds)}\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="fp32", choices=get_args(SvdConfig.model_fields["precision"].annotation))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = cast(SvdConfig, load_backbone("svd_xt", {"precision": options.precision}))
    # Autocast knows no meta device, on which work is counted; it is the same in every precision.
    count_svd(config.model_copy(update={"precision": "fp32"}))
    count_vits()
    measure_resizing(options.device, options.repeats)
    measure_vits(options.device, options.repeats)
    # With a UNet of 192 channels, its share of the work of a small window is that of the published size.
    measure_together(
        config if options.device != "cpu" else halve_sizes(config, 192, (64, 64)), options.device, options.repeats
    )
    measure_svd(config if options.device != "cpu" else halve_sizes(config), options.device, options.repeats)


if __name__ == "__main__":
    main()
