"""Exact denoisers: data laws whose answer to every question of the field is a formula.

If the data are Gaussian or a mixture of Gaussians, so is every noisy marginal, and the best
possible denoiser ``E[x0 | x_t]`` is known. An oracle is called like a trained denoiser, so every
schedule, loss and sampler can be graded against the truth before anything is trained.

Throughout, ``x_t = alpha_t x_0 + sigma_t eps``; samples have shape (N, *D) and laws live on the
flattened ``D`` numbers.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retro_diffusion import parameterizations
from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import StepVariance, reverse_step
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.times import check_grid


class Gaussian:
    """Data ``x_0 ~ N(mean, covariance)``.

    Along each eigenvector of the covariance, with eigenvalue ``s^2``, the noisy marginal has
    variance ``v_t = alpha_t^2 s^2 + sigma_t^2``; all formulas below follow from conditioning one
    Gaussian on another.

    Parameters
    ----------
    schedule
        The path.
    mean
        Shape (D,).
    covariance
        Shape (D, D), symmetric positive semi-definite.

    Raises
    ------
    ValueError
        If the shapes disagree or the covariance is not symmetric positive semi-definite.
    """

    def __init__(self, schedule: NoiseSchedule, mean: Tensor, covariance: Tensor) -> None:
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                "mean must have shape (D,) and covariance (D, D), "
                f"not {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        self.schedule = schedule
        self.mean = mean.double()
        self.covariance = covariance.double()
        variances, self.axes = torch.linalg.eigh(self.covariance)
        if not torch.allclose(self.covariance, self.covariance.T) or float(variances.min()) < -1e-9:
            raise ValueError("covariance must be symmetric positive semi-definite")
        self.variances = variances.clamp(min=0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` samples of ``x_0``; shape (n, D), float64."""
        z = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + (z * self.variances.sqrt()) @ self.axes.T

    def marginal_variances(self, t: Tensor) -> Tensor:
        """``v_t`` along each eigenvector; shape (D,) for ``t`` of shape (), (B, D) for (B,)."""
        alpha, sigma = self.schedule.alpha(t)[..., None], self.schedule.sigma(t)[..., None]
        return alpha**2 * self.variances + sigma**2

    def posterior_variances(self, t: Tensor) -> Tensor:
        """``Var[x_0 | x_t] = s^2 sigma_t^2 / v_t`` along each eigenvector, for any ``x_t``.

        Shapes as for `marginal_variances`.
        """
        return self.variances * self.schedule.sigma(t)[..., None] ** 2 / self.marginal_variances(t)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Exact ``E[x_0 | x_t]`` and the eps that goes with it; ``x_t`` of shape (N, D).

        ``E[x_0 | x_t] = mean + alpha_t s^2 / v_t (x_t - alpha_t mean)`` along each eigenvector, and
        ``E[eps | x_t] = sigma_t / v_t (x_t - alpha_t mean)``.
        """
        offset = self._centred(x_t, t)
        v = self.marginal_variances(t)
        alpha, sigma = self.schedule.alpha(t)[..., None], self.schedule.sigma(t)[..., None]
        x0 = self.mean + (alpha * self.variances / v * offset) @ self.axes.T
        eps = (sigma / v * offset) @ self.axes.T
        return Prediction(x0.to(x_t), eps.to(x_t))

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Log-density of the marginal of ``x_t`` at time ``t``, in nats; (N, D) to (N,)."""
        v = self.marginal_variances(t)
        return -0.5 * (self._centred(x_t, t) ** 2 / v + v.log() + math.log(2 * math.pi)).sum(-1)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Exact probability-flow ODE map from ``t`` to ``s``; (N, D) to (N, D).

        ``alpha_s mean + sqrt(v_s / v_t) (x_t - alpha_t mean)`` along each eigenvector, for every
        schedule: the flow of a Gaussian law can only stretch its axes.
        """
        stretch = (self.marginal_variances(s) / self.marginal_variances(t)).sqrt()
        x_s = (
            self.schedule.alpha(s)[..., None] * self.mean
            + (stretch * self._centred(x_t, t)) @ self.axes.T
        )
        return x_s.to(x_t)

    def reverse_variances(self, t: Tensor, s: Tensor) -> Tensor:
        """Variance of the true ``q(x_s | x_t)`` along each eigenvector; shape (D,).

        By the law of total variance: that of ``q(x_s | x_t, x_0)`` plus what not knowing ``x_0`` adds.
        """
        step = reverse_step(self.schedule, t, s)
        return step.lower + step.of_x0**2 * self.posterior_variances(t)

    def bound_gap(self, times: Tensor, variance: StepVariance) -> float:
        """How far the variational bound with this denoiser lies above ``-E[log p(x_0)]``, in nats.

        The reverse means are exact, so each step contributes ``1/2 (r - 1 - log r)`` for every
        eigenvector, ``r`` being the true variance of ``q(x_s | x_t)`` over the model's; the prior
        adds ``KL(q(x_T) || N(0, (alpha_T^2 + sigma_T^2) I))``. No sampling.

        Parameters
        ----------
        times
            Grid from noise to ``sigma = 0``, shape (S + 1,).
        variance
            Variance of the model's reverse steps, as for `likelihood.variational_bound`.

        Returns
        -------
        float
            Nats, summed over dimensions, >= 0.

        Raises
        ------
        ValueError
            If the grid has fewer than two steps or does not end at ``sigma = 0``.
        """
        times = check_grid(self.schedule, times)
        if len(times) < 3 or self.schedule.sigma(times[-1]) > 0:
            raise ValueError(
                "the bound needs at least two steps and a grid that ends where sigma = 0"
            )
        nothing = Prediction(self.mean, self.mean)
        gap, lower = 0.0, torch.tensor(0.0, dtype=torch.float64)
        for t, s in pairwise(times):
            step = reverse_step(self.schedule, t, s)
            true = self.reverse_variances(t, s)
            # The last step's lower bound is 0; as in the bound itself, the step before lends its own.
            lower = step.lower if step.lower > 0 else lower
            ratio = true / variance(step._replace(lower=lower), nothing)
            gap += float(0.5 * (ratio - 1 - ratio.log()).sum())
        end, alpha, sigma = times[0], self.schedule.alpha(times[0]), self.schedule.sigma(times[0])
        prior = alpha**2 + sigma**2
        ratio = self.marginal_variances(end) / prior
        shift = alpha**2 * (self.mean**2).sum() / prior
        return gap + float(0.5 * ((ratio - 1 - ratio.log()).sum() + shift))

    def _centred(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``x_t - alpha_t mean`` in the eigenvectors' coordinates; (N, D) float64."""
        if x_t.ndim != 2 or x_t.shape[1] != len(self.mean):
            raise ValueError(f"x_t must have shape (N, {len(self.mean)}), not {tuple(x_t.shape)}")
        self.schedule.check_times(t, batch=len(x_t))
        return (x_t.double() - self.schedule.alpha(t)[..., None] * self.mean) @ self.axes


class GaussianMixture:
    """Data ``x_0 ~ sum_k w_k N(mean_k, diag(std_k^2))``; with ``std = 0``, a finite data set.

    The noisy marginal is the mixture of ``N(alpha_t mean_k, v_k)``, ``v_k = alpha_t^2 std_k^2 +
    sigma_t^2``. The responsibilities ``r_k(x_t)``, the posterior probability that ``x_t`` came from
    component ``k``, give everything else. With round components the cost of a call is one (N, D) by
    (D, K) product; components with a width for each axis cost N K D memory.

    Parameters
    ----------
    schedule
        The path.
    means
        Shape (K, *D): one centre for each component.
    stds
        Shape () or (K,) for round components, (K, *D) for a width along each axis; >= 0.
    weights
        Shape (K,), > 0; normalised here. None means equal.
    labels
        Shape (K,), integers: the class of each component, for a call with ``cond``.

    Raises
    ------
    ValueError
        If shapes disagree, a weight is not positive or a standard deviation is negative.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: Tensor,
        stds: Tensor | float,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        k = len(means)
        weights = torch.ones(k) if weights is None else weights
        stds = torch.as_tensor(stds, dtype=torch.float64)
        if means.ndim < 2:
            raise ValueError(f"means must have shape (K, *D), not {tuple(means.shape)}")
        if stds.shape not in ((), (k,), means.shape):
            raise ValueError(
                f"stds must have shape (), ({k},) or {tuple(means.shape)}, not {tuple(stds.shape)}"
            )
        if weights.shape != (k,) or (labels is not None and labels.shape != (k,)):
            raise ValueError(
                f"weights and labels must have one entry for each of the {k} components"
            )
        if not bool((weights > 0).all()) or not bool((stds >= 0).all()):
            raise ValueError("weights must be positive and standard deviations not negative")
        self.schedule = schedule
        self.shape = means.shape[1:]
        self.means = means.double().flatten(1)
        self.stds = stds.flatten(1) if stds.ndim > 1 else stds.expand(k)[:, None]  # (K, 1 or D)
        self.log_weights = (weights.double() / weights.double().sum()).log()
        self.labels = labels

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` samples of ``x_0``; shape (n, *D), float64."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[k] + self.stds[k] * z).unflatten(1, self.shape)

    def responsibilities(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Posterior probability of each component, ``r_k(x_t)``; (N, *D) to (N, K), rows sum to 1.

        With ``cond`` of shape (N,), only components of that class count.
        """
        return self._log_joint(x_t, t, cond).softmax(1)

    def log_prob(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Log-density of the marginal of ``x_t`` (within class ``cond``), in nats; (N, *D) to (N,)."""
        log_joint = self._log_joint(x_t, t, cond)
        if cond is None:
            return log_joint.logsumexp(1)
        return log_joint.logsumexp(1) - self._log_weights(cond).logsumexp(1)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        """Exact ``E[x_0 | x_t]`` (within class ``cond``) and its eps; tensors of shape (N, *D).

        ``E[x_0 | x_t] = sum_k r_k (mean_k + alpha_t std_k^2 / v_k (x_t - alpha_t mean_k))`` and
        ``E[eps | x_t] = sum_k r_k sigma_t / v_k (x_t - alpha_t mean_k)``.
        """
        x = x_t.double().flatten(1)
        r = self.responsibilities(x_t, t, cond)
        alpha, v = self._scales(t)
        alpha, sigma = alpha[..., None], self.schedule.sigma(t)[..., None, None]
        shrink, pull = alpha * self.stds**2 / v, sigma / v  # ([N,] K, 1 or D)
        x0 = self._average(r, shrink, 1 - alpha * shrink, x).unflatten(1, self.shape)
        eps = self._average(r, pull, -alpha * pull, x).unflatten(1, self.shape)
        return Prediction(x0.to(x_t), eps.to(x_t))

    def posterior_variances(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """``Var[x_0 | x_t]`` of each coordinate (within class ``cond``); (N, *D) to (N, *D), float64.

        By the law of total variance: that within the components, ``std_k^2 sigma_t^2 / v_k``, averaged
        over ``r_k``, and that of their means ``E[x_0 | x_t, k]``.
        """
        x = x_t.double().flatten(1)
        r = self.responsibilities(x_t, t, cond)[..., None]
        alpha, v = self._scales(t)
        alpha, sigma = alpha[..., None], self.schedule.sigma(t)[..., None, None]
        shrink = alpha * self.stds**2 / v  # ([N,] K, 1 or D)
        keep = 1 - alpha * shrink

        def total(weights: Tensor, values: Tensor) -> Tensor:
            narrow = weights.shape[-1] == 1
            return weights[..., 0] @ values if narrow else (weights * values).sum(1)

        mean = (r * shrink).sum(1) * x + total(r * keep, self.means)
        square = (r * shrink**2).sum(1) * x**2 + total(r * keep**2, self.means**2)
        square = square + 2 * x * total(r * shrink * keep, self.means)
        within = (r * self.stds**2 * sigma**2 / v).sum(1)
        return (within + (square - mean**2).clamp(min=0)).unflatten(1, self.shape)

    def score(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Exact gradient of `log_prob`; shape (N, *D)."""
        return parameterizations.score(self.schedule, self(x_t, t, cond), t)

    def class_log_prob(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Exact classifier ``log p(cond | x_t)`` at noise level ``t``; (N, *D), (N,) to (N,)."""
        return self._log_joint(x_t, t, cond).logsumexp(1) - self._log_joint(x_t, t).logsumexp(1)

    def _average(self, r: Tensor, of_x: Tensor, of_mean: Tensor, x: Tensor) -> Tensor:
        """``sum_k r_k (of_x_k x + of_mean_k mean_k)``, coefficients as `_scales` shapes v_k; (N, D)."""
        x = (r[..., None] * of_x).sum(1) * x
        if self.stds.shape[1] == 1:
            return x + (r * of_mean[..., 0]) @ self.means
        return x + (r[..., None] * of_mean * self.means).sum(1)

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t`` of shape (1,) or (N, 1), and ``v_k`` of shape ([N,] K, 1 or D)."""
        alpha, sigma = self.schedule.alpha(t)[..., None], self.schedule.sigma(t)[..., None]
        return alpha, alpha[..., None] ** 2 * self.stds**2 + sigma[..., None] ** 2

    def _log_weights(self, cond: Tensor | None) -> Tensor:
        """Log of the weights, -inf for components of another class; (1, K) or (N, K)."""
        if cond is None:
            return self.log_weights[None]
        if self.labels is None:
            raise ValueError("cond was given, but this mixture has no labels")
        unknown = set(cond.tolist()) - set(self.labels.tolist())
        if unknown:
            raise ValueError(
                f"no component has class {sorted(unknown)}; classes are {sorted(set(self.labels.tolist()))}"
            )
        return torch.where(cond[:, None] == self.labels, self.log_weights, -torch.inf)

    def _log_joint(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """``log w_k + log N(x_t; alpha_t mean_k, v_k)``; (N, K)."""
        if x_t.shape[1:] != self.shape:
            raise ValueError(
                f"x_t must have shape (N, {', '.join(map(str, self.shape))}), not {tuple(x_t.shape)}"
            )
        self.schedule.check_times(t, batch=len(x_t))
        x = x_t.double().flatten(1)
        alpha, v = self._scales(t)
        if self.stds.shape[1] == 1:
            product, v = x @ self.means.T, v[..., 0]
            square = (x**2).sum(1, keepdim=True) - 2 * alpha * product
            square = (square + alpha**2 * (self.means**2).sum(1)) / v
            log_volume = x.shape[1] * (2 * math.pi * v).log()
        else:
            square = ((x[:, None] - alpha[..., None] * self.means) ** 2 / v).sum(-1)
            log_volume = (2 * math.pi * v).log().sum(-1)
        log_density = -0.5 * (square + log_volume)
        return self._log_weights(cond) + log_density
