"""One window computed exactly as the release does: the fast path (model.py) is compared with it, in result and in cost.

Per timestep: the VAE three times (latent, condition, and the condition again for the unconditional half, which is then
zeroed), the image tower twice, the complete UNet on the doubled batch, of which the second half is kept. Padding is computed
like any frame, and temporal branches even if their weight is 0.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from repro.backbones.extractor import Noise
from repro.backbones.precision import autocast, fp32_products
from repro.backbones.svd import pictures
from repro.backbones.svd.config import SVD_LAYERS, SvdConfig, layer_depth
from repro.backbones.svd.model import (
    LATENT_SCALE,
    Request,
    TimestepLayer,
    check_text,
    input_scale,
    noise_level,
    time_input,
)
from repro.backbones.svd.networks import Needs, Networks
from repro.backbones.svd.vae import with_rewritten_vae

NEEDS = Needs(SVD_LAYERS, complete=True)


@torch.inference_mode()
def compute_plain_window(
    config: SvdConfig, networks: Networks, request: Request, frames: UInt8[np.ndarray, "T a b 3"], noise: Noise,
    device: str = "cpu", text: Float[Tensor, "N D"] | None = None,
) -> dict[TimestepLayer, Tensor]:  # fmt: skip
    """Compute the spatial means of each timestep and layer of `request`, of all frames.

    Args:
        config: Its temporal_mixing is not read: `request` says whether temporal branches are mixed in.
        networks: Loaded with all that NEEDS names.
        request: The timesteps and layers.
        frames: A window at the video's size.
        noise: The window's noise, the same as for the fast path.
        device: Where `networks` are.
        text: Text embeddings, if `config` conditions on texts.

    Returns:
        fp32 `[T, C]` by timestep and layer.

    Raises:
        UsageError: `text` is missing, or its width is not the one the UNet takes.
    """
    check_text(config, text)
    where, settings, count = torch.device(device), config.conditioning, len(frames)
    vae = with_rewritten_vae(networks, half=True, compiled=False) if config.precision == "fast" else networks
    features: dict[TimestepLayer, Tensor] = {}
    with fp32_products(config.precision):
        for timestep in request.timesteps:
            # Everything again for each timestep, as the release's loop does.
            picture = pictures.to_pixels(frames, config.size, where)
            grain = noise.sample("augmentation", tuple(picture.shape), where)
            noisy = picture + settings.noise_augmentation * grain
            numbers = torch.tensor(
                [settings.fps_id, settings.motion_bucket_id, settings.noise_augmentation], device=where
            )
            vector = networks.vector(numbers)[None].repeat(2 * count, 1)
            halves = []
            for weight in (0.0, 1.0):  # unconditional, conditional
                with autocast(config.precision, where):
                    embeds = networks.image_embeds(picture).float()
                # Computed and then multiplied by 0, as sgm does for the unconditional half.
                halves.append((weight * embeds[:, None], weight * vae.condition_latent(noisy)))
            # sgm's guider stacks the halves: unconditional first.
            crossattn, concat = (torch.cat(parts) for parts in zip(*halves, strict=True))
            if text is not None:  # the unconditional half is dropped, so its text does not matter
                crossattn = text.to(where).expand(2 * count, -1, -1)
            if settings.source == "none":
                crossattn, concat = torch.zeros_like(crossattn), torch.zeros_like(concat)
            # The same noise as in the fast path, so that the two can be compared.
            mean, log_variance = vae.moments(picture).chunk(2, dim=1)
            grain = noise.sample("posterior", tuple(mean.shape), where)
            latent = LATENT_SCALE * (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * grain)
            sigma = noise_level(config.schedule, timestep)
            if config.latent_noise:
                latent = latent + sigma * noise.sample("latent", tuple(latent.shape), where)
            x = torch.cat([torch.cat([latent, latent]) * input_scale(sigma), concat], dim=1)
            with autocast(config.precision, where):
                # All layers, also those that `request` does not name: what the release computes is what is timed.
                outputs = networks.published_forward(x, time_input(sigma), crossattn, vector, count, request.mixing)
            for layer in request.layers(timestep):
                # [count:] is the conditional half.
                features[(timestep, layer)] = outputs[layer_depth(layer) - 1][count:].float().mean(dim=(2, 3))
    return features
