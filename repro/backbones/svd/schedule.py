"""Noise levels and the scalings of the noisy latent."""

import math

from repro.backbones.svd.config import SvdSchedule


def sigma(schedule: SvdSchedule, timestep: int) -> float:
    """Noise level of a timestep, 0 the noisiest (Karras et al. 2022, eq. 5; sgm's EDMDiscretization)."""
    share = timestep / (schedule.steps - 1) if schedule.steps > 1 else 0.0
    high, low = schedule.sigma_max ** (1 / schedule.rho), schedule.sigma_min ** (1 / schedule.rho)
    return float((high + share * (low - high)) ** schedule.rho)


def c_in(level: float) -> float:
    """Factor on the latent before the UNet (sgm's VScalingWithEDMcNoise)."""
    return 1 / math.sqrt(level**2 + 1)


def c_noise(level: float) -> float:
    """What the UNet takes for its time (sgm's VScalingWithEDMcNoise)."""
    return 0.25 * math.log(level)
