"""Retro Diffusion: the diffusion models of 2015 to today as one small library.

One idea carries all of it. A network's output is a *pair* ``(x0_hat, eps_hat)`` with
``x_t = alpha_t x0_hat + sigma_t eps_hat``; score, v and velocity are linear in that pair, samplers
move along it, guidance averages such pairs. Read in this order: `schedules`, `parameterizations`,
`denoiser`, `losses`, `times`, `samplers`; then `oracles`, where every answer is known exactly.
"""

__version__ = "0.1.0"
