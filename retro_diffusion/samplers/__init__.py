"""Samplers: from noise to data, one short generator function each, all with one call.

``sampler(denoiser, x, times, cond, ..., generator=...)`` yields a `State` after every step, so
``last(ddim(...))`` is the sample, ``list(ddim(...))`` the trajectory for a plot and
``tqdm(ddim(...))`` the progress bar.
"""

from retro_diffusion.samplers.ancestral import ancestral
from retro_diffusion.samplers.ddim import ddim, ddim_step
from retro_diffusion.samplers.state import State, last, starting_noise

__all__ = [
    "State",
    "ancestral",
    "ddim",
    "ddim_step",
    "last",
    "starting_noise",
]
