# ---
# jupyter:
#   retro:
#     fast_seconds: 30
#     full_seconds: 150
#     shape: paper
#     paper: "Kingma, Salimans, Poole and Ho 2021"
#     arxiv: "2107.00630"
# ---

# %% [markdown]
# # VDM: the schedule that does not matter
#
# Kingma, Salimans, Poole and Ho 2021 (arXiv:2107.00630) read a diffusion model as what it was in 2015, a
# latent-variable model, and asked what its likelihood depends on. After this notebook you will be able to
# show in four lines that the continuous-time bound does not depend on the noise schedule between its
# ends, you will have checked it to six digits, and you will know what the schedule *is* good for: the
# variance of the estimate, which a small monotone network can learn to reduce.

# %%
import math

import torch
from matplotlib import pyplot as plt

from retro_diffusion import data, losses, notebook, oracles, plotting, schedules, times, training
from retro_diffusion.denoiser import Denoiser
from retro_diffusion.learned_schedule import LearnedVP
from retro_diffusion.likelihood import bits_per_dim, gaussian_kl
from retro_diffusion.networks import UNet

run = notebook.start(seed=0)

# %% [markdown]
# ## The question
#
# By the spring of 2021 every paper had a schedule of its own: DDPM's linear betas, the cosine of Improved
# DDPM, the geometric levels of score matching. They were tuned for the look of samples. Likelihoods lagged
# behind those of autoregressive models. Two things were unclear. Which schedule is right for likelihood?
# And is the number of steps $T$ a quantity to be tuned as well?
#
# The paper's answers: none, because in the limit all of them give the same bound; and yes, take it to
# infinity. With this it reached 2.65 bits per dimension on CIFAR-10, better than any autoregressive model of
# the time (their Table 1; the released code reports 2.637).
#
# ## Intuition: equal areas
#
# Take data $x_0 \sim \mathcal N(0, 1/4)$, for which the best denoiser is a formula. The bound is an area: the
# integral over $t$ of an integrand that depends on the schedule. Below are two schedules that share their ends,
# log-SNR 10 and $-10$: one falls along a straight line, one along a cosine. The curves differ wildly. The
# areas are equal.

# %%
HIGH, LOW, S2 = 10.0, -10.0, 0.25


class BetweenEnds(schedules.NoiseSchedule):
    """A path whose log-SNR falls from HIGH to LOW, as ``shape`` falls from 1 to 0."""

    def __init__(self, logsnr):
        self.of_t = logsnr

    def logsnr(self, t):
        return self.of_t(t)

    def alpha(self, t):
        return torch.sigmoid(self.of_t(t)).sqrt()

    def sigma(self, t):
        return torch.sigmoid(-self.of_t(t)).sqrt()


low_angle, high_angle = math.atan(math.exp(-HIGH / 2)), math.atan(math.exp(-LOW / 2))
linear = BetweenEnds(lambda t: HIGH + (LOW - HIGH) * t)
cosine = BetweenEnds(lambda t: -2 * torch.tan(low_angle + (high_angle - low_angle) * t).log())


def integrand(schedule, t):
    """1/2 gamma'(t) E|eps - eps_hat|^2 for N(0, S2), whose eps-error is alpha^2 s^2 / v."""
    snr = torch.exp(schedule.logsnr(t))
    return losses.elbo(schedule, t) * S2 * snr / (S2 * snr + 1)


t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
closed_form = 0.5 * math.log((1 + S2 * math.exp(HIGH)) / (1 + S2 * math.exp(LOW)))
areas = {"linear log-SNR": integrand(linear, t), "cosine": integrand(cosine, t)}
fig, row = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for (name, values), schedule, color in zip(
    areas.items(), (linear, cosine), plotting.PALETTE, strict=False
):
    row[0].plot(t[::500], schedule.logsnr(t[::500]), color=color, label=name)
    row[1].fill_between(t[::500], values[::500], color=color, alpha=0.35, linewidth=0)
    row[1].plot(t[::500], values[::500], color=color, label=f"{name}: area {values.mean():.4f}")
row[0].set(xlabel="t", ylabel="log SNR", title="two schedules")
row[1].set(xlabel="t", ylabel="integrand", ylim=(0, 40), title="one area")
row[0].legend()
row[1].legend()
notebook.show(
    fig,
    alt="Left: log-SNR against time, a straight line and a curve that is steep at both ends, between "
    "the same values. Right: the bound's integrand for both; the cosine's has a tall narrow peak at "
    "t = 0, the line's is a plateau, and both areas are 4.3069.",
)
for name, values in areas.items():
    print(f"{name:15s} mean {values.mean():.6f}   variance over t {values.var():.1f}")
print(f"{'closed form':15s} mean {closed_form:.6f}")

# %% [markdown]
# ## Derivation
#
# **One step.** Write $z_t$ for $x_t$, $\gamma = -\log \mathrm{SNR}$, so that $\alpha^2 = \mathrm{sigmoid}(-\gamma)$ and
# $\sigma^2 = \mathrm{sigmoid}(\gamma)$. The true posterior $q(z_s | z_t, x)$ and the model $p(z_s | z_t)$ are
# Gaussians of equal variance $\sigma_s^2 (1 - \mathrm{SNR}_t / \mathrm{SNR}_s)$ whose means differ only through
# $x$ and $\hat x$, by the factor $\alpha_s (1 - \mathrm{SNR}_t/\mathrm{SNR}_s)$. So (their equation 13)
#
# $$D_{KL} = \frac{\alpha_s^2 (1 - \mathrm{SNR}_t/\mathrm{SNR}_s)^2}{2 \sigma_s^2 (1 -
# \mathrm{SNR}_t/\mathrm{SNR}_s)} \|x - \hat x\|^2 = \tfrac12 (\mathrm{SNR}_s - \mathrm{SNR}_t) \|x - \hat x\|^2 .$$
#
# In terms of the noise, $\|x - \hat x\|^2 = \|\epsilon - \hat\epsilon\|^2 / \mathrm{SNR}_t$, and the factor becomes
# $\frac12 (e^{\gamma_t - \gamma_s} - 1)$: *the whole of a step's geometry is one number*.
#
# **More steps are better.** Split a step at its middle $m$. The term $\frac12(\mathrm{SNR}_s - \mathrm{SNR}_t)
# \|x - \hat x(z_t)\|^2$ becomes two, of which one uses $\hat x(z_m)$, made from a *cleaner* input. The best
# denoiser errs less there, so the sum falls: the bound is a left Riemann sum of a falling function, and always
# above its limit (their section 4.2).
#
# **The limit.** As $T \to \infty$, $T(e^{\gamma_t - \gamma_s} - 1) \to \gamma'(t)$ and (equation 17)
#
# $$\mathcal L_\infty(x) = \tfrac12\, \mathbb E_{\epsilon} \int_0^1 \gamma'(t)\, \|\epsilon - \hat\epsilon(z_t;
# \gamma(t))\|^2\, dt .$$
#
# **Invariance.** $z_t = \alpha x + \sigma\epsilon$ depends on $t$ only through $\gamma(t)$. Substitute $\gamma$ for
# $t$; $\gamma'(t)\, dt = d\gamma$ swallows the schedule (equation 18):
#
# $$\mathcal L_\infty(x) = \tfrac12\, \mathbb E_\epsilon \int_{\gamma_0}^{\gamma_1} \|\epsilon - \hat\epsilon(z_\gamma;
# \gamma)\|^2\, d\gamma .$$
#
# Only the ends are left. For our Gaussian $\mathbb E\|\epsilon - \hat\epsilon\|^2 = s^2 e^{-\gamma} / (1 + s^2
# e^{-\gamma})$, and the integral is $\frac12 \log \frac{1 + s^2 \mathrm{SNR}_{\max}}{1 + s^2 \mathrm{SNR}_{\min}}$, the
# closed form printed above.
#
# **What is left for the schedule.** We do not compute the integral, we draw one $t$ per sample. The estimate
# $\ell(t) = \frac12\gamma'(t)\|\epsilon - \hat\epsilon\|^2$ has the same mean for every schedule and a variance of
# its own. Since $\mathbb E[\ell]$ is fixed, minimising $\mathbb E[\ell^2]$ over the shape of $\gamma$ minimises the
# variance, with ordinary gradients (their section 5.2 and appendix I). A monotone network is all it takes.
#
# ## Experiment 1: more steps
#
# The discrete bound of the Gaussian, with the exact denoiser, for growing $T$: from above, towards the closed
# form.

# %%
finite = {}
for n in (4, 16, 64, 256, 1024, 4096):
    edges = linear.logsnr(torch.linspace(0, 1, n + 1, dtype=torch.float64))
    snr = edges[1:].exp()
    weight = 0.5 * torch.expm1(edges[:-1] - edges[1:])  # 1/2 (e^(gamma_t - gamma_s) - 1)
    finite[n] = float((weight * S2 * snr / (S2 * snr + 1)).sum())
    print(f"T = {n:4d}: {finite[n]:9.4f} nats, {finite[n] - closed_form:.4f} above the limit")
falls = all(a > b for a, b in zip(list(finite.values()), list(finite.values())[1:], strict=False))

# %% [markdown]
# ## Experiment 2: a learnt schedule
#
# Now data with some structure: the exact denoiser of the 1,797 digits, each blurred by 0.1 (dimension 64). The
# library's `LearnedVP` is the paper's monotone network: a line and a hidden layer of sigmoids with positive
# weights, pinned at both ends. It starts as the straight line. We minimise $\mathbb E[\ell^2]$ on single draws,
# and then measure the mean and the variance of $\ell$ for three schedules on fresh draws.
#
# Bands, fixed before the first run: all three means equal within three standard errors; the learnt schedule
# has at most 2/3 of the straight line's variance; stratified times reduce the variance of a batch's mean at
# least twofold.

# %%
DIGITS_HIGH, DIGITS_LOW = 8.0, -6.0
digits = oracles.digits_mixture(schedules.LinearVP())


def draw_losses(schedule, n, seed, draw=times.draw_uniform):
    """One draw of the continuous bound for each of n digits, in nats per dimension."""
    generator = run.generator(seed)
    x0 = digits.sample(n, generator)
    at = draw(schedule, n, generator)
    eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    law = oracles.digits_mixture(schedule)
    error = (law(schedule.add_noise(x0, eps, at), at).eps - eps).flatten(1).square().mean(1)
    return losses.elbo(schedule, at) * error


straight = LearnedVP(DIGITS_HIGH, DIGITS_LOW).requires_grad_(False)
learnt = LearnedVP(DIGITS_HIGH, DIGITS_LOW)
optimizer = torch.optim.Adam(learnt.parameters(), lr=0.03)
for step in range(200):
    optimizer.zero_grad()
    (draw_losses(learnt, 128, 1000 + step) ** 2).mean().backward()
    optimizer.step()
learnt.requires_grad_(False)
ends = math.atan(math.exp(-DIGITS_HIGH / 2)), math.atan(math.exp(-DIGITS_LOW / 2))
cosine_digits = BetweenEnds(lambda t: -2 * torch.tan(ends[0] + (ends[1] - ends[0]) * t).log())
candidates = {"straight line": straight, "cosine": cosine_digits, "learnt": learnt}
n_draws = run.pick(fast=2000, full=10_000)
draws = {name: draw_losses(s, n_draws, 7 + i) for i, (name, s) in enumerate(candidates.items())}
for name, values in draws.items():
    error = float(values.std()) / n_draws**0.5
    print(
        f"{name:13s} {values.mean():.4f} ± {error:.4f} nats per dimension, variance {values.var():.3f}"
    )

# %%
fig, row = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
grid = torch.linspace(0.002, 0.998, 60, dtype=torch.float64)
for (name, schedule), color in zip(candidates.items(), plotting.PALETTE, strict=False):
    row[0].plot(grid, schedule.logsnr(grid), color=color, label=name)
    generator, means = run.generator(40), []
    for time in grid[::3]:
        x0 = digits.sample(100, generator)
        eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        law = oracles.digits_mixture(schedule)
        error = (law(schedule.add_noise(x0, eps, time), time).eps - eps).square().mean()
        means.append(float(losses.elbo(schedule, time) * error))
    row[1].plot(grid[::3], means, color=color, label=name)
row[0].set(xlabel="t", ylabel="log SNR", title="three schedules")
row[1].set(xlabel="t", ylabel="mean loss at t", title="how evenly the loss is spread", ylim=(0, 8))
row[0].legend()
notebook.show(
    fig,
    alt="Left: log-SNR of the straight line, the cosine and the learnt schedule, which moves fast "
    "where digits are either all noise or all clear. Right: mean loss against t; the cosine peaks at "
    "the start, the learnt schedule is the flattest.",
)

# %% [markdown]
# The learnt schedule walks quickly through the levels where the denoiser has little left to lose and slowly
# where each step costs: it makes the loss as flat in $t$ as it can. Improved DDPM does the same to a fixed
# chain by drawing $t$ with probability proportional to $\sqrt{\mathbb E[L_t^2]}$ (arXiv:2102.09672, equation 18).
# A schedule *is* an importance sampler for the log-SNR.
#
# A second trick costs one line. Instead of a uniform $t$ for every sample, draw one and shift it by $i/n$: the
# batch covers the interval evenly (their appendix I.1).

# %%
repeats, batch = run.pick(fast=30, full=100), 64
spread = {}
kinds = {
    "independent": (times.draw_uniform, 5000),
    "again": (times.draw_uniform, 6000),
    "shifted": (times.draw_stratified, 5000),
}
for name, (draw, seed) in kinds.items():
    means = [draw_losses(straight, batch, seed + k, draw).mean() for k in range(repeats)]
    spread[name] = float(torch.stack(means).var())
    print(f"{name:12s} times: variance of a batch's mean {spread[name]:.5f}")

# %% [markdown]
# ## Experiment 3: a network and its bits
#
# The whole bound has three parts: the prior term at $t = 1$, the diffusion term, and the reconstruction of the
# pixels from $z_0$, for which the paper takes $p(x | z_0) \propto q(z_0 | x)$, normalised over the values that a
# pixel may have: here 17 grey levels (their section 3.3). It is short enough to write out.


# %%
def vdm_bits(model, x0, n_steps, generator):
    """Bits per dimension of gridded digits: prior, diffusion with n_steps steps, reconstruction."""
    schedule, n_dims = model.schedule, x0[0].numel()
    noise = [torch.randn(x0.shape, generator=generator) for _ in range(2)]
    last, first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    alpha, sigma = float(schedule.alpha(last)), float(schedule.sigma(last))
    prior = gaussian_kl(alpha * x0, torch.tensor(sigma**2), torch.zeros(()), torch.ones(()))
    i = torch.randint(1, n_steps + 1, (len(x0),), generator=generator).double()
    t, s = i / n_steps, (i - 1) / n_steps
    weight = n_steps / 2 * torch.expm1(schedule.logsnr(s) - schedule.logsnr(t))
    with torch.no_grad():
        error = (model(schedule.add_noise(x0, noise[0], t), t).eps - noise[0]).flatten(1) ** 2
    z0 = schedule.add_noise(x0, noise[1], first)
    values = torch.arange(17) / 8 - 1  # the grey levels
    distance = (z0[..., None] - float(schedule.alpha(first)) * values) ** 2
    logits = -distance / (2 * float(schedule.sigma(first)) ** 2)
    level = ((x0 + 1) * 8).round().long()
    decoder = -logits.log_softmax(-1).gather(-1, level[..., None])
    nats = prior.flatten(1).sum(1) + weight * error.sum(1) + decoder.flatten(1).sum(1)
    return bits_per_dim(nats, n_dims)


train_part, test_part = data.split(data.digits(), (0.8, 0.2), seed=0)
n_steps, repeats = run.pick(fast=40, full=600), run.pick(fast=2, full=12)
bits = {}
for name, schedule in candidates.items():
    torch.manual_seed(run.seed)
    states = training.train(
        Denoiser(UNet(width=16, multipliers=(1, 2)), schedule),
        data.minibatches(train_part.x, batch_size=64),
        n_steps=n_steps,
        loss=losses.simple_loss(times.draw_stratified, weight=losses.elbo),
        lr=2e-3,
        lr_schedule=training.warmup_cosine(n_steps // 10, n_steps),
        seed=run.seed,
    )
    model = training.finish(states).ema
    for n in (4, 16, 256):
        held_out = [
            vdm_bits(model, test_part.x, n, run.generator(k)).mean() for k in range(repeats)
        ]
        bits[name, n] = notebook.mean_interval([float(b) for b in held_out])
        print(f"{name:13s} T = {n:3d}: {bits[name, n]:.3f} bits per dimension on unseen digits")

# %% [markdown]
# (A digit in a code of 17 equally likely values costs $\log_2 17 = 4.09$ bits per pixel.) More steps give a
# tighter bound with a network too. The limit says that *one* network has the same bound on all three schedules. It
# says nothing about which of three networks is fitted best after so short a training. The cosine, whose loss is the
# noisiest, comes last; between the straight line and the learnt schedule, ten times apart in variance, there is no
# difference that our intervals would show. Variance of the loss is not all that decides.
#
# ## Break it: a schedule with other ends
#
# The invariance is between schedules that share their *ends*. Let the straight line start at log-SNR 6 instead
# of 10, and the same Gaussian gives another number; nothing in the diffusion term compensates. (In the whole
# bound the reconstruction term does, in part.) This is the trap in comparing likelihoods of schedules.

# %%
shorter = BetweenEnds(lambda t: 6.0 + (LOW - 6.0) * t)
moved = float(integrand(shorter, t).mean())
print(f"ends (10, -10): {closed_form:.4f}    ends (6, -10): {moved:.4f}")

# %% [markdown]
# ## Claim check

# %%
numbers = {name: float(v.mean()) for name, v in areas.items()}
worst = max(abs(v - closed_form) for v in numbers.values())
errors = {name: float(v.std()) / n_draws**0.5 for name, v in draws.items()}
reference = float(draws["straight line"].mean())
z = max(
    abs(float(draws[name].mean()) - reference) / math.hypot(errors[name], errors["straight line"])
    for name in ("cosine", "learnt")
)
ratio = float(draws["learnt"].var() / draws["straight line"].var())
final = [bits[name, 256].mean for name in candidates]
claims = [
    notebook.Claim(
        key="schedule-invariance",
        statement="The continuous-time diffusion loss depends on the schedule's ends alone",
        paper="equation 18",
        source="Kingma et al. 2021, section 5.1, derived",
        experiment="N(0, 1/4), exact denoiser, midpoint rule with 200,000 points, log-SNR 10 to -10",
        ours=f"linear {numbers['linear log-SNR']:.6f}, cosine {numbers['cosine']:.6f}, "
        f"closed form {closed_form:.6f} nats",
        band="both within 1e-5 of the closed form",
        seeds=0,
        control=f"ends (6, -10): {moved:.4f}",
        control_failed=abs(moved - closed_form) > 1e-5,
        grade="EXACT",
        passed=worst <= 1e-5,
    ),
    notebook.Claim(
        key="more-steps",
        statement="The discrete bound falls towards the continuous one as T grows",
        paper="section 4.2 (doubling T never hurts)",
        source="Kingma et al. 2021, section 4.2, derived",
        experiment="N(0, 1/4), exact denoiser, T = 4 to 4,096",
        ours=", ".join(f"{v - closed_form:.3f}" for v in finite.values()) + " nats above the limit",
        band="falling, and less than 0.02 nats above at T = 4,096",
        seeds=0,
        control=f"without the factor's 1/2: {2 * finite[4096] - closed_form:.3f} above",
        control_failed=2 * finite[4096] - closed_form > 0.02,
        grade="EXACT",
        passed=falls and 0 < finite[4096] - closed_form < 0.02,
    ),
    notebook.Claim(
        key="invariance-on-digits",
        statement="Learning the schedule changes the variance of the loss and not its mean",
        paper="lower variance, faster training (figure 4b, appendix)",
        source="Kingma et al. 2021, section 5.2",
        experiment=f"exact denoiser of blurred digits, {n_draws:,} draws, log-SNR 8 to -6",
        ours=f"means within {z:.1f} standard errors, learnt / straight variance {ratio:.2f}",
        band="means within 3 standard errors, variance ratio at most 2/3",
        seeds=1,
        control=f"the cosine: ratio {float(draws['cosine'].var() / draws['straight line'].var()):.1f}",
        control_failed=bool(draws["cosine"].var() > draws["straight line"].var() * 2 / 3),
        grade="ROBUST",
        passed=z <= 3 and ratio <= 2 / 3,
    ),
    notebook.Claim(
        key="shifted-times",
        statement="One uniform draw shifted through the batch reduces the variance of its mean",
        paper="low-discrepancy sampler, no number",
        source="Kingma et al. 2021, appendix I.1",
        experiment=f"batches of {batch}, straight line, exact denoiser",
        ours=f"variance {spread['independent'] / spread['shifted']:.1f} times smaller",
        band="at least 2 times smaller",
        seeds=1,
        control=f"independent times, other seeds: {spread['independent'] / spread['again']:.1f} times",
        control_failed=spread["independent"] < 2 * spread["again"],
        grade="ROBUST",
        passed=spread["independent"] >= 2 * spread["shifted"],
    ),
    notebook.Claim(
        key="bits-agree",
        statement="Networks trained on two schedules reach the same bits per dimension",
        paper="2.65 bits per dimension, CIFAR-10 (one schedule, learnt)",
        source="Kingma et al. 2021, Table 1, CIFAR-10",
        experiment=f"three small U-Nets, {n_steps} steps, unseen digits, T = 256",
        ours=", ".join(f"{name} {bits[name, 256]:.3f}" for name in candidates),
        band="within 0.1 bits",
        seeds=1,
        control=f"T = 4: {bits['straight line', 4]:.3f}",
        control_failed=bits["straight line", 4].mean - bits["straight line", 256].mean > 0.1,
        grade="FRAGILE",
        passed=max(final) - min(final) <= 0.1,
        note="The theorem is about one denoiser; a short training fits three different ones.",
    ),
    notebook.Claim(
        key="less-variance-trains-better",
        statement="In equally many steps, the schedule of least variance gives the best likelihood",
        paper="the learnt schedule trains fastest (figure 4)",
        source="Kingma et al. 2021, section 6.2",
        experiment=f"the same three networks, {n_steps} steps",
        ours=f"learnt {final[2]:.3f}, straight line {final[0]:.3f}, cosine {final[1]:.3f} bits",
        band="in this order",
        seeds=1,
        control="the reverse order",
        control_failed=not final[2] >= final[0] >= final[1],
        grade="FRAGILE",
        passed=final[2] <= final[0] <= final[1],
    ),
]
notebook.check(claims)
notebook.claims_table(claims)

# %% [markdown]
# ## Where the code differs from the paper
#
# The official code measures pixels in 256 levels and adds Fourier features $\sin(2^n \pi z)$ for $n = 6, 7$ of
# the input, because at these likelihoods the last bits of a pixel count; with 17 levels there is nothing for
# them to see. It trains $\gamma$'s ends as well, with the gradient of the bound itself; ours are fixed. Our
# network reads $t$ where theirs reads $\gamma$.
#
# ## Exercises
#
# **1.** Why must $\gamma$'s ends not be trained by minimising $\mathbb E[\ell^2]$?
#
# <details><summary>Solution</summary>
#
# The diffusion loss alone is smallest when there is no diffusion:
#
# ```python
# for high in (10.0, 5.0, 0.0):
#     narrow = BetweenEnds(lambda t, high=high: high + (LOW - high) * t)
#     print(high, float(integrand(narrow, t).mean()), float((integrand(narrow, t) ** 2).mean()))
# ```
#
# Prior and reconstruction hold the ends in place, and they are no part of $\ell$.
#
# </details>
#
# **2.** The best possible schedule for the Gaussian has an integrand that is constant in $t$. Find it, and its
# variance, numerically.
#
# <details><summary>Solution</summary>
#
# Walk log-SNR at the speed at which the area accumulates:
#
# ```python
# level = torch.linspace(HIGH, LOW, 20_001, dtype=torch.float64)
# area = torch.cat([level.new_zeros(1), (0.5 * S2 * level[1:].exp() / (1 + S2 * level[1:].exp())).cumsum(0)])
# progress = area / area[-1]
# at = torch.searchsorted(progress, t[::1000]).clamp(1, 20_000)
# print("log-SNR at t = 0.25, 0.5, 0.75:", [float(level[torch.searchsorted(progress, q)]) for q in
#       torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)])
# ```
#
# The first three quarters of the time are spent where $s^2\,\mathrm{SNR} > 1$: a constant loss per unit of log-SNR.
# With data of one scale the variance over $t$ is then zero; what remains is the variance over $x$ and $\epsilon$.
#
# </details>
#
# **3.** Show that a weight $w(\lambda)$ on the integrand keeps the invariance, and that DDPM's $L_{\mathrm{simple}}$
# on the cosine path is one such weight.
#
# <details><summary>Solution</summary>
#
# A function of $\gamma$ passes through the substitution unchanged. On the cosine path the weight is
# $\mathrm{sech}(\lambda/2)$:
#
# ```python
# at = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
# print(losses.sech(schedules.CosineVP(), at) / losses.simple(schedules.CosineVP(), at))
# ```
#
# </details>
#
# ## What came next
#
# Kingma and Gao (2023, arXiv:2303.00848) turned the argument round: *every* loss in use is this integral with a
# weight, and if the weight falls with the log-SNR it is a bound of augmented data. EDM drew its noise levels from a
# log-normal law for the same reason that this paper learnt $\gamma$. Discrete diffusion inherited the continuous
# bound and its invariance.

# %%
run.finish()
