"""One window of frames through a frozen Stable Video Diffusion, to features.

Legend: T frames of the window, H W pixels, h w latent pixels (an eighth), C channels of a layer, N D context tokens.
Source of every step: the release's generate_svd_maps.py, and sgm with the release's configs.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.backbones.compilation import Compiled, fill_batch
from repro.backbones.config import Layer
from repro.backbones.device import BatchLimit, upload_constants
from repro.backbones.extractor import Noise, Stream
from repro.backbones.precision import autocast, fp32_products
from repro.backbones.svd import pictures
from repro.backbones.svd.config import SVD_LAYER_ORDER, SvdConfig, SvdSchedule, layer_depth
from repro.backbones.svd.networks import Needs, Networks
from repro.backbones.svd.vae import CompiledEncoder, with_rewritten_vae
from repro.core.errors import UsageError

LATENT_SCALE = 0.18215
"""Factor on the sampled latent (sgm's scale_factor); the condition's latent is not scaled."""
# Five frames of the published size.
PIXELS_AT_ONCE = 5 * 576 * 1024
"""Pixels that the VAE encoders take at once by default: it bounds their memory."""

TimestepLayer = tuple[int, Layer]
"""A place in the network at which features are read: timestep and layer."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which layers of the UNet to compute at which timesteps, with temporal mixing (svd, svd_xt) or without (sdv2)."""

    mixing: bool
    places: frozenset[TimestepLayer]

    @property
    def timesteps(self) -> list[int]:
        return sorted({timestep for timestep, _ in self.places})

    def layers(self, timestep: int) -> set[Layer]:
        return {layer for t, layer in self.places if t == timestep}


@dataclass(frozen=True, slots=True)
class Conditioning:
    """The UNet's inputs besides the latent. Every frame has its own, where SVD as published conditions on a first frame."""

    crossattn: Float[Tensor, "T N D"]
    """Image embedding of the frame without noise, N = 1; or embeddings of texts, the same for every frame."""
    concat: Float[Tensor, "T 4 h w"]
    """Latent (mode of the posterior, unscaled) of the frame with a little noise."""
    vector: Float[Tensor, "T V"]
    """Sinusoids of fps id, motion bucket id and noise augmentation, in this order."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the networks gave for a window."""

    conditioning: Conditioning
    latent: Float[Tensor, "T 4 h w"]
    features: dict[str, dict[TimestepLayer, Float[Tensor, "_ _"]]]
    """By request and place, means `[T, C]` with mixing, of all T frames; `[real, C]` without."""


def noise_level(schedule: SvdSchedule, timestep: int) -> float:
    """Return sigma of a timestep, 0 the noisiest (Karras et al. 2022, eq. 5; sgm's EDMDiscretization).

    sigma_i = (sigma_max^(1/rho) + i / (steps - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
    """
    # Equal steps in sigma^(1/rho). rho = 7 makes the steps short at low noise.
    share = timestep / (schedule.steps - 1) if schedule.steps > 1 else 0.0
    high, low = schedule.sigma_max ** (1 / schedule.rho), schedule.sigma_min ** (1 / schedule.rho)
    return float((high + share * (low - high)) ** schedule.rho)


# EDM preconditioning (Karras et al. 2022, eq. 7, with sigma_data = 1): the denoiser is
# D(x) = c_skip x + c_out UNet(c_in x, c_noise). Features are inside the UNet, so only c_in and c_noise are needed.


def input_scale(sigma: float) -> float:
    """Return c_in, the factor on the latent before the UNet (sgm's VScalingWithEDMcNoise)."""
    # Brings a latent of variance 1 with noise of variance sigma² back to variance 1.
    return 1 / math.sqrt(sigma**2 + 1)


def time_input(sigma: float) -> float:
    """Return c_noise, which the UNet takes as its time (sgm's VScalingWithEDMcNoise)."""
    # Karras et al. 2022, table 1, as SVD was trained.
    return 0.25 * math.log(sigma)


def find_needs(config: SvdConfig, requests: Iterable[Request]) -> Needs:
    """Return the parts of the checkpoint that `requests` take.

    Raises:
        UsageError: a timestep or layer that does not exist.
    """
    listed = list(requests)
    steps = config.schedule.steps
    for timestep in sorted({timestep for request in listed for timestep, _ in request.places}):
        if not 0 <= timestep < steps:
            raise UsageError(f"timestep {timestep} does not exist: {config.title} has timesteps 0 to {steps - 1}")
    return Needs(
        last_layer=max((layer for request in listed for _, layer in request.places), key=layer_depth),
        mixing=any(request.mixing for request in listed),
        image=config.conditioning.source != "none",
        tower=config.conditioning.source == "image",
    )


def check_text(config: SvdConfig, text: Float[Tensor, "N D"] | None) -> None:
    """Check that there are text embeddings if `config` conditions on texts.

    Raises:
        UsageError: there are none, or their width is not the one the UNet takes.
    """
    width = config.architecture.unet.context_dim
    if config.conditioning.texts and (text is None or text.shape[1] != width):
        found = "none are given" if text is None else f"the given ones have {text.shape[1]}"
        raise UsageError(
            f"conditioning.source {config.conditioning.source}: needs text embeddings of {width} channels, {found}"
        )


class SvdModel:
    """Frozen networks, and the features to compute with them.

    Args:
        config: its temporal_mixing is not read: each request has its own.
        networks: with everything that `find_needs(config, requests)` names.
        batch: frames that the VAE encoders take at once; None: as many as PIXELS_AT_ONCE allows.
        text: embeddings of the texts, if `config` conditions on texts.
        say: called with a line when `batch` is halved for lack of memory; None: a lack of memory is an error.
        compiled: compile VAE encoders and UNet; batches are then filled up to one size.
        backend: torch.compile's.
    """

    _maps: dict[tuple[bool, TimestepLayer], Float[Tensor, "T C h w"]] | None = None
    """While maps are kept: maps by temporal mixing and place."""

    def __init__(
        self,
        config: SvdConfig,
        networks: Networks,
        requests: Mapping[str, Request],
        device: str = "cpu",
        batch: int | None = None,
        text: Float[Tensor, "N D"] | None = None,
        say: Callable[[str], None] | None = None,
        *,
        compiled: bool = False,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        find_needs(config, requests.values())  # raises for timesteps and layers that do not exist
        check_text(config, text)
        self.config, self.networks, self.requests = config, networks, dict(requests)
        self.device = torch.device(device)
        self.compiled, self._backend, self._say = compiled, backend, say or (lambda line: None)
        self._programs: dict[tuple[bool, frozenset[Layer]], Compiled[..., list[Tensor]]] = {}
        """The compiled UNet, by temporal mixing and layers."""
        self.vae = networks
        """Computes moments and condition latents; compiled or in precision fast not the same as `networks`."""
        if compiled or config.precision == "fast":
            self.vae = with_rewritten_vae(
                networks, half=config.precision == "fast", compiled=compiled, say=self._say, backend=backend
            )
        self.recomputed_frames = 0
        """Pictures whose fp16 convolutions overflowed and that were encoded again as published."""
        self._overflows: list[Tensor] | None = None
        """While a window is launched: whether a batch of pictures overflowed, which nobody may look at yet."""
        self.text = None if text is None else text.to(self.device)
        height, width = config.size
        self.batch = BatchLimit(
            batch or max(1, PIXELS_AT_ONCE // (height * width)),
            "frames at once in the VAE encoders",
            f"a window of {config.frames.window} frames of {height}x{width} in {config.precision}",
            self.device,
            say,
        )

    @property
    def programs(self) -> list[Compiled[..., Any]]:
        """What has been compiled, or is when it is first called; empty if nothing is to be."""
        encoders = self.vae.latent_encoder, self.vae.condition_encoder
        return [*self._programs.values(), *(one.compute for one in encoders if isinstance(one, CompiledEncoder))]

    @property
    def mixes(self) -> bool:
        """Whether any request mixes over time. Otherwise the frames of a window do not affect each other."""
        return any(request.mixing for request in self.requests.values())

    def noise_shapes(self, frames: int) -> dict[Stream, tuple[int, ...]]:
        """Shapes of the noise of a window of `frames`. A shorter window takes the beginning of the same noise."""
        # The published image size, whatever the clip's: the VAE has an eighth of it.
        height, width = self.config.size
        latent = (frames, 4, height // 8, width // 8)
        shapes: dict[Stream, tuple[int, ...]] = {"posterior": latent}
        if self.config.conditioning.source != "none":
            shapes["augmentation"] = (frames, 3, height, width)
        if self.config.latent_noise:
            shapes["latent"] = latent
        return shapes

    def compute_window(
        self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise
    ) -> dict[str, dict[TimestepLayer, Float[Tensor, "_ _"]]]:
        """Compute the spatial mean of every requested layer; frames from `real` on are black padding.

        One pass of VAE and image tower serves all requests and timesteps. Only the conditional half of the release's doubled
        batch is computed: the halves do not mix, and the release drops the other one.

        Returns:
            By request and place, means `[T, C]` with mixing, of all T frames; `[real, C]` without.

        Raises:
            MissingError: it does not fit into memory.
        """
        return self.compute_outputs(frames, real, noise).features

    def launch_window(
        self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise
    ) -> dict[str, dict[TimestepLayer, Float[Tensor, "_ _"]]]:
        """Do what compute_window does without waiting for a GPU.

        Where compute_window would encode pictures again, because they overflowed in precision fast, the means are NaN.
        """
        self._overflows = []
        try:
            features = self.compute_outputs(frames, real, noise).features
            if not self._overflows:  # another precision
                return features
            with torch.inference_mode():
                # Added to the means, so that one thing is read of a window.
                # NaN, which whoever reads the features has to look for in any case.
                mark = torch.where(torch.stack(self._overflows).any(), torch.nan, 0.0)
                return {name: {p: mean + mark for p, mean in means.items()} for name, means in features.items()}
        finally:
            self._overflows = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set up computing anything: no gradients, and the config's precision."""
        with torch.inference_mode(), fp32_products(self.config.precision):
            yield

    def compute_outputs(self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise) -> Outputs:
        """Compute what `compute_window` does, and return the UNet's inputs too."""
        # With mixing the padding affects the real frames, so it must be computed; without it, it is left out.
        needed = frames if self.mixes else frames[:real]
        before = self.recomputed_frames

        def attempt() -> Outputs:
            # Nothing of an attempt that failed counts.
            self.recomputed_frames = before
            if self._overflows is not None:
                self._overflows = []
            with self.computing():
                return self._compute_needed(needed, real, noise)

        # Compiled, batches are filled up.
        return self.batch.compute(attempt, self.config.frames.window if self.compiled else len(needed))

    def _compute_needed(self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise) -> Outputs:
        picture = pictures.to_pixels(frames, self.config.size, self.device)
        conditioning = self.condition(picture, real, noise)
        latent = self.latent(picture, real, noise)
        grain = self._sample(noise, "latent", latent.shape) if self.config.latent_noise else None
        features: dict[str, dict[TimestepLayer, Tensor]] = {}
        for name, request in self.requests.items():
            count = len(picture) if request.mixing else real
            # A request without mixing leaves out the padding, although another request of the same window needs it.
            inputs = Conditioning(
                conditioning.crossattn[:count], conditioning.concat[:count], conditioning.vector[:count]
            )
            features[name] = {}
            for timestep in request.timesteps:
                sigma = noise_level(self.config.schedule, timestep)
                # EDM's forward process is x + sigma n. As released the noise is left out (docs/deviations.md 3).
                noisy = latent if grain is None else latent + sigma * grain
                features[name] |= self.layer_means(noisy[:count], inputs, timestep, request)
        return Outputs(conditioning, latent, features)

    def explain_nonfinite(self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise) -> str:
        """Compute a window again; returns the first network that gave NaN or infinity, in the order of computing, else ""."""
        outputs = self.compute_outputs(frames, real, noise)
        conditioning, latent = outputs.conditioning, outputs.latent
        means = [(place, mean) for cells in outputs.features.values() for place, mean in cells.items()]
        bad = [place for place, mean in means if not mean.isfinite().all()]
        if not bad:
            return ""
        for name, value in (
            ("the image tower", conditioning.crossattn),
            ("the condition's VAE encoder", conditioning.concat),
            ("the VAE encoder", latent),
        ):
            if not value.isfinite().all():
                return name
        timestep, layer = min(bad, key=lambda place: (place[0], layer_depth(place[1])))
        return f"the UNet, at layer {layer} of timestep {timestep} or before"

    def condition(self, picture: Float[Tensor, "T 3 H W"], real: int, noise: Noise) -> Conditioning:
        """Compute the UNet's other inputs for each frame."""
        settings, networks, frames = self.config.conditioning, self.networks, len(picture)
        numbers = upload_constants(
            (settings.fps_id, settings.motion_bucket_id, settings.noise_augmentation), self.device
        )
        # sgm's order of embedders in the conditioner. Every frame gets the same numbers.
        vector = networks.vector(numbers)[None].repeat(frames, 1)
        if settings.source == "none":
            height, width = picture.shape[-2:]
            embedding = torch.zeros(frames, 1, self.config.architecture.unet.context_dim, device=self.device)
            return Conditioning(embedding, torch.zeros(frames, 4, height // 8, width // 8, device=self.device), vector)
        # N = number of texts: the cross-attention of every frame sees all class names, in no order.
        if self.text is not None:
            # A view: the same texts for every frame.
            crossattn = self.text[None].expand(frames, -1, -1)
        else:
            # The tower takes a window's frames at once: it resizes them, so they need little memory, and a batch of 25 takes a
            # quarter of the time of five batches of 5 on an H100.
            with autocast(self.config.precision, self.device):
                crossattn = self._repeating_black(networks.image_embeds, picture, real, len(picture)).float()[:, None]
        # Black frames differ in their noise, so the condition's VAE must encode each of them.
        noisy = picture + settings.noise_augmentation * self._sample(noise, "augmentation", picture.shape)
        return Conditioning(crossattn, self._in_batches(self._encode_condition, noisy, self.batch.size), vector)

    def latent(self, picture: Float[Tensor, "T 3 H W"], real: int, noise: Noise) -> Float[Tensor, "T 4 h w"]:
        """Sample the VAE's posterior, scaled."""
        moments = self._repeating_black(self._encode_moments, picture, real, self.batch.size)
        # The encoder's 8 channels are the posterior's moments: 4 of means, then 4 of log variances.
        mean, log_variance = moments.chunk(2, dim=1)
        # The clamp is sgm's (DiagonalGaussianDistribution).
        deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return LATENT_SCALE * (mean + deviation * self._sample(noise, "posterior", mean.shape))

    def _encode_moments(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 8 h w"]:
        return self._again_if_not_finite(self._encode(self.vae.moments, picture), self.networks.moments, picture)

    def _encode_condition(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T 4 h w"]:
        encoded = self._encode(self.vae.condition_latent, picture)
        return self._again_if_not_finite(encoded, self.networks.condition_latent, picture)

    def _encode(
        self, network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"]
    ) -> Float[Tensor, "T _ h w"]:
        # A program is compiled for one number of frames. Copies of the last one cost less than another program, or none.
        size = min(self.batch.size, self.config.frames.window)
        return network(fill_batch(picture, size) if self.compiled else picture)[: len(picture)]

    def _again_if_not_finite(
        self, encoded: Float[Tensor, "T _ h w"], network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"]
    ) -> Float[Tensor, "T _ h w"]:
        """In precision fast, encode pictures whose values are not finite again as published, and count them."""
        if self.config.precision != "fast":
            return encoded
        # An infinity that a convolution returns reaches the output: every later norm makes NaN of it.
        bad = ~encoded.isfinite().flatten(1).all(dim=1)
        if self._overflows is not None:
            self._overflows.append(bad.any())
            return encoded
        count = int(bad.sum())
        if count:
            encoded[bad] = network(picture[bad])
            self.recomputed_frames += count
        return encoded

    def _sample(self, noise: Noise, stream: Stream, shape: torch.Size) -> Tensor:
        return noise.sample(stream, tuple(shape), self.device)

    def _in_batches(
        self, network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"], batch: int
    ) -> Float[Tensor, "T ..."]:
        """Apply a network that treats every frame separately, to `batch` frames at a time."""
        return torch.cat([network(part) for part in torch.split(picture, batch)])

    def _repeating_black(
        self, network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"], real: int, batch: int
    ) -> Float[Tensor, "T ..."]:
        """Apply `network` to the real frames and to a single black frame, whose output serves as that of all black frames."""
        frames = len(picture)
        # The real frames and the first black one, if the window has any.
        out = self._in_batches(network, picture[: min(real + 1, frames)], batch)
        return torch.cat([out, out[-1:].expand(frames - len(out), *out.shape[1:])]) if len(out) < frames else out

    @contextmanager
    def keeping_maps(self) -> Iterator[dict[tuple[bool, TimestepLayer], Float[Tensor, "T C h w"]]]:
        """Keep the maps whose means are computed meanwhile in the dictionary it yields, by temporal mixing and place."""
        maps: dict[tuple[bool, TimestepLayer], Tensor] = {}
        self._maps = maps
        try:
            yield maps
        finally:
            self._maps = None

    def layer_means(
        self,
        latent: Float[Tensor, "T 4 h w"],
        conditioning: Conditioning,
        timestep: int,
        request: Request,
    ) -> dict[TimestepLayer, Float[Tensor, "T _"]]:
        """Compute the means of the layers that `request` has at `timestep`.

        As in the release no noise is added to the latent: a timestep only scales it and sets the UNet's time
        (docs/deviations.md 3).
        """
        sigma, layers = noise_level(self.config.schedule, timestep), request.layers(timestep)
        # 8 input channels: 4 of the scaled latent, 4 of the conditioning frame, which is not scaled.
        x = torch.cat([latent * input_scale(sigma), conditioning.concat], dim=1)
        count, context = len(x), conditioning.crossattn
        with autocast(self.config.precision, self.device):
            emb = self.networks.embedding(time_input(sigma), conditioning.vector)
            if self.compiled and self._maps is None:
                # Without mixing, frames do not affect each other, and a window has as many as are real.
                x, emb, context = (fill_batch(part, self.config.frames.window) for part in (x, emb, context))
                means = self._compiled_unet(request.mixing, frozenset(layers))(x, emb, context)
                ordered = sorted(layers, key=layer_depth)
                return {(timestep, layer): mean[:count] for layer, mean in zip(ordered, means, strict=True)}
            found: dict[TimestepLayer, Tensor] = {}
            for layer, output in _iterate_layers(self.networks, x, emb, context, request.mixing, layers):
                # The mean is taken in fp32 under autocast as well, as in the release.
                found[timestep, layer] = output.float().mean(dim=(2, 3))
                if self._maps is not None:
                    self._maps[request.mixing, (timestep, layer)] = output.float()
            return found

    def _compiled_unet(self, mixing: bool, layers: frozenset[Layer]) -> Compiled[..., list[Tensor]]:
        """Return the UNet's means of `layers` as one program; a timestep is an input of it."""
        networks = self.networks  # not self, which refers to the program: see CompiledEncoder

        def compute(x: Tensor, emb: Tensor, context: Tensor) -> list[Tensor]:
            return [y.float().mean(dim=(2, 3)) for _, y in _iterate_layers(networks, x, emb, context, mixing, layers)]

        if (mixing, layers) not in self._programs:
            self._programs[mixing, layers] = Compiled(compute, self._say, self._backend)
        return self._programs[mixing, layers]


def _iterate_layers(
    networks: Networks, x: Tensor, emb: Tensor, context: Tensor, mixing: bool, layers: Collection[Layer]
) -> Iterator[tuple[Layer, Float[Tensor, "T C _ _"]]]:
    """Yield `layers` with their outputs."""
    # By the order of computing: layers of the second half have names (up_1 to up_12) in place of numbers.
    last = max(layers, key=layer_depth)
    # The outputs are of a generator: layers after the last requested one are never computed.
    for layer, output in zip(SVD_LAYER_ORDER, networks.layers(x, emb, context, mixing), strict=False):
        if layer in layers:
            yield layer, output
        if layer == last:
            return
