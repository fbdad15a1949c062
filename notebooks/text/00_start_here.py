# ---
# jupyter:
#   retro:
#     fast_seconds: 30
#     full_seconds: 90
#     shape: guide
# ---

# %% [markdown]
# # Start here
#
# This is a review of diffusion models that you can run. Each paper has a notebook: it states the
# question the paper answered, derives what it derived, trains or samples something small in front of
# you, and then puts the paper's claim beside our measurement. Nothing is downloaded, and two cores of
# a laptop are enough.
#
# This first notebook trains nothing at all. After it you will know the one idea that every method in
# the review is made of, and you will have drawn handwritten digits with a denoiser whose every answer
# is exact.

# %%
import math

import torch

from retro_diffusion import data, evaluation, notebook, oracles, parameterizations, plotting
from retro_diffusion import samplers, schedules, times

run = notebook.start(seed=0)

# %% [markdown]
# ## The question
#
# We have examples from some law $p(x)$, and want to draw new ones. Here are forty examples: images of
# 8 × 8 pixels, so points in a space of 64 dimensions, of which the law of handwritten digits occupies
# a vanishing, curled part. We can evaluate no formula for $p$. Drawing from a law that is known only by
# examples is the problem of generative modelling.

# %%
digits = data.digits()
print(
    f"{len(digits.x)} images of {tuple(digits.x.shape[1:])}, values in [-1, 1], "
    f"standard deviation {digits.x.std():.2f}"
)
notebook.show(
    plotting.sample_grid(digits.x[:40], n_cols=20),
    alt="Forty handwritten digits of 8 by 8 pixels, in two rows: zero to nine, four times.",
)

# %% [markdown]
# ## Destroying is easy
#
# Diffusion models start from an observation that sounds useless: noise is easy. Mix an image $x_0$ with
# Gaussian noise $\epsilon \sim \mathcal N(0, I)$,
#
# $$x_t = \alpha_t\, x_0 + \sigma_t\, \epsilon,$$
#
# and let the time $t$ turn the signal $\alpha_t$ down and the noise $\sigma_t$ up. At one end $x_t$ is
# the image, at the other it is noise that no longer depends on it, and *that* law we can draw from.
# The pair of functions $(\alpha_t, \sigma_t)$ is a **noise schedule**. Papers choose it differently,
# and it is the first column of the table that organises this review.

# %%
schedule = schedules.linear()  # DDPM's chain of 1,000 steps
shown = torch.tensor([1.0, 100, 200, 300, 400, 600, 800, 1000], dtype=torch.float64)
eps = torch.randn(6, 1, 8, 8, generator=run.generator())
x0 = digits.x[:6]
strip = [schedule.add_noise(x0, eps, t) for t in shown]
notebook.show(
    plotting.trajectory_strip(strip, times=shown),
    alt="Four digits, left to right with more and more noise: readable up to about t = 300, "
    "a hint of a shape at 400, pure noise from 800 on.",
)

# %% [markdown]
# Three schedules that we shall meet often: the linear betas of DDPM (2020), the cosine of Improved
# DDPM (2021), and the straight line of rectified flow (2022). What distinguishes them is how long each
# stays at which signal-to-noise ratio; the last panel shows its logarithm, $\lambda_t = \log(\alpha_t^2 /
# \sigma_t^2)$, which is the natural clock of all of them.

# %%
family = {
    "linear betas (DDPM)": schedule,
    "cosine (Improved DDPM)": schedules.cosine(),
    "straight line (rectified flow)": schedules.RectifiedFlow(),
}
notebook.show(
    plotting.schedule_plot(family),
    alt="Signal, noise and log signal-to-noise ratio over time for three schedules. The linear betas "
    "lose the signal earliest, the cosine keeps it longest in the middle.",
)

# %% [markdown]
# ## The one idea: a prediction is a pair
#
# Suppose a machine looks at $x_t$ and guesses the image that is hidden in it, $\hat x_0$. Then it has also
# guessed the noise, because $x_t$ is known and the mixture must add up:
#
# $$x_t = \alpha_t\, \hat x_0 + \sigma_t\, \hat\epsilon .$$
#
# So a prediction *is* a pair $(\hat x_0, \hat\epsilon)$, and whatever else the literature predicts is a
# linear function of it: the **score** $\nabla \log p_t(x_t) = -\hat\epsilon / \sigma_t$, Salimans and Ho's
# $v = \alpha_t \hat\epsilon - \sigma_t \hat x_0$, the **velocity** $\dot\alpha_t \hat x_0 + \dot\sigma_t
# \hat\epsilon$ of flow matching. Let us see that each of the five determines the other four.

# %%
t = torch.tensor(0.4, dtype=torch.float64)
path = schedules.RectifiedFlow()
clean, noise = torch.randn(2, 1000, 3, generator=run.generator(1), dtype=torch.float64)
x_t = path.add_noise(clean, noise, t)
kinds = {
    "eps": (parameterizations.predict_eps, noise),
    "x0": (parameterizations.predict_x0, clean),
    "v": (parameterizations.predict_v, path.alpha(t) * noise - path.sigma(t) * clean),
    "velocity": (parameterizations.predict_velocity, noise - clean),
    "score": (parameterizations.predict_score, -noise / path.sigma(t)),
}
worst = {}
for name, (parameterization, output) in kinds.items():
    pair = parameterizations.from_output(path, parameterization, x_t, output, t)
    worst[name] = max((pair.x0 - clean).abs().max(), (pair.eps - noise).abs().max()).item()
print({name: f"{error:.0e}" for name, error in worst.items()})
wrong_pair = parameterizations.from_output(path, parameterizations.predict_eps, x_t, -noise, t)
turned = float((wrong_pair.x0 - clean).abs().max())

# %% [markdown]
# ## Intuition: a denoiser whose answer is known
#
# Which guess is best? The one with the least squared error is the mean of all images that could have
# become $x_t$, weighted by how plausible each is: $\hat x_0 = \mathbb E[x_0 \mid x_t]$. In general it is
# out of reach, and papers train a network to approximate it. But for some laws it is a formula. Take
# the 1,797 digits themselves, each blurred by a little noise of standard deviation $h = 0.1$: a mixture
# of 1,797 Gaussians $\mathcal N(m_k, h^2 I)$. Given $x_t$, the posterior probability that digit $k$ is in it
# follows from Bayes' rule, and each digit's own best guess from the conditioning of Gaussians:
#
# $$r_k(x_t) \propto \mathcal N\big(x_t;\ \alpha_t m_k,\ v_t I\big), \qquad v_t = \alpha_t^2 h^2 + \sigma_t^2,
# \qquad \hat x_0 = \sum_k r_k(x_t)\Big(m_k + \frac{\alpha_t h^2}{v_t}\,(x_t - \alpha_t m_k)\Big).$$
#
# Below, in the first row, is what the denoiser sees, and in the second what it answers.

# %%
oracle = oracles.GaussianMixture(schedule, digits.x, stds=0.1, labels=digits.y)
one = digits.x[13:14]
seen = [schedule.add_noise(one, eps[:1], t) for t in shown]
guessed = [oracle(x, t).x0 for x, t in zip(seen, shown, strict=True)]
rows = [torch.cat(pair) for pair in zip(seen, guessed, strict=True)]
notebook.show(
    plotting.trajectory_strip(rows, times=shown),
    alt="Upper row: a three, ever noisier. Lower row: the exact guess. It stays a sharp three while the "
    "noise is moderate, and ends as the blurred average of all digits when nothing is left to see.",
)

# %% [markdown]
# With little noise the guess is sharp. With nothing but noise it is the average of all digits, a grey
# smear that is nobody's digit, and still the best answer that squared error can have. So one cannot
# generate by asking once. One has to ask often, and move a little each time.

# %% [markdown]
# ## A sampler is a walk
#
# Stand at noise level $t$ with the pair in hand. To get to a slightly lower level $s$, mix the *same
# pair* again, in the proportions of $s$:
#
# $$x_s = \alpha_s\, \hat x_0 + \sigma_s\, \hat\epsilon .$$
#
# That is the forward process applied to the prediction. It is DDIM (Song et al. 2020,
# arXiv:2010.02502, equation 12 without noise), and it is a sampler in four lines.


# %%
def walk(denoiser, x, grid):
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        x0_hat, eps_hat, _ = denoiser(x, t)
        x = schedule.alpha(s) * x0_hat + schedule.sigma(s) * eps_hat
    return x


start = torch.randn(60, 1, 8, 8, generator=run.generator(2))
grid = times.trailing(schedule, 50)
drawn = walk(oracle, start, grid)
assert torch.equal(drawn, samplers.last(samplers.ddim(oracle, start, grid)))

# %% [markdown]
# Nothing was trained, and there they are: sixty digits out of pure noise. The library's `ddim` did the
# same to the last bit. It is a generator that yields each state on the way, so the walks can be drawn as
# well.

# %%
notebook.show(
    plotting.sample_grid(drawn, n_cols=20),
    alt="Sixty clean handwritten digits drawn from noise with the exact denoiser.",
)

# %%
states = list(samplers.ddim(oracle, start[:6], grid))
chosen = [states[i] for i in (0, 14, 24, 29, 34, 39, 44, 49)]
notebook.show(
    plotting.trajectory_strip([s.x for s in chosen], times=[s.t for s in chosen]),
    alt="Four walks from noise to a digit, left to right. The shape appears in the last third of the walk.",
)

# %% [markdown]
# ### What exactly did we draw?
#
# Look closer before being impressed. The law behind this denoiser is the training set with a blur, so
# the walk returns training digits with a blur. A draw from that law lies $h \sqrt{64} = 0.8$ from its digit;
# our samples lie nearer still, since a walk of twenty steps is too coarse at its end to put all of the
# blur back. A perfect denoiser of a finite data set does not create; it remembers. Whatever trained
# networks generate beyond that they owe to *not* reaching this optimum, and we shall meet the question
# again in every notebook that trains one.

# %%
n = 1000
many = torch.randn(n, 1, 8, 8, generator=run.generator(3))
sample = samplers.last(samplers.ddim(oracle, many, times.trailing(schedule, 20)))
nearest = evaluation.nn_distance(sample, digits.x)
real = oracle.sample(n, run.generator(4)).float()
nearest_real = evaluation.nn_distance(real, digits.x)
print(
    f"mean distance to the nearest training digit: samples {nearest.mean():.2f}, "
    f"draws from the true law {nearest_real.mean():.2f}"
)

# %% [markdown]
# ## Experiment: how many steps?
#
# The walk is a numerical method, and the number of denoiser calls (**NFE**, number of function
# evaluations) is its cost. How few will do? We compare the deterministic walk with DDPM's ancestral
# sampler, which adds fresh noise after every step, by the Fréchet distance between Gaussian fits in the
# first twenty principal components, against a reference of 20,000 draws. Any metric on finite samples is
# positive even for two draws from the same law; that **floor** is measured too, and below it there is
# nothing to see.
#
# The band is fixed before looking: Song et al. report that at ten steps the deterministic sampler is
# far ahead (their Table 1, CIFAR-10: FID 13.36 against 41.07). We ask for at most 0.6 times the
# stochastic one's distance, for every seed.

# %%
features = evaluation.pca_features(digits.x, k=20)
reference = features(oracle.sample(20_000, run.generator(5)).float())
steps = run.pick(fast=[5, 10], full=[2, 5, 10, 20, 50])
seeds = range(run.pick(fast=2, full=3))


def distance(eta, n_steps, seed):
    noise = torch.randn(n, 1, 8, 8, generator=run.generator(100 + seed))
    grid = times.trailing(schedule, n_steps)
    generator = run.generator(200 + seed)
    x = samplers.last(samplers.ddim(oracle, noise, grid, eta=eta, generator=generator))
    return evaluation.frechet_distance(features(x), reference)


curves = {
    eta: torch.tensor([[distance(eta, s, k) for k in seeds] for s in steps]) for eta in (0.0, 1.0)
}
floor = [
    evaluation.frechet_distance(
        features(oracle.sample(n, run.generator(300 + k)).float()), reference
    )
    for k in seeds
]

# %%
fig = plotting.error_against_steps(
    {
        "deterministic (eta = 0)": (steps, curves[0.0].mean(1).tolist()),
        "ancestral (eta = 1)": (steps, curves[1.0].mean(1).tolist()),
    },
    floor=(min(floor), max(floor)),
    ylabel="Fréchet distance",
)
notebook.show(
    fig,
    alt="Frechet distance against number of steps on logarithmic axes. The deterministic sampler "
    "reaches the floor at ten to twenty steps, the ancestral one needs about fifty.",
)

# %% [markdown]
# ## Break it
#
# An error should be visible. The commonest one in practice is to tell the denoiser the wrong time; let
# us tell it times that are a fifth too low, so that it believes there is less noise than there is.


# %%
class WrongTime:
    schedule = schedule

    def __call__(self, x, t, cond=None):
        return oracle(x, (0.8 * t).clamp(min=1.0))


broken = samplers.last(samplers.ddim(WrongTime(), many, times.trailing(schedule, 20)))
broken_distance = evaluation.frechet_distance(features(broken), reference)
at_ten = samplers.last(samplers.ddim(WrongTime(), many, times.trailing(schedule, 10)))
broken_at_ten = evaluation.frechet_distance(features(at_ten), reference)
right_distance = evaluation.frechet_distance(features(sample), reference)
print(
    f"Fréchet distance at 20 steps: {right_distance:.2f} right, {broken_distance:.2f} with wrong times"
)
notebook.show(
    plotting.sample_grid(broken[:20].clamp(-1, 1), n_cols=20),
    alt="Twenty samples with wrong times: noisy, broken digits.",
)

# %% [markdown]
# ## Claim check
#
# Every notebook ends with such a table. **EXACT** claims have closed forms. **ROBUST** ones are random,
# but the effect is large: both kinds are checked whenever the project is tested. **FRAGILE** ones may not
# survive the step from a data centre to a laptop; there the verdict is printed as it falls. Each check is
# also given something broken on purpose, its control, and must notice.


# %%
def prior_bits(chain):
    """KL(q(x_T | x_0) || N(0, I)) of the digits, bits per dimension."""
    end = torch.tensor(float(chain.n_timesteps), dtype=torch.float64)
    alpha, sigma = float(chain.alpha(end)), float(chain.sigma(end))
    square = float(digits.x.square().mean())
    return (alpha**2 * square + sigma**2 - 1 - 2 * math.log(sigma)) / (2 * math.log(2))


ten = steps.index(10)
ratio = curves[0.0][ten] / curves[1.0][ten]
wrong_ratio = broken_at_ten / curves[1.0][ten]
half = schedules.TabulatedSchedule(schedule.betas[:500])
claims = [
    notebook.Claim(
        key="one-prediction",
        statement="Predicting eps, x0, v, velocity or score is one and the same prediction",
        paper="algebra",
        source="Salimans and Ho 2022, arXiv:2202.00512; Lipman et al. 2023, arXiv:2210.02747",
        experiment="1,000 random pairs on the straight line at t = 0.4, float64",
        ours=f"largest round-trip error {max(worst.values()):.0e}",
        band="below 1e-10",
        seeds=1,
        control=f"sign of eps turned: error {turned:.1f}",
        control_failed=turned >= 1e-10,
        grade="EXACT",
        passed=max(worst.values()) < 1e-10,
    ),
    notebook.Claim(
        key="chain-ends-in-noise",
        statement="DDPM's chain ends in noise: the prior costs about 1e-5 bits per dimension",
        paper="KL(q(x_T | x_0) || N(0, I)) about 1e-5 bits per dimension, CIFAR-10",
        source="section 4, arXiv:2006.11239",
        experiment="closed form on the 1,797 digits, linear betas, T = 1000",
        ours=f"{prior_bits(schedule):.1e} bits per dimension",
        band="below 1e-4",
        seeds=0,
        control=f"the same betas cut off after 500 steps: {prior_bits(half):.1e}",
        control_failed=prior_bits(half) >= 1e-4,
        grade="EXACT",
        passed=prior_bits(schedule) < 1e-4,
    ),
    notebook.Claim(
        key="few-steps",
        statement="At ten steps the deterministic sampler beats the stochastic one",
        paper="FID 13.36 against 41.07, CIFAR-10, 10 steps",
        source="Table 1, arXiv:2010.02502",
        experiment=f"exact denoiser of the digits, {n:,} samples, ten trailing steps",
        ours=f"Fréchet ratio {notebook.mean_interval(ratio.tolist()):.2f}",
        band="at most 0.6 for every seed",
        seeds=len(seeds),
        control=f"deterministic with wrong times: {float(wrong_ratio.max()):.2f}",
        control_failed=not bool((wrong_ratio <= 0.6).all()),
        grade="ROBUST",
        passed=bool((ratio <= 0.6).all()),
        note="Ours has no network: what is compared is the samplers alone.",
    ),
]
notebook.check(claims)
notebook.claims_table(claims)

# %% [markdown]
# ## How to read on
#
# The spine of the review is one table. A continuous-state paper is a choice per column: which path, what
# the network predicts, how errors are weighted, which walk.
#
# | paper | $(\alpha_t, \sigma_t)$ | the network predicts | weight of the error | sampler | notebook |
# |---|---|---|---|---|---|
# | VAE, one step (2013) | – | decoder mean | evidence lower bound | one draw | `01_basics_gaussians_vae_elbo` |
# | Diffusion probabilistic models (2015) | $\sqrt{\bar\alpha_t}$, $\sqrt{1-\bar\alpha_t}$ | mean and variance of a step | the bound | ancestral | `02_2015_dpm` |
# | DDPM (2020) | the same, linear betas | $\epsilon$ | 1 ("simple") | ancestral | `05_2020_ddpm` |
# | NCSN (2019) | $1$, $\sigma_t$ geometric | score, scaled by $\sigma_t$ | 1 on $\hat\epsilon$ | annealed Langevin | `03_2019_ncsn` |
# | DDIM (2020) | any | any | – | the walk above | `06_2020_ddim`, `two_gaussians` |
# | Score SDE (2021) | VP, VE, sub-VP, continuous | score | 1 on $\hat\epsilon$, or the bound's | SDE, predictor-corrector, ODE | `07_2020_score_sde` |
# | Improved DDPM (2021) | cosine | $\epsilon$ and the variance | simple and $\frac{1}{1000}$ of the bound | ancestral, fewer steps | `08_2021_improved_ddpm` |
# | VDM (2021) | learnt | $\epsilon$ | the bound | ancestral | `11_2021_vdm` |
# | EDM (2022) | $1$, $t$ | $F$, preconditioned $x_0$ | one per level, in units of $F$ | Heun | `16_2022_edm` |
# | DPM-Solver++ (2022) | any | any | – | multistep in $\lambda$ | `18_2022_dpm_solver_pp` |
#
# Flows, guidance, text, few-step and discrete models come in later chapters; their numbers are kept free.
# All samplers meet on one board, `sampler_board`. If a symbol is new, it is this notation
# everywhere: $\bar\alpha_t$ is the product that DDPM writes so, `alphas_cumprod` in code, and
# $\alpha_t = \sqrt{\bar\alpha_t}$; $\lambda_t = \log(\alpha_t^2/\sigma_t^2)$ is the log signal-to-noise ratio.
#
# Cells are short on purpose: change them. Each notebook takes `run.pick(fast=..., full=...)`; the fast
# profile is what the tests execute, and what you see stored is the full one.

# %% [markdown]
# ## Exercises
#
# 1. **The last step.** Why does `walk` end exactly at $\hat x_0$ of its last evaluation?
#
# <details><summary>Solution</summary>
#
# The grid ends at $t = 0$, where $\alpha_0 = 1$ and $\sigma_0 = 0$; the last mixture is $1 \cdot \hat x_0 +
# 0 \cdot \hat\epsilon$. A grid that stops short of 0 would leave noise of $\sigma_s$ in the sample.
#
# </details>
#
# 2. **Only sevens.** The oracle knows its labels. Draw twenty sevens.
#
# <details><summary>Solution</summary>
#
# ```python
# seven = torch.full((20,), 7)
# x = samplers.last(samplers.ddim(oracle, start[:20], grid, seven))
# plotting.sample_grid(x, n_cols=20)
# ```
#
# Conditioning just restricts the sum over $k$ to the sevens. No other line changes.
#
# </details>
#
# 3. **A better average.** Ask the oracle once, at $t = T$, and draw the answer for twenty different noises.
#    Are they different? What would a perceptual judge say of the squared-error optimum?
#
# <details><summary>Solution</summary>
#
# ```python
# end = torch.tensor(1000.0, dtype=torch.float64)
# plotting.sample_grid(oracle(start[:20], end).x0, n_cols=20)
# ```
#
# All are the same smear: $x_T$ holds next to no information on $x_0$, and the mean of the posterior is the
# mean of the data. It has the least squared error of all answers and is the worst sample of all.
#
# </details>
#
# 4. **How exact is exact?** Set `stds=0.0` and repeat the nearest-neighbour measurement.
#
# <details><summary>Solution</summary>
#
# ```python
# memory = oracles.GaussianMixture(schedule, digits.x, stds=0.0)
# x = samplers.last(samplers.ddim(memory, start, grid))
# evaluation.nn_distance(x, digits.x).max()
# ```
#
# Almost every sample now *is* a training digit: the law is the data set itself.
#
# </details>

# %% [markdown]
# ## What came next
#
# The formulas above are the end of the story, not its beginning. In 2015 nobody had the pair; there was
# a bound on the likelihood, taken over from variational autoencoders. Notebook `01_basics_gaussians_vae_elbo`
# builds that bound from Gaussians up, and `02_2015_dpm` stretches it over many steps.

# %%
run.finish()
