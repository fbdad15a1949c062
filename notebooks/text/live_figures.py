# ---
# jupyter:
#   retro:
#     fast_seconds: 20
#     full_seconds: 20
#     shape: guide
# ---

# %% [markdown]
# # Live figures
#
# The survey post has figures that you can move. They are here too, one after the other, with room to
# play: the same script, the same exact denoisers. Each asks you to predict before you try, which is the
# better half of the exercise. In a saved notebook a live figure sleeps: run its cell to wake it.

# %%
import torch

from retro_diffusion import live, notebook, schedules

run = notebook.start(seed=0)

# %% [markdown]
# ## The question
#
# What does a diffusion model do between noise and data, at every moment, and what would change if one
# knob were turned? All laws below are mixtures of Gaussians, so that the denoiser, the score and the
# density are formulas (`retro_diffusion.oracles`), and what you see is the method, not a network's
# mistakes. The one exception is the last figure.
#
# ## Forward: what noise erases, and when
#
# One draw of $x_t = \alpha_t x_0 + \sigma_t \epsilon$ per point, with the same $\epsilon$ at all times. Four
# paths pass through the same levels of log-SNR at different times.

# %%
live.figure("forward-process")

# %% [markdown]
# The numbers under the figure are the library's, which a cell can say as well.

# %%
path = schedules.LinearVP()
t = torch.tensor(0.2, dtype=torch.float64)
print(
    f"linear VP at t = {t:.1f}: alpha {path.alpha(t):.3f}, sigma {path.sigma(t):.3f}, "
    f"log-SNR {path.logsnr(t):.2f}"
)
torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.tensor(1.0).double())

# %% [markdown]
# ## A schedule of your own
#
# The log-SNR falls from one end to the other as a power of time. Which schedule would you give to images
# four times as large?

# %%
live.figure("schedule-designer")

# %% [markdown]
# ## Follow the score
#
# Langevin dynamics knows only the gradient of the log-density, in which the weights of far-apart modes
# do not appear. Drop particles with a click (or with arrow keys and Enter), and run.

# %%
live.figure("score-field")

# %% [markdown]
# ## Two samplers, one price
#
# From the same noise, with the same number of evaluations of the same exact denoiser. The distance is
# the energy distance to fresh data, in units of that between two draws of the data.

# %%
live.figure("sampler-lab", nfe=12, law="spiral")

# %% [markdown]
# ## Two ways through the same film
#
# The probability-flow ODE and the reverse SDE have the same law at every time and walk quite
# differently.

# %%
live.figure("sde-ode")

# %% [markdown]
# ## What a network believes
#
# Here the denoiser is a small network, trained for a minute on digits; its walks were computed
# beforehand (`bazel run //tools/figures:live_digits`).

# %%
live.figure("x0-hat")

# %% [markdown]
# ## Exercises
#
# **1.** In the sampler laboratory, give DDIM and ancestral sampling 10, 30 and 100 evaluations. How does
# each distance fall? Which of them ends at one floor, and why does the other fall so slowly?
#
# <details><summary>Solution</summary>
#
# DDIM is a solver of first order for an ODE: its error falls about as one over the number of steps until
# the floor hides it. Ancestral sampling with the lower variance is also of first order in law, with a
# larger constant, and its own noise adds to what is left at the end. Notebook `two_gaussians` measures
# both in closed form.
#
# </details>
#
# **2.** Choose class 0 of the two moons and raise the guidance scale from 1 to 4 in the laboratory. The
# denoisers are exact. Do the samples follow the class's law?
#
# <details><summary>Solution</summary>
#
# At scale 1 they do. Above it they do not: they gather where class 0 is most probable *given* the point,
# away from the other moon, and the distance grows. The guided field is not the score of any noised law,
# so that no sampler can repair it.
#
# </details>
#
# ## What comes next
#
# `00_start_here` builds the same things from the library in a few lines, and the notebooks of the papers
# measure what these figures show.

# %%
run.finish()
