"""Samplers: from noise to data, one short generator function each, all with one call.

``sampler(denoiser, x, times, cond, ..., generator=...)`` yields a `State` after every step, so
``last(ddim(...))`` is the sample, ``list(ddim(...))`` the trajectory for a plot and
``tqdm(ddim(...))`` the progress bar. Those without randomness take no ``generator``.
"""

from retro_diffusion.samplers.ancestral import ancestral
from retro_diffusion.samplers.ddim import ddim, ddim_inversion, ddim_step
from retro_diffusion.samplers.dpm_solver import (
    dpm_solver_pp_2m,
    dpm_solver_pp_2s,
    dpm_solver_pp_3m,
    dpm_solver_step,
    unipc,
)
from retro_diffusion.samplers.edm import edm_stochastic
from retro_diffusion.samplers.langevin import (
    annealed_langevin,
    langevin_step,
    released_langevin_step,
)
from retro_diffusion.samplers.ode import adaptive, euler, heun
from retro_diffusion.samplers.sde import (
    corrector_step,
    euler_maruyama,
    euler_maruyama_step,
    predictor_corrector,
    reverse_diffusion_step,
)
from retro_diffusion.samplers.state import State, last, sampler, starting_noise

__all__ = [
    "State",
    "adaptive",
    "ancestral",
    "annealed_langevin",
    "corrector_step",
    "ddim",
    "ddim_inversion",
    "ddim_step",
    "dpm_solver_pp_2m",
    "dpm_solver_pp_2s",
    "dpm_solver_pp_3m",
    "dpm_solver_step",
    "edm_stochastic",
    "euler",
    "euler_maruyama",
    "euler_maruyama_step",
    "heun",
    "langevin_step",
    "last",
    "predictor_corrector",
    "released_langevin_step",
    "reverse_diffusion_step",
    "sampler",
    "starting_noise",
    "unipc",
]
