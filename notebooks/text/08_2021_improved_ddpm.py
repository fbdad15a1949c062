# ---
# jupyter:
#   retro:
#     fast_seconds: 30
#     full_seconds: 180
#     shape: paper
#     paper: "Nichol and Dhariwal 2021"
#     arxiv: "2102.09672"
# ---

# %% [markdown]
# # Improved DDPM: learning the variance, and a schedule that wastes less
#
# Nichol and Dhariwal 2021 (arXiv:2102.09672) repairs what DDPM had left open: its likelihood. On the way it
# changes the variance, the schedule and the number of steps, and three of its parts are still in use. After
# this notebook you will be able to say what a wrong reverse variance costs, to the last digit for Gaussian data;
# how a network learns the right one without harming its mean; why linear betas waste the end of the chain; and which
# law of $t$ makes the bound cheapest to estimate.

# %%
import math

import torch
from matplotlib import pyplot as plt

from retro_diffusion import (
    data,
    evaluation,
    losses,
    notebook,
    oracles,
    plotting,
    reverse,
    samplers,
    schedules,
    times,
    training,
)
from retro_diffusion.denoiser import Clipped, Denoiser
from retro_diffusion.importance import LossHistory
from retro_diffusion.likelihood import bits_per_dim, discretized_decoder, variational_bound
from retro_diffusion.networks import UNet
from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import learned_variance, lower_variance, upper_variance

run = notebook.start(seed=0)

# %% [markdown]
# ## The question
#
# DDPM (notebook `05_2020_ddpm`) drew excellent images and was a mediocre density model. A low likelihood may mean
# that modes are missing, so the doubt was serious: is it a weakness of diffusion, or of three decisions
# made in passing? DDPM fixed the variance of the reverse steps by hand, took betas that rise linearly, and trained
# with a loss that is not the bound. The paper changes all three. On ImageNet 64 × 64, 200,000 iterations, as
# tabulated in the paper's first table: 3.99 bits per dimension and FID 32.5 for DDPM's choices with 1,000 steps, 3.62 and 28.0
# with 4,000 steps, a cosine schedule and a learned variance.
#
# ## Intuition: a schedule that ends too early
#
# Follow the same digit down both chains. Under linear betas nothing can be recognised in the second half; those steps
# are spent on noise that is only exchanged for other noise. The cosine schedule is drawn so that the
# signal falls nearly linearly in the middle and changes slowly at both ends.

# %%
T = 1000
chains = {"linear": schedules.linear(T), "cosine": schedules.cosine(T)}
images = data.digits()
stops = torch.linspace(0, T, 9, dtype=torch.float64)
noise = torch.randn(8, 8, generator=run.generator(1))
fig, (left, right) = plt.subplots(
    1, 2, figsize=(7, 2.4), width_ratios=(1, 1.6), layout="constrained"
)
rows = []
for name, chain in chains.items():
    left.plot(range(1, T + 1), chain.alphas_cumprod, label=name)
    noisy = [chain.add_noise(images.x[5, 0][None], noise[None], t)[0] for t in stops]
    rows.append(torch.cat([torch.nn.functional.pad(x, (1, 1, 1, 1), value=1.0) for x in noisy], 1))
left.set(xlabel="step $t$", ylabel=r"$\bar\alpha_t$")
left.legend()
right.imshow(torch.cat(rows), cmap="gray", vmin=-1, vmax=1)
right.set_xticks(torch.arange(9) * 10 + 4.5, [f"{float(t):.0f}" for t in stops])
right.set_yticks([4.5, 14.5], list(chains))
right.set_xlabel("step $t$")
right.grid(False)
notebook.show(
    fig,
    alt="Left: alphas_cumprod of the linear chain falls to zero by t = 600, that of the cosine chain falls "
    "nearly linearly to the end. Right: one digit at nine steps; lost by t = 500 under linear betas, still "
    "visible at t = 625 under cosine.",
)

# %% [markdown]
# ## Derivation
#
# **What the variance must cover.** With $\beta_t = 1 - \bar\alpha_t / \bar\alpha_{t-1}$, DDPM's posterior $q(x_{t-1} \mid
# x_t, x_0)$ has a mean $a_t x_t + b_t x_0$ and the variance $\tilde\beta_t = \beta_t (1 - \bar\alpha_{t-1}) / (1 -
# \bar\alpha_t)$. The model does not know $x_0$, only $\hat x_0$. By the law of total variance the true reverse step
# $q(x_{t-1} \mid x_t)$ has
#
# $$\mathrm{Var}[x_{t-1} \mid x_t] = \tilde\beta_t + b_t^2\, \mathrm{Var}[x_0 \mid x_t].$$
#
# If the data are one point, the second term is zero and $\tilde\beta_t$ is right. If they are $\mathcal N(0, 1)$, the whole
# chain is a stationary process that looks the same in both directions, and $\beta_t$ is right. Real data lie between. A step whose
# mean is right and whose variance is off by the ratio $r$ of true to chosen costs $\frac12 (r - 1 - \log r)$ nats
# per dimension, so for Gaussian data of variance $s^2$ the price of each choice is exact.

# %%
gaps = {}
fixed = {r"beta": upper_variance, "beta-tilde": lower_variance}
short = schedules.linear(50, 2e-3, 0.4)


def fraction_for(step, wanted):
    """The fraction for which equation 15 gives the wanted variance."""
    return (wanted / step.lower).log() / (step.upper / step.lower).log()


for chain in (chains["linear"], short):
    for s2 in (1.0, 0.25):
        law = oracles.Gaussian(chain, torch.zeros(1), torch.full((1, 1), s2))

        def learnt(step, prediction, law=law):
            fraction = fraction_for(step, law.reverse_variances(step.t, step.s)[:, 0])[:, None]
            return learned_variance(step, prediction._replace(variance_fraction=fraction))

        every = times.uniform(chain, chain.n_timesteps)
        for name, variance in {**fixed, "learnt": learnt}.items():
            gaps[chain.n_timesteps, s2, name] = law.bound_gap(every, variance)
        row = [gaps[chain.n_timesteps, s2, name] for name in ("beta", "beta-tilde", "learnt")]
        print(
            f"T = {chain.n_timesteps:4d}, s^2 = {s2:4.2f}: gap with beta {row[0]:.1e}, "
            f"beta-tilde {row[1]:.3f}, equation 15 at its best {row[2]:.0e} nats"
        )

# %% [markdown]
# With a thousand steps $\beta_t$ is nearly free and $\tilde\beta_t$ is not. With fifty, the price of either grows. This is the
# use of a learned variance: the fewer the steps, the more there is to lose. It also explains why nobody
# had missed it. The ratio $\tilde\beta_t/\beta_t = (1 - \bar\alpha_{t-1})/(1 - \bar\alpha_t)$ is one but for the first steps, and
# the longer the chain the smaller their share. Samples do not show the difference; the likelihood, which is made
# there, does.

# %%
fig, axes = plt.subplots(figsize=(4.6, 2.7), layout="constrained")
for n in (100, 1000, 4000):
    chain = schedules.rescaled_linear(n)
    t = torch.arange(2, n + 1, dtype=torch.float64)
    step = reverse.reverse_step(chain, t, t - 1)
    axes.plot(t / n, step.lower / step.upper, label=f"T = {n}")
axes.set(xscale="log", xlabel="$t / T$", ylabel=r"$\tilde\beta_t\,/\,\beta_t$")
axes.legend()
notebook.show(
    fig,
    alt="Ratio of beta-tilde to beta against t / T on a logarithmic axis for chains of 100, 1,000 and 4,000 steps: "
    "it rises from below a half to one, the earlier the longer the chain.",
)

# %% [markdown]
# **Learning it** (equation 15). The variances near $t = 1$ are of order $10^{-4}$ and would be hard to regress. So the
# network puts out one more number per pixel, a fraction $v$, and interpolates between the bounds on a logarithmic
# scale:
#
# $$\Sigma_\theta(x_t, t) = \exp\big(v \log\beta_t + (1 - v) \log\tilde\beta_t\big).$$
#
# **The hybrid loss** (equation 16). $L_\mathrm{simple}$ does not contain $\Sigma_\theta$ at all. Training on the bound alone would
# teach it, at the price of the bound's weights, which serve samples badly. Hence $L_\mathrm{hybrid} =
# L_\mathrm{simple} + \lambda L_\mathrm{vlb}$ with $\lambda = 0.001$, *and the mean detached inside $L_\mathrm{vlb}$*. What
# remains for the variance $\sigma^2$ of one step is a function of one number,
#
# $$\frac12\Big(\frac{\tilde\beta_t + b_t^2 \|x_0 - \hat x_0\|^2}{\sigma^2} + \log \sigma^2\Big) + \text{const}
# \quad\text{(per dimension)},$$
#
# whose average is least at $\sigma^2 = \tilde\beta_t + b_t^2\,\mathbb E\|x_0 - \hat x_0\|^2$: the law of total variance, with the
# network's own error as $\mathrm{Var}[x_0 | x_t]$. The value of $\lambda$ belongs to a unit. In the released code
# $L_\mathrm{vlb}$ is in *bits per dimension*; in nats summed over 64 pixels it would weigh $64 \log 2 \approx 44$ times more.
#
# **The cosine schedule** (equation 17). $\bar\alpha_t = f(t)/f(0)$ with $f(t) = \cos^2\big(\frac{t/T + s}{1 + s}
# \frac\pi2\big)$. The offset $s = 0.008$ keeps the first betas from vanishing, and $\beta_t$ is clipped at 0.999, for the last one would
# be 1 and the chain could not be undone.
#
# **Importance sampling** (equation 18). One term $L_t$, drawn with probability $p_t$ and divided by it, estimates $\sum_t
# L_t$ without bias. Its second moment is $\sum_t \mathbb E[L_t^2]/p_t$, and by Cauchy and Schwarz
#
# $$\Big(\sum_t \sqrt{\mathbb E[L_t^2]}\Big)^2 = \Big(\sum_t \sqrt{\mathbb E[L_t^2]/p_t}\,\sqrt{p_t}\Big)^2
# \le \sum_t \frac{\mathbb E[L_t^2]}{p_t} \cdot \sum_t p_t,$$
#
# with equality if and only if $p_t \propto \sqrt{\mathbb E[L_t^2]}$. The moments are not known and change in training: the
# paper keeps the last ten losses of each $t$, and draws uniformly until all have ten.
#
# **Respacing** (equation 19). Keep a subsequence $S_1 < \dots < S_K$ of steps with their $\bar\alpha$. They form a shorter chain with
# $\beta_{S_t} = 1 - \bar\alpha_{S_t}/\bar\alpha_{S_{t-1}}$, and its $\tilde\beta$ and $\Sigma_\theta$ follow. The network is asked at
# the original $S_t$, whose noise level it knows.
#
# ## In code
#
# Each of the four is a line or two. Here they are by hand, next to the library's.

# %%
cosine = chains["cosine"]
u = torch.arange(T + 1, dtype=torch.float64) / T
f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)  # equation 17
torch.testing.assert_close(betas, cosine.betas)

grid = times.linspace(cosine, 25)  # T = S_25, ..., S_1 = 1, then 0
kept = torch.cat([torch.cumprod(1 - betas, 0)[grid[:-1].long() - 1], torch.ones(1)])
respaced = 1 - kept[:-1] / kept[1:]  # equation 19
step = reverse.reverse_step(cosine, grid[:-1], grid[1:])
torch.testing.assert_close(respaced, step.upper)

v = torch.rand(24, 1, generator=run.generator(2), dtype=torch.float64)
low = respaced[:-1] * (1 - kept[1:-1]) / (1 - kept[:-2])
by_hand = torch.exp(v * respaced[:-1, None].log() + (1 - v) * low[:, None].log())  # equation 15
inner = reverse.ReverseStep(*(x[:-1] for x in step))
torch.testing.assert_close(by_hand, learned_variance(inner, Prediction(v, v, v)))
print(
    f"alphas_cumprod[T] = {float(cosine.alphas_cumprod[-1]):.2e}; 25 steps: betas up to {float(respaced.max()):.3f}"
)

# %% [markdown]
# The detached mean is easily lost in a rewrite, and nothing crashes. So look at the gradient itself. Below, the output of an
# untrained network, its noise and its fraction, receives the gradient of $\lambda L_\mathrm{vlb}$ with the mean detached and
# without. At the same place, the gradient of $L_\mathrm{simple}$.

# %%
decoder = discretized_decoder(1 / 16)


def push(t, detach, n=64):
    """Norm of the gradient on eps from lambda L_vlb and from L_simple, all samples at step t."""
    x0, eps = images.x[:n], torch.randn(n, 1, 8, 8, generator=run.generator(3))
    t = torch.full((n,), float(t), dtype=torch.float64)
    x_t = cosine.add_noise(x0, eps, t)
    guess = (0.5 * eps).requires_grad_()
    x0_hat = (x_t - cosine.sigma(t[:1]).float() * guess) / cosine.alpha(t[:1]).float()
    answer = Prediction(
        x0_hat.detach() if detach else x0_hat, guess, torch.full_like(x0, 0.5).requires_grad_()
    )
    terms = losses.bound_terms(
        cosine, answer, x0, x_t, t, variance=learned_variance, decoder=decoder
    )
    parts = (0.001 * T * terms.mean() / math.log(2), (guess - eps).square().mean())
    gradients = [torch.autograd.grad(p, guess, allow_unused=True)[0] for p in parts]
    return [0.0 if g is None else float(g.norm()) for g in gradients]


leak = {}
for t in (2, 10, 100, 500):
    leak[t] = push(t, False)[0] / push(t, False)[1]
    print(
        f"t = {t:3d}: lambda L_vlb pulls the mean {push(t, True)[0]:.0f} x as hard as L_simple if detached, "
        f"{leak[t]:.2f} x if not"
    )

# %% [markdown]
# Undetached, the bound would take over the mean wherever its weight is large: in the first steps, which is exactly what
# $L_\mathrm{simple}$ was invented to avoid.
#
# ## Experiment 1: which steps to draw
#
# Exact digits (`oracles.digits_mixture`, a denoiser in closed form), the bound of the digits term by term. First ten losses of
# each step fill a history; from it follows $p_t$. Then 200 estimates of the bound, each from a batch of 64, drawn uniformly and by
# importance. Band, fixed before looking: the variance falls to a third or less, the mean agrees within four standard errors.

# %%
exact = oracles.digits_mixture(cosine)


def terms_at(t, seed):
    """Bound terms of random digits at steps t, nats per dimension."""
    generator, out = run.generator(seed), []
    for part in t.split(1000):
        x0 = images.x[torch.randint(len(images.x), (len(part),), generator=generator)].double()
        eps = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
        x_t = cosine.add_noise(x0, eps, part)
        out.append(
            losses.bound_terms(
                cosine, exact(x_t, part), x0, x_t, part, variance=upper_variance, decoder=decoder
            )
        )
    return torch.cat(out)


history = LossHistory(T)
all_steps = torch.arange(1, T + 1, dtype=torch.float64).repeat(10)
history.record(all_steps, terms_at(all_steps, 4))
moments = history.losses.square().mean(1)
by_hand = 0.999 * moments.sqrt() / moments.sqrt().sum() + 0.001 / T  # equation 18
torch.testing.assert_close(by_hand, history.probabilities)


def estimates(p, seed, n=200, batch=64):
    index = torch.multinomial(p, n * batch, replacement=True, generator=run.generator(seed))
    terms = terms_at((index + 1).double(), seed + 1) / p[index]
    return terms.reshape(n, batch).mean(1) / math.log(2)


laws = {
    "uniform": torch.full((T,), 1 / T, dtype=torch.float64),
    "importance": history.probabilities,
    "importance, reversed": history.probabilities.flip(0),
}
drawn = {name: estimates(p, 5) for name, p in laws.items()}
for name, x in drawn.items():
    print(
        f"{name:21s} {float(x.mean()):.3f} bits per dimension, standard deviation {float(x.std()):.3f}"
    )
gain = float(drawn["uniform"].var() / drawn["importance"].var())
shift = drawn["uniform"].mean() - drawn["importance"].mean()
shift = float(shift.abs() / ((drawn["uniform"].var() + drawn["importance"].var()) / 200).sqrt())
wrong_gain = float(drawn["uniform"].var() / drawn["importance, reversed"].var())

# %%
fig, (top, bottom) = plt.subplots(
    2, 1, figsize=(5, 3.6), sharex=True, height_ratios=(1, 1.5), layout="constrained"
)
top.plot(all_steps[:T], history.probabilities, label="$p_t$, equation 18")
top.axhline(1 / T, color=plotting.INK, linewidth=0.8, linestyle="--", label="uniform")
top.set(yscale="log", ylabel="probability")
top.legend()
bottom.plot(all_steps[:T], history.losses.mean(1).clamp(min=1e-9) / math.log(2))
bottom.set(xscale="log", yscale="log", xlabel="step $t$", ylabel="bits per dimension")
notebook.show(
    fig,
    alt="Below: terms of the bound against the step, both axes logarithmic, falling over several orders "
    "of magnitude. Above: the sampling law p_t, which follows them, and the uniform law as a dashed line.",
)

# %% [markdown]
# ## Experiment 2: skipping the start
#
# The paper's figure 4 starts the reverse process late: at $(1 - f)\,T$, from $\mathcal N(0, I)$, as if the first steps were not
# there. If that costs nothing, they did nothing. With the exact denoiser no network's error interferes. The
# Fréchet distance is taken on twenty principal components, between the samples and 20,000 true draws; its unit is that of
# equally many true draws, the floor. A pilot of two seeds chose the share: at $f = 0.2$ the rise for cosine was half a floor, too
# little for few seeds, so the check stands at $f = 0.4$. Band: there the rise is below one floor for linear betas and above
# one floor for cosine, in every seed. The control lets cosine start at the *log-SNR* at which linear started; nothing should
# rise.

# %%
n_samples, seeds = run.pick(fast=500, full=1000), range(run.pick(fast=2, full=3))
skips = run.pick(fast=(0.0, 0.4), full=(0.0, 0.1, 0.2, 0.3, 0.4))
walk = torch.linspace(T, 0, 51, dtype=torch.float64)
truth = exact.sample(20_000, run.generator(10)).flatten(1)
features = evaluation.pca_features(truth[:5000], 20)
reference = features(truth)


def frechet(x):
    return evaluation.frechet_distance(features(x.flatten(1)), reference)


floor = sum(frechet(exact.sample(n_samples, run.generator(11 + k))) for k in range(10)) / 10


def sample_from(schedule, start, seed):
    """Ancestral samples that begin at the time `start` with pure noise, in floors."""
    generator, oracle = run.generator(30 + seed), oracles.digits_mixture(schedule)
    x = torch.randn(n_samples, 1, 8, 8, generator=generator, dtype=torch.float64)
    rest = torch.cat([torch.tensor([start]).double(), walk[walk < start - 1e-6]])
    states = samplers.ancestral(oracle, x, rest, variance=lower_variance, generator=generator)
    return frechet(samplers.last(states)) / floor


quality = {
    (name, skip): [sample_from(chain, (1 - skip) * T, k) for k in seeds]
    for name, chain in chains.items()
    for skip in skips
}
linear_stop = chains["linear"].logsnr(torch.tensor(0.6 * T, dtype=torch.float64))
same_level = float(cosine.time_at(linear_stop))
quality["cosine, same log-SNR", 0.4] = [sample_from(cosine, same_level, k) for k in seeds]

rises = {}
for name in (*chains, "cosine, same log-SNR"):
    pairs = zip(quality[name, 0.4], quality[name.split(",")[0], 0.0], strict=True)
    rises[name] = [a - b for a, b in pairs]
    print(f"{name:21s} start late: Fréchet up by {notebook.mean_interval(rises[name]):.2f} floors")
print(f"linear at 0.6 T has the log-SNR of cosine at {same_level / T:.3f} T")

# %%
fig, axes = plt.subplots(figsize=(4.6, 2.7), layout="constrained")
for name in chains:
    axes.plot(skips, [sum(quality[name, s]) / len(seeds) for s in skips], marker="o", label=name)
axes.axhline(1, color=plotting.INK, linewidth=0.8, linestyle="--", label="floor")
axes.set(yscale="log", xlabel="share $f$ of the chain left out", ylabel="Fréchet, in floors")
axes.legend()
notebook.show(
    fig,
    alt="Frechet distance against the share of the chain left out. Linear stays near the floor to the end; "
    "cosine leaves it at a fifth and is several times above at two fifths.",
)

# %% [markdown]
# Two fifths of the linear chain can be thrown away; of the cosine chain hardly a fifth. The control shows that the
# name of the schedule does not matter, only the noise level at which the signal is given up.
#
# ## Experiment 3: a learned variance, in bits
#
# First without a network. At each of 25 respaced steps the exact denoiser's own error $\mathbb E(x_0 - \hat x_0)^2$ gives
# the best single fraction $v_t$ for all pixels, by the formula above. It is fitted on one set of draws of the digits'
# mixture and its bound evaluated on another. Band: fewer bits than both fixed variances, in every seed; the control
# interpolates between the *variances* exchanged, $1 - v$ for $v$.

# %%
few = times.linspace(cosine, 25)
n_fit = run.pick(fast=300, full=1000)


def best_fractions(oracle, seed):
    """The fraction of equation 15 that the denoiser's error calls for, at every inner step."""
    generator, table = run.generator(seed), {}
    x0 = oracle.sample(n_fit, generator).reshape(-1, 1, 8, 8)
    for t, s in zip(few[:-2], few[1:-1], strict=True):
        step = reverse.reverse_step(cosine, t, s)
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        error = (oracle(cosine.add_noise(x0, eps, t), t).x0 - x0).square().mean()
        table[float(t)] = fraction_for(step, step.lower + step.of_x0**2 * error)
    return table


def fitted(table, turn=False):
    """A variance for `variational_bound` that looks its fraction up by the step's time."""

    def variance(step, prediction):
        v = torch.stack([table.get(float(t), few.new_zeros(())) for t in step.t.reshape(-1)])
        v = (1 - v if turn else v).reshape(-1, 1, 1, 1)
        fraction = v.expand_as(prediction.x0)
        return learned_variance(step, prediction._replace(variance_fraction=fraction))

    return variance


def bits(model, x, y, grid, variance, seed):
    generator = run.generator(seed)
    bound = variational_bound(
        model, x, grid, y, variance=variance, decoder=decoder, generator=generator
    )
    return float(bits_per_dim(bound.total, 64).mean())


exact_bits = {}
for k in seeds:
    table = best_fractions(exact, 60 + k)
    fresh = exact.sample(n_fit, run.generator(70 + k)).reshape(-1, 1, 8, 8)
    fresh = ((fresh + 1) * 8).round().clamp(0, 16) / 8 - 1  # the decoder's grey levels
    ways = {**fixed, "fitted": fitted(table), "exchanged": fitted(table, turn=True)}
    for name, variance in ways.items():
        value = bits(exact, fresh, None, few, variance, 80 + k)
        exact_bits.setdefault(name, []).append(value)
for name, values in exact_bits.items():
    print(f"{name:10s} {notebook.mean_interval(values):.3f} bits per dimension")

# %% [markdown]
# Now a network. A small U-Net with two output channels, trained with $L_\mathrm{hybrid}$ on 1,397 digits. Since the mean is
# detached, *one* network serves all three variances: the same means, the same noise, the same held-out images, and only the
# variance of the reverse steps changes. Band, not gating: at 25 respaced steps the learned variance has the fewest bits, in
# every seed.

# %%
train_part, held = data.split(images, [1397, 400])
held = type(held)(*(x[: run.pick(fast=40, full=100)] for x in held))
n_steps, width = run.pick(fast=(60, 8), full=(700, 16))


def train(seed):
    torch.manual_seed(seed)
    network = UNet(width=width, n_classes=10, out_channels=2)
    states = training.train(
        Denoiser(network, cosine, learned_variance=True),
        data.minibatches(*train_part, batch_size=64),
        n_steps=n_steps,
        loss=losses.hybrid_loss(decoder=decoder),
        lr=3e-3,
        lr_schedule=training.warmup_cosine(n_steps // 10, n_steps),
        ema_decay=0.99,
        seed=seed,
    )
    return Clipped(training.finish(states).ema)


models = [train(k) for k in seeds]
choices = {"beta": upper_variance, "beta-tilde": lower_variance, "learnt": learned_variance}
at25 = {
    name: [bits(m, held.x, held.y, few, variance, 50) for m in models]
    for name, variance in choices.items()
}
for name, values in at25.items():
    print(f"{name:10s} 25 steps: {notebook.mean_interval(values):.3f} bits per dimension")

# %%
lengths = run.pick(fast=(10, 25), full=(10, 25, 50, 100, 250))
curves = {
    name: [
        bits(models[0], held.x, held.y, times.linspace(cosine, n), variance, 50) for n in lengths
    ]
    for name, variance in choices.items()
}
fig, (left, right) = plt.subplots(1, 2, figsize=(7, 2.7), layout="constrained")
for name, curve in curves.items():
    left.plot(lengths, curve, marker="o", label=name)
left.set(xscale="log", yscale="log", xlabel="steps", ylabel="bits per dimension, held out")
left.set_xticks(lengths, [str(n) for n in lengths])
left.minorticks_off()
left.legend()
t_seen = torch.logspace(0.31, 3, 25).round().double().unique()
fractions, best = [], []
with torch.no_grad():
    for t in t_seen:
        step = reverse.reverse_step(cosine, t, t - 1)
        x_t = cosine.add_noise(held.x, torch.randn(held.x.shape, generator=run.generator(51)), t)
        answer = models[0](x_t, t, held.y)
        fractions.append(float(answer.variance_fraction.mean()))
        error = (answer.x0 - held.x).double().square().mean()
        best.append(float(fraction_for(step, step.lower + step.of_x0**2 * error)))
right.plot(t_seen, fractions, label="learnt, mean over pixels")
right.plot(t_seen, best, linestyle="--", label="best single value")
right.set(xscale="log", xlabel="step $t$", ylabel="fraction $v$")
right.legend()
notebook.show(
    fig,
    alt="Left: bits per dimension on held-out digits against the number of steps for three variances. "
    "Right: the fraction v that the network puts out against t, beside the one value that its own error calls for.",
)

# %% [markdown]
# ## Break it
#
# Take equation 15 with the mean *not* detached and the gradient of the first steps becomes the bound's: measured above. Take the
# importance law backwards and the estimate is still unbiased but useless: the third row of experiment 1. And take the clip away
# from the cosine schedule.

# %%
unclipped = 1 - f[1:] / f[:-1]
print(f"last beta without the clip: {float(unclipped[-1]):.12f}, with it {float(betas[-1]):.3f}")
print(
    f"alphas_cumprod[T]: {float(f[-1] / f[0]):.1e} against {float(cosine.alphas_cumprod[-1]):.1e}"
)
amplification = [float(a.rsqrt()) for a in (f[-1] / f[0], cosine.alphas_cumprod[-1])]
print(
    f"an error of eps at T is multiplied in x0 by {amplification[0]:.0e} against {amplification[1]:.0e}"
)

# %% [markdown]
# At $t = T$ an eps-prediction is divided by $\alpha_T$. Without the clip that is a division by the rounding error of a cosine.
# With it the factor is still five digits long, which is why samples from a cosine chain are drawn with $\hat x_0$ clipped to the
# data's range, as the network above is.
#
# ## Claim check

# %%
vlb = {name: notebook.mean_interval(values) for name, values in at25.items()}
clean = {name: notebook.mean_interval(values) for name, values in exact_bits.items()}
claims = [
    notebook.Claim(
        key="learned-variance-closes-the-gap",
        statement="Equation 15 can reach the true reverse variance; neither fixed choice does",
        paper="Sigma between beta and beta-tilde",
        source="section 3.1, arXiv:2102.09672",
        experiment="N(0, 1/4) in closed form, linear betas, T = 1000 and a short chain of 50",
        ours=f"gap at T = 50: learnt {gaps[50, 0.25, 'learnt']:.0e}, beta {gaps[50, 0.25, 'beta']:.3f}, "
        f"beta-tilde {gaps[50, 0.25, 'beta-tilde']:.3f} nats",
        band="learnt below 1e-6 at both lengths, both fixed above 1e-2 at T = 50",
        seeds=0,
        control=f"beta-tilde in place of the learnt: {gaps[1000, 0.25, 'beta-tilde']:.3f}",
        control_failed=gaps[1000, 0.25, "beta-tilde"] >= 1e-6,
        grade="EXACT",
        passed=max(gaps[n, 0.25, "learnt"] for n in (50, 1000)) < 1e-6
        and min(gaps[50, 0.25, name] for name in fixed) > 1e-2,
    ),
    notebook.Claim(
        key="detached-mean",
        statement="With the mean detached, L_vlb does not touch the mean",
        paper="stop-gradient",
        source="section 3.1, arXiv:2102.09672",
        experiment="64 digits at t = 2, gradients with respect to eps",
        ours=f"gradient {push(2, True)[0]:.0f}",
        band="exactly 0",
        seeds=1,
        control=f"not detached: {leak[2]:.2f} of the gradient of L_simple",
        control_failed=leak[2] > 0,
        grade="EXACT",
        passed=push(2, True)[0] == 0,
    ),
    notebook.Claim(
        key="importance-sampling",
        statement="Drawing t by its loss makes the bound far less noisy, without bias",
        paper="a smoother curve of L_vlb, no number",
        source="section 3.3 and Figure 6, arXiv:2102.09672",
        experiment="exact denoiser of the digits, T = 1000, 200 estimates from batches of 64",
        ours=f"variance {gain:.0f} times smaller, means {shift:.1f} standard errors apart",
        band="variance at most a third, means within 4 standard errors",
        seeds=1,
        control=f"the law reversed in t: {wrong_gain:.3f} times",
        control_failed=wrong_gain < 3,
        grade="ROBUST",
        passed=gain >= 3 and shift <= 4,
    ),
    notebook.Claim(
        key="linear-wastes-its-start",
        statement="The first steps of the linear chain can be skipped, those of the cosine chain cannot",
        paper="up to 20 % skipped, ImageNet 64 × 64",
        source="Figure 4, arXiv:2102.09672",
        experiment=f"exact denoiser of the digits, {n_samples:,} samples, start at 0.6 T of 50 steps",
        ours=f"Fréchet up by {notebook.mean_interval(rises['linear']):.2f} (linear), "
        f"{notebook.mean_interval(rises['cosine']):.2f} floors (cosine)",
        band="linear below 1, cosine above 1 floor, every seed",
        seeds=len(seeds),
        control=f"cosine from linear's log-SNR: {notebook.mean_interval(rises['cosine, same log-SNR']):.2f}",
        control_failed=min(rises["cosine, same log-SNR"]) <= 1,
        grade="ROBUST",
        passed=max(rises["linear"]) < 1 < min(rises["cosine"]),
        note="The share was chosen in a pilot of two seeds.",
    ),
    notebook.Claim(
        key="fitted-variance-in-bits",
        statement="With few steps a variance fitted by the bound codes better than both fixed ones",
        paper="section 4, qualitative: learned sigmas make few steps good",
        source="section 4, arXiv:2102.09672",
        experiment=f"exact denoiser of the digits, 25 respaced steps, {n_fit:,} fresh draws",
        ours=f"{clean['fitted']:.2f}; beta {clean['beta']:.2f}, beta-tilde {clean['beta-tilde']:.2f} bits",
        band="fewest bits in every seed",
        seeds=len(seeds),
        control=f"fractions exchanged, 1 - v: {clean['exchanged']:.2f}",
        control_failed=any(
            c >= min(a, b)
            for a, b, c in zip(
                exact_bits["beta"], exact_bits["beta-tilde"], exact_bits["exchanged"], strict=True
            )
        ),
        grade="ROBUST",
        passed=all(
            c < min(a, b)
            for a, b, c in zip(
                exact_bits["beta"], exact_bits["beta-tilde"], exact_bits["fitted"], strict=True
            )
        ),
    ),
    notebook.Claim(
        key="network-variance-in-bits",
        statement="A network trained with L_hybrid has the best likelihood with its own variance",
        paper="3.99 to 3.62 bits per dimension, ImageNet 64 × 64 (all changes together)",
        source="Table 1, arXiv:2102.09672",
        experiment=f"U-Net of width {width}, {n_steps} steps, {len(held.x)} held-out digits, 25 steps",
        ours=f"{vlb['learnt']:.2f}; beta {vlb['beta']:.2f}, beta-tilde {vlb['beta-tilde']:.2f} bits",
        band="fewest bits in every seed",
        seeds=len(seeds),
        control="beta-tilde as if it were the learnt",
        control_failed=vlb["beta-tilde"].mean >= vlb["beta"].mean,
        grade="FRAGILE",
        passed=all(
            c < min(a, b)
            for a, b, c in zip(at25["beta"], at25["beta-tilde"], at25["learnt"], strict=True)
        ),
        note="The fast profile's network is too short to have learned a variance.",
    ),
]
notebook.check(claims)
notebook.claims_table(claims)

# %% [markdown]
# ## Where the code differs from the paper
#
# The released code counts steps from 0, keeps the last ten losses per step in a buffer on every device, and asks the network at the
# original index of a respaced step. Here $t = 1 \dots T$, the history is `importance.LossHistory`, and a sampler gets a grid of
# times, so that respacing needs no class of its own. In $L_\mathrm{vlb}$ the released code averages over pixels in bits, as
# `losses.hybrid_loss` does.
#
# ## Exercises
#
# 1. **Why a logarithm.** Replace equation 15 by $\sigma^2 = v \beta_t + (1-v)\tilde\beta_t$. For which steps does it matter?
#
# <details><summary>Solution</summary>
#
# ```python
# step = reverse.reverse_step(cosine, torch.tensor([2.0, 10.0, 500.0]).double(),
#                             torch.tensor([1.0, 9.0, 499.0]).double())
# half_log = (step.lower * step.upper).sqrt()
# print(half_log / ((step.lower + step.upper) / 2))
# ```
#
# Only where the bounds differ: the first few steps. There a given error of $v$ is a given *ratio* of the variance on the
# logarithmic scale, which is what the cost depends on.
#
# </details>
#
# 2. **The price of a wrong variance.** Show that with the right mean and the ratio $r$ of true to chosen variance a step
#    costs $\frac12(r - 1 - \log r)$ nats, and find the price of a factor of two either way.
#
# <details><summary>Solution</summary>
#
# The Kullback-Leibler divergence of $\mathcal N(\mu, r\sigma^2)$ from $\mathcal N(\mu, \sigma^2)$ is that expression. For $r = 2$ it is
# $0.153$, for $r = \frac12$ it is $0.097$: too small a variance is the dearer mistake, which is why $\tilde\beta_t$ loses by so
# much above.
#
# </details>
#
# 3. **The unbiased estimate.** Draw $t$ by `history.probabilities` but forget to divide by $p_t$. What do you estimate?
#
# <details><summary>Solution</summary>
#
# ```python
# p = history.probabilities
# index = torch.multinomial(p, 2000, replacement=True, generator=run.generator(90))
# print(float(terms_at((index + 1).double(), 91).mean() * T / math.log(2)))
# ```
#
# A mean in which the dear steps count far too often, so many times the bound.
#
# </details>
#
# ## What came next
#
# Dhariwal and Nichol took this model, made it wider and guided it by a classifier, and beat the best adversarial networks on
# ImageNet. The learned variance is seldom used today, because few-step solvers follow the noiseless path and need none. The
# cosine schedule lived on, and so did the question behind it: notebook `11_2021_vdm` shows that for the continuous bound
# only the two ends of the schedule matter, and the rest is variance.

# %%
run.finish()
