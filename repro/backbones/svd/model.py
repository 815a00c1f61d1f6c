"""One window of frames through a frozen Stable Video Diffusion, to features.

Legend: T frames of the window, H W pixels, h w latent pixels (an eighth), C channels of a layer.
Source for every step: the release's generate_svd_maps.py and sgm, as read in its configs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.backbones.config import Layer
from repro.backbones.devices import is_out_of_memory
from repro.backbones.noise import Noise, Stream
from repro.backbones.precision import autocast, fp32_products
from repro.backbones.svd import pictures, schedule
from repro.backbones.svd.config import SVD_CELLS, SvdConfig, depth
from repro.backbones.svd.networks import Needs, Networks
from repro.core.errors import MissingError, UsageError

LATENT_SCALE = 0.18215
"""Of the sampled latent; the condition's latent is not scaled."""
PIXELS_AT_ONCE = 5 * 576 * 1024
"""Pixels the VAE encoders and the image tower take at once where nothing else is said: it bounds their memory."""

Place = tuple[int, Layer]
"""Timestep and layer."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted of the UNet with its temporal mixing learned (svd, svd_xt) or off (sdv2)."""

    mixing: bool
    places: frozenset[Place]

    @property
    def timesteps(self) -> list[int]:
        return sorted({timestep for timestep, _ in self.places})

    def layers(self, timestep: int) -> set[Layer]:
        return {layer for t, layer in self.places if t == timestep}


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the UNet is told beside the latent; every frame conditions itself."""

    crossattn: Float[Tensor, "T N D"]
    """Image embedding of the clean frame, N = 1; or embeddings of texts, the same for every frame."""
    concat: Float[Tensor, "T 4 h w"]
    """Latent (mode, unscaled) of the frame with a little noise."""
    vector: Float[Tensor, "T V"]
    """Sinusoids of fps id, motion bucket id and noise augmentation, in this order."""


def needs(config: SvdConfig, requests: Iterable[Request]) -> Needs:
    """The parts of the checkpoint that `requests` take.

    Raises:
        UsageError: a timestep or layer that does not exist.
    """
    wanted = list(requests)
    steps = config.schedule.steps
    for timestep in sorted({timestep for request in wanted for timestep, _ in request.places}):
        if not 0 <= timestep < steps:
            raise UsageError(f"timestep {timestep} does not exist: {config.title} has timesteps 0 to {steps - 1}")
    return Needs(
        last_layer=max((layer for request in wanted for _, layer in request.places), key=depth),
        mixing=any(request.mixing for request in wanted),
        image=config.conditioning.source != "none",
        tower=config.conditioning.source == "image",
    )


def refuse_unfit(config: SvdConfig, text: Float[Tensor, "N D"] | None) -> None:
    """
    Raises:
        UsageError: texts condition and there are none, or of another width than the UNet takes.
    """
    width = config.architecture.unet.context_dim
    if config.conditioning.texts and (text is None or text.shape[1] != width):
        there = "none are given here" if text is None else f"theirs are of {text.shape[1]}"
        raise UsageError(
            f"conditioning.source {config.conditioning.source}: text embeddings of {width} channels are needed, {there}"
        )


class SvdModel:
    """Frozen networks, and what is wanted of them.

    Args:
        config: its temporal_mixing is not read: each request says its own.
        networks: with all that `needs(config, requests)` names.
        batch: frames the VAE encoders and the image tower take at once; None: what PIXELS_AT_ONCE allows.
        text: embeddings of the texts, where `config` says that texts condition.
    """

    def __init__(
        self,
        config: SvdConfig,
        networks: Networks,
        requests: Mapping[str, Request],
        device: str = "cpu",
        batch: int | None = None,
        text: Float[Tensor, "N D"] | None = None,
    ) -> None:
        needs(config, requests.values())
        refuse_unfit(config, text)
        self.config, self.networks, self.requests = config, networks, dict(requests)
        self.device = torch.device(device)
        self.text = None if text is None else text.to(self.device)
        height, width = config.size
        self.batch = batch or max(1, PIXELS_AT_ONCE // (height * width))

    @property
    def mixes(self) -> bool:
        """Whether any request mixes over time: only then do the frames of a window act on each other."""
        return any(request.mixing for request in self.requests.values())

    def noise_shapes(self, frames: int) -> dict[Stream, tuple[int, ...]]:
        """What is drawn for a window of `frames`. Fewer frames take the beginning of the same noise."""
        height, width = self.config.size
        latent = (frames, 4, height // 8, width // 8)
        shapes: dict[Stream, tuple[int, ...]] = {"posterior": latent}
        if self.config.conditioning.source != "none":
            shapes["augmentation"] = (frames, 3, height, width)
        if self.config.latent_noise:
            shapes["latent"] = latent
        return shapes

    def window(
        self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise
    ) -> dict[str, dict[Place, Float[Tensor, "_ _"]]]:
        """Spatial mean of every place asked for, by request; frames from `real` on are black.

        With mixing of all T frames, on which the black ones act; without it of the `real` ones. One pass of VAE and image
        tower serves all requests and timesteps. Only the conditional half of the release's doubled batch is computed: the
        halves do not mix, and it throws the other away.

        Raises:
            MissingError: memory does not hold it.
        """
        with self.computing(len(frames)):
            return self._window(frames if self.mixes else frames[:real], real, noise)

    @contextmanager
    def computing(self, frames: int) -> Iterator[None]:
        """What holds while anything of a window of `frames` is computed.

        Raises:
            MissingError: memory does not hold it.
        """
        try:
            with torch.inference_mode(), fp32_products(self.config.precision):
                yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(frames) from error
            raise

    def _window(
        self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise
    ) -> dict[str, dict[Place, Float[Tensor, "_ _"]]]:
        picture = pictures.pixels(frames, self.config.size, self.device)
        conditioning = self.condition(picture, real, noise)
        latent = self.latent(picture, real, noise)
        grain = self._draw(noise, "latent", latent.shape) if self.config.latent_noise else None
        features: dict[str, dict[Place, Tensor]] = {}
        for name, request in self.requests.items():
            count = len(picture) if request.mixing else real
            told = Conditioning(
                conditioning.crossattn[:count], conditioning.concat[:count], conditioning.vector[:count]
            )
            features[name] = {}
            for timestep in request.timesteps:
                level = schedule.sigma(self.config.schedule, timestep)
                noisy = latent if grain is None else latent + level * grain
                means = self._layer_means(noisy[:count], told, level, request.layers(timestep), request.mixing)
                features[name] |= {(timestep, layer): mean for layer, mean in means.items()}
        return features

    def condition(self, picture: Float[Tensor, "T 3 H W"], real: int, noise: Noise) -> Conditioning:
        """What the UNet is told of each frame. Black frames differ in their noise, so all are encoded."""
        settings, networks, frames = self.config.conditioning, self.networks, len(picture)
        numbers = torch.tensor(
            [settings.fps_id, settings.motion_bucket_id, settings.noise_augmentation], device=self.device
        )
        vector = networks.vector(numbers)[None].repeat(frames, 1)
        if settings.source == "none":
            height, width = picture.shape[-2:]
            embedding = torch.zeros(frames, 1, self.config.architecture.unet.context_dim, device=self.device)
            return Conditioning(embedding, torch.zeros(frames, 4, height // 8, width // 8, device=self.device), vector)
        if self.text is not None:
            crossattn = self.text[None].expand(frames, -1, -1)
        else:
            with autocast(self.config.precision, self.device):
                crossattn = self._repeating_black(networks.image_embeds, picture, real).float()[:, None]
        noisy = picture + settings.noise_augmentation * self._draw(noise, "augmentation", picture.shape)
        return Conditioning(crossattn, self._in_batches(networks.condition_latent, noisy), vector)

    def latent(self, picture: Float[Tensor, "T 3 H W"], real: int, noise: Noise) -> Float[Tensor, "T 4 h w"]:
        """A sample of the VAE's posterior, scaled."""
        moments = self._repeating_black(self.networks.moments, picture, real)
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return LATENT_SCALE * (mean + deviation * self._draw(noise, "posterior", mean.shape))

    def _draw(self, noise: Noise, stream: Stream, shape: torch.Size) -> Tensor:
        return torch.from_numpy(noise.draw(stream, tuple(shape))).to(self.device)

    def _in_batches(
        self, network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"]
    ) -> Float[Tensor, "T ..."]:
        """`network`, which treats each frame by itself, a few frames at a time."""
        return torch.cat([network(part) for part in torch.split(picture, self.batch)])

    def _repeating_black(
        self, network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"], real: int
    ) -> Float[Tensor, "T ..."]:
        """`network` of the real frames and of one black frame for all the others."""
        frames = len(picture)
        out = self._in_batches(network, picture[: min(real + 1, frames)])
        return torch.cat([out, out[-1:].expand(frames - len(out), *out.shape[1:])]) if len(out) < frames else out

    def _layer_means(
        self,
        latent: Float[Tensor, "T 4 h w"],
        conditioning: Conditioning,
        level: float,
        layers: set[Layer],
        mixing: bool,
    ) -> dict[Layer, Float[Tensor, "T _"]]:
        """Layer means at noise level `level`.

        As released no noise is added to the latent: a timestep only scales it and sets the UNet's time
        (docs/deviations.md 3).
        """
        x = torch.cat([latent * schedule.c_in(level), conditioning.concat], dim=1)
        means: dict[Layer, Tensor] = {}
        last = max(layers, key=depth)
        with autocast(self.config.precision, self.device):
            emb = self.networks.embedding(schedule.c_noise(level), conditioning.vector)
            outputs = self.networks.layers(x, emb, conditioning.crossattn, mixing)
            for layer, output in zip(SVD_CELLS, outputs, strict=False):
                if layer in layers:
                    # In fp32 whatever the layer's type is, as the release takes it.
                    means[layer] = output.float().mean(dim=(2, 3))
                if layer == last:
                    break
        return means

    def _out_of_memory(self, frames: int) -> MissingError:
        height, width = self.config.size
        return MissingError(
            f"out of memory on {self.device}: a window of {frames} frames of {height}x{width}, {self.batch} of them at once "
            f"in the VAE encoders, in {self.config.precision}: try a smaller --batch, or a device with more memory"
        )
