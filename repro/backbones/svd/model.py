"""One window of frames through a frozen Stable Video Diffusion, to features.

Legend: T frames of the window, H W pixels, h w latent pixels (an eighth), C channels of a layer.
Source for every step: the release's generate_svd_maps.py and sgm, as read in its configs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.backbones.config import SvdConfig
from repro.backbones.noise import Noise
from repro.backbones.svd import pictures, schedule
from repro.backbones.svd.modules import Block, SvdModules
from repro.errors import UsageError

LATENT_SCALE = 0.18215
"""Of the sampled latent; the condition's latent is not scaled."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the UNet is told beside the latent; every frame conditions itself."""

    crossattn: Float[Tensor, "T 1 D"]
    """Image embedding of the clean frame."""
    concat: Float[Tensor, "T 4 h w"]
    """Latent (mode, unscaled) of the frame with a little noise."""
    vector: Float[Tensor, "T V"]
    """Sinusoids of fps id, motion bucket id and noise augmentation, in this order."""


class SvdModel:
    """A frozen SVD.

    Args:
        timesteps: indices into the noise schedule.
        layers: 1 to 13; none behind the largest is computed.
    """

    def __init__(self, config: SvdConfig, modules: SvdModules, timesteps: Sequence[int], layers: Sequence[int]) -> None:
        steps = config.schedule.steps
        wrong = [t for t in timesteps if not 0 <= t < steps]
        if wrong:
            raise UsageError(f"timestep {wrong[0]} does not exist: {config.title} has timesteps 0 to {steps - 1}")
        self.config, self.modules = config, modules
        self.timesteps, self.layers = tuple(timesteps), tuple(layers)

    @torch.inference_mode()
    def window(
        self, frames: UInt8[np.ndarray, "T a b 3"], real: int, noise: Noise
    ) -> dict[tuple[int, int], Float[Tensor, "T C"]]:
        """Spatial mean of every (timestep, layer) asked for, of all T frames; those from `real` on are black.

        One pass of VAE and image tower serves all timesteps. Only the conditional half of the release's doubled batch
        is computed: the halves do not mix, and it throws the other away.
        """
        picture = pictures.pixels(frames, self.config.size)
        conditioning = self.condition(picture, real, noise)
        latent = self.latent(picture, real, noise)
        features = {}
        for timestep in self.timesteps:
            level = schedule.sigma(self.config.schedule, timestep)
            for layer, mean in self._unet(latent, conditioning, level).items():
                features[(timestep, layer)] = mean
        return features

    @torch.inference_mode()
    def condition(self, picture: Float[Tensor, "T 3 H W"], real: int, noise: Noise) -> Conditioning:
        """What the UNet is told of each frame. Black frames differ in their noise, so all are encoded."""
        settings, modules = self.config.conditioning, self.modules
        embeds = self._repeating_black(self._embed, picture, real)
        grain = torch.from_numpy(noise.draw("augmentation", tuple(picture.shape)))
        noisy = picture + settings.noise_augmentation * grain
        concat = modules.condition_vae.quant_conv(modules.condition_vae.encoder(noisy))[:, :4]
        numbers = torch.tensor([settings.fps_id, settings.motion_bucket_id, settings.noise_augmentation])
        vector = modules.unet.add_time_proj(numbers).reshape(1, -1).repeat(len(picture), 1)
        return Conditioning(embeds[:, None], concat, vector)

    @torch.inference_mode()
    def latent(self, picture: Float[Tensor, "T 3 H W"], real: int, noise: Noise) -> Float[Tensor, "T 4 h w"]:
        """A sample of the VAE's posterior, scaled."""
        moments = self._repeating_black(self.modules.latent_vae.encoder, picture, real)
        mean, log_variance = moments.chunk(2, dim=1)
        deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return LATENT_SCALE * (mean + deviation * torch.from_numpy(noise.draw("posterior", tuple(mean.shape))))

    def _embed(self, picture: Float[Tensor, "T 3 H W"]) -> Float[Tensor, "T D"]:
        side = self.config.architecture.image_tower.image
        embeds: Tensor = self.modules.image_tower(pixel_values=pictures.image_tower_input(picture, side)).image_embeds
        return embeds

    @staticmethod
    def _repeating_black(
        network: Callable[[Tensor], Tensor], picture: Float[Tensor, "T 3 H W"], real: int
    ) -> Float[Tensor, "T ..."]:
        """`network`, which treats each frame by itself, of the real frames and of one black frame for all the others."""
        frames = len(picture)
        out = network(picture[: min(real + 1, frames)])
        return torch.cat([out, out[-1:].expand(frames - len(out), *out.shape[1:])]) if len(out) < frames else out

    def _unet(
        self, latent: Float[Tensor, "T 4 h w"], conditioning: Conditioning, level: float
    ) -> Mapping[int, Float[Tensor, "T C"]]:
        """Layer means at noise level `level`.

        No noise is added to the latent, as released: a timestep only scales the latent and sets the UNet's time
        (docs/deviations.md 3).
        """
        unet, frames = self.modules.unet, len(latent)
        x = torch.cat([latent * schedule.c_in(level), conditioning.concat], dim=1)
        time = torch.full((frames,), schedule.c_noise(level))
        emb = unet.time_embedding(unet.time_proj(time)) + unet.add_embedding(conditioning.vector)
        # 1 has every temporal branch weighted 0, bit for bit what the release's fixed mix factor of 1 gives.
        indicator = torch.full((1, frames), 1.0 if self.config.temporal_mixing == "off" else 0.0)
        means = {}
        for layer, block in enumerate(self.modules.blocks, start=1):
            x = _run(block, x, emb, conditioning.crossattn, indicator)
            if layer in self.layers:
                means[layer] = x.mean(dim=(2, 3))
        return means


def _run(block: Block, x: Tensor, emb: Tensor, context: Tensor, indicator: Tensor) -> Tensor:
    """diffusers' own forward takes one context a video and repeats it; here each frame has its own."""
    for part in block.parts:
        kind = type(part).__name__
        if kind == "SpatioTemporalResBlock":
            x = part(x, emb, image_only_indicator=indicator)
        elif kind == "TransformerSpatioTemporalModel":
            x = part(x, encoder_hidden_states=context, image_only_indicator=indicator, return_dict=False)[0]
        else:
            x = part(x)
    return x
