"""A window as the release computes it, nothing left out: what the fast path is compared with, in result and in cost.

Per timestep: the VAE three times (latent, condition, and the condition again for the unconditional half, which is then
zeroed), the image tower twice, the whole UNet on the doubled batch, of which the second half is kept. Padding is computed
like any frame, temporal branches whether they count or not.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.backbones.noise import Noise
from repro.backbones.precision import autocast, fp32_products
from repro.backbones.svd import pictures, schedule
from repro.backbones.svd.config import SVD_LAYERS, SvdConfig, depth
from repro.backbones.svd.model import LATENT_SCALE, Place, Request, refuse_unfit
from repro.backbones.svd.networks import Needs, Networks

NEEDS = Needs(SVD_LAYERS, whole=True)


@torch.inference_mode()
def plain_window(
    config: SvdConfig, networks: Networks, request: Request, frames: UInt8[np.ndarray, "T a b 3"], noise: Noise,
    device: str = "cpu", text: Float[Tensor, "N D"] | None = None,
) -> dict[Place, Tensor]:  # fmt: skip
    """Spatial means `[T, C]` of every place of `request`, of all frames. `networks` must hold all that NEEDS names."""
    refuse_unfit(config, text)
    place, settings, count = torch.device(device), config.conditioning, len(frames)
    features: dict[Place, Tensor] = {}
    with fp32_products(config.precision):
        for timestep in request.timesteps:
            picture = pictures.pixels(frames, config.size, place)
            grain = torch.from_numpy(noise.draw("augmentation", tuple(picture.shape))).to(place)
            noisy = picture + settings.noise_augmentation * grain
            numbers = torch.tensor(
                [settings.fps_id, settings.motion_bucket_id, settings.noise_augmentation], device=place
            )
            vector = networks.vector(numbers)[None].repeat(2 * count, 1)
            halves = []
            for weight in (0.0, 1.0):  # unconditional, conditional
                with autocast(config.precision, place):
                    embeds = networks.image_embeds(picture).float()
                halves.append((weight * embeds[:, None], weight * networks.condition_latent(noisy)))
            crossattn, concat = (torch.cat(parts) for parts in zip(*halves, strict=True))
            if text is not None:  # the unconditional half's is that of "", and counts for nothing
                crossattn = text.to(place).expand(2 * count, -1, -1)
            if settings.source == "none":
                crossattn, concat = torch.zeros_like(crossattn), torch.zeros_like(concat)
            mean, log_variance = networks.moments(picture).chunk(2, dim=1)
            grain = torch.from_numpy(noise.draw("posterior", tuple(mean.shape))).to(place)
            latent = LATENT_SCALE * (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * grain)
            level = schedule.sigma(config.schedule, timestep)
            if config.latent_noise:
                latent = latent + level * torch.from_numpy(noise.draw("latent", tuple(latent.shape))).to(place)
            x = torch.cat([torch.cat([latent, latent]) * schedule.c_in(level), concat], dim=1)
            with autocast(config.precision, place):
                outputs = networks.published_forward(
                    x, schedule.c_noise(level), crossattn, vector, count, request.mixing
                )
            for layer in request.layers(timestep):
                features[(timestep, layer)] = outputs[depth(layer) - 1][count:].float().mean(dim=(2, 3))
    return features
