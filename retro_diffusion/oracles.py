"""Exact denoisers: data laws whose answer to every question of the field is a formula.

If the data are Gaussian or a mixture of Gaussians, so is every noisy marginal, and the best
possible denoiser ``E[x0 | x_t]`` is known. An oracle is called like a trained denoiser, so every
schedule, loss and sampler can be graded against the truth before anything is trained. Three laws:

- `Gaussian`: everything is linear, so that the probability flow, the true reverse step and the gap of
  the variational bound are formulas as well. For orders of convergence and exact bounds.
- `GaussianMixture`: modes, classes and a denoiser that is not linear. For densities, guidance by an
  exact classifier, and with widths of 0 for a finite data set, the optimum of every training loss.
- `digits_mixture`: a narrow Gaussian around each of 1,797 images of digits. For samplers on data
  shaped like images, without the error of a network.

Both classes answer the same calls with ``(x_t, t, cond)``: the prediction itself, `score`,
`divergence` and `total_variance`, and `log_prob`. Throughout, ``x_t = alpha_t x_0 + sigma_t eps``;
samples have shape (N, *D), laws live on the flattened ``D`` numbers, and answers are computed in
float64 on the device of ``x_t``. A NaN in a sample is a NaN in its answers: samplers are the ones to
look for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from retro_diffusion.parameterizations import Prediction
from retro_diffusion.reverse import ReverseStep, StepVariance, reverse_step
from retro_diffusion.schedules import NoiseSchedule
from retro_diffusion.tensors import match_dims
from retro_diffusion.times import check_grid


def _check_batch(x_t: Tensor, shape: torch.Size) -> None:
    if x_t.shape[1:] != shape or not x_t.is_floating_point():
        raise ValueError(
            f"x_t must be floating point of shape (N, {', '.join(map(str, shape))}), "
            f"not {x_t.dtype} of shape {tuple(x_t.shape)}"
        )


class Gaussian:
    """Data ``x_0 ~ N(mean, covariance)``.

    Along each eigenvector of the covariance, with eigenvalue ``s^2``, the noisy marginal has
    variance ``v_t = alpha_t^2 s^2 + sigma_t^2``; all formulas below follow from conditioning one
    Gaussian on another. What does not depend on ``x_t`` is asked for with times alone: the three
    ``*_variances``, along each eigenvector.

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
        If the shapes disagree, the mean is not finite or the covariance is not symmetric positive
        semi-definite.
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
        if not bool(self.mean.isfinite().all()):
            raise ValueError(f"mean must be finite, not {mean!r}")
        # The comparison refuses NaN as well, which is not equal to itself.
        if not torch.allclose(self.covariance, self.covariance.T):
            raise ValueError("covariance must be symmetric positive semi-definite: not symmetric")
        variances, self.axes = torch.linalg.eigh(self.covariance)
        if float(variances.min()) < -1e-9:
            raise ValueError(
                "covariance must be symmetric positive semi-definite: "
                f"it has the eigenvalue {float(variances.min()):g}"
            )
        self.variances = variances.clamp(min=0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` samples of ``x_0``; shape (n, D), float64, on the CPU."""
        z = torch.randn(n, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + (z * self.variances.sqrt()) @ self.axes.T

    def marginal_variances(self, t: Tensor) -> Tensor:
        """``v_t = alpha_t^2 s^2 + sigma_t^2`` along each eigenvector: independent parts add.

        Shape (D,) for ``t`` of shape (), (B, D) for (B,).
        """
        alpha, sigma = self.schedule.alpha(t)[..., None], self.schedule.sigma(t)[..., None]
        return alpha**2 * self.variances + sigma**2

    def posterior_variances(self, t: Tensor) -> Tensor:
        """``Var[x_0 | x_t] = s^2 sigma_t^2 / v_t`` along each eigenvector, for any ``x_t``.

        Precisions add: ``1 / s^2`` of the data and ``alpha_t^2 / sigma_t^2`` of what ``x_t`` says.
        Shapes as for `marginal_variances`.
        """
        return self.variances * self.schedule.sigma(t)[..., None] ** 2 / self.marginal_variances(t)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Prediction:
        """Exact ``E[x_0 | x_t]`` and the eps that goes with it.

        ``E[x_0 | x_t] = mean + alpha_t s^2 / v_t (x_t - alpha_t mean)`` along each eigenvector, and
        ``E[eps | x_t] = sigma_t / v_t (x_t - alpha_t mean)``: the regressions on ``x_t``, whose slopes
        are the covariances ``alpha_t s^2`` and ``sigma_t`` over the variance ``v_t``.

        Parameters
        ----------
        x_t
            Shape (N, D).
        t
            Shape () or (N,).
        cond
            Not read: this law has no classes.

        Returns
        -------
        Prediction
            Of the shape, dtype and device of ``x_t``.

        Raises
        ------
        ValueError
            If ``x_t`` or ``t`` does not fit.
        """
        offset = self._centred(x_t, t)
        v = self.marginal_variances(t)
        alpha, sigma = self.schedule.alpha(t)[..., None], self.schedule.sigma(t)[..., None]
        x0 = self.mean.to(offset) + self._scaled(alpha * self.variances / v, offset)
        return Prediction(x0.to(x_t), self._scaled(sigma / v, offset).to(x_t))

    def score(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Exact gradient of `log_prob`: ``-(x_t - alpha_t mean) / v_t`` along each eigenvector.

        Also where ``sigma_t = 0``, if no ``s`` is 0. Arguments as for a call; shape and dtype of
        ``x_t``.
        """
        return self._scaled(-1 / self.marginal_variances(t), self._centred(x_t, t)).to(x_t)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Log-density of the marginal of ``x_t`` at time ``t``, in nats; (N, D) to (N,), float64.

        ``-1/2 sum ((x_t - alpha_t mean)^2 / v_t + log 2 pi v_t)``: the eigenvectors are independent.
        """
        offset = self._centred(x_t, t)
        v = self.marginal_variances(t).to(offset)
        return -0.5 * (offset**2 / v + v.log() + math.log(2 * math.pi)).sum(-1)

    def divergence(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """``tr(d x0_hat / d x_t) = alpha_t sum s^2 / v_t``; arguments as for a call.

        Differentiate ``E[x_0 | x_t]`` along each eigenvector. It is ``alpha_t / sigma_t^2`` times
        `total_variance`, as for every law (see `GaussianMixture.divergence`), and holds at 0 noise.

        Returns
        -------
        Tensor
            Shape (N,), float64.
        """
        return self.schedule.alpha(t).to(x_t.device) * self._relative_variance(x_t, t)

    def total_variance(self, x_t: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """``sum_d Var[x0_d | x_t]``, the squared error that no denoiser can avoid; arguments as above.

        The sum of `posterior_variances`, for a trace is the same in every basis.

        Returns
        -------
        Tensor
            Shape (N,), float64: data units squared, summed over dimensions; the same for all ``x_t``.
        """
        return self.schedule.sigma(t).to(x_t.device) ** 2 * self._relative_variance(x_t, t)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Exact probability-flow ODE map from ``t`` to ``s``; (N, D) to (N, D).

        ``alpha_s mean + sqrt(v_s / v_t) (x_t - alpha_t mean)`` along each eigenvector, for every
        schedule: the flow of a Gaussian law can only stretch its axes.
        """
        stretch = (self.marginal_variances(s) / self.marginal_variances(t)).sqrt()
        offset = self._centred(x_t, t)
        centre = (self.schedule.alpha(s)[..., None] * self.mean).to(offset)
        return (centre + self._scaled(stretch, offset)).to(x_t)

    def reverse_variances(self, t: Tensor, s: Tensor) -> Tensor:
        """Variance of the true ``q(x_s | x_t)`` along each eigenvector.

        By the law of total variance: that of ``q(x_s | x_t, x_0)`` plus what not knowing ``x_0`` adds.
        Shape (D,) for times of shape (), (B, D) for (B,).
        """
        step = ReverseStep(*(number[..., None] for number in reverse_step(self.schedule, t, s)))
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
            Variance of the model's reverse steps, as for `likelihood.variational_bound`; called once,
            with all S steps.

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
        step = reverse_step(self.schedule, times[:-1], times[1:])
        true = self.reverse_variances(step.t, step.s)
        # The last step's lower bound is 0; as in the bound itself, the step before lends its own.
        lent = step._replace(lower=torch.cat([step.lower[:-1], step.lower[-2:-1]]))
        ratio = true / match_dims(variance(lent, Prediction(self.mean, self.mean)), true)
        alpha, sigma = self.schedule.alpha(times[0]), self.schedule.sigma(times[0])
        prior = alpha**2 + sigma**2
        end = self.marginal_variances(times[0]) / prior
        shift = alpha**2 * (self.mean**2).sum() / prior
        gap = (ratio - 1 - ratio.log()).sum() + (end - 1 - end.log()).sum() + shift
        return float(0.5 * gap)

    def _relative_variance(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``sum s^2 / v_t``, the total variance over ``sigma_t^2``; (N,) float64, on ``x_t``'s device."""
        self._check(x_t, t)
        total = (self.variances / self.marginal_variances(t)).sum(-1)
        return total.to(x_t.device).expand(len(x_t))

    def _check(self, x_t: Tensor, t: Tensor) -> None:
        _check_batch(x_t, self.mean.shape)
        self.schedule.check_times(t, batch=len(x_t))

    def _centred(self, x_t: Tensor, t: Tensor) -> Tensor:
        """``x_t - alpha_t mean`` in the eigenvectors' coordinates; (N, D) float64."""
        self._check(x_t, t)
        mean = (self.schedule.alpha(t)[..., None] * self.mean).to(x_t.device)
        return (x_t.double() - mean) @ self.axes.to(x_t.device)

    def _scaled(self, factors: Tensor, offset: Tensor) -> Tensor:
        """Back from the eigenvectors' coordinates, stretched there by (D,) or (N, D) factors; (N, D)."""
        return (factors.to(offset) * offset) @ self.axes.to(offset).T


class _Noisy(NamedTuple):
    """A batch and the components of its marginal, on its device, in float64.

    ``alpha`` and ``sigma`` have shape (1, 1), or (N, 1, 1) if each sample has its time; ``variances``,
    the ``s_k^2``, have shape (1 or K, 1 or D): 1 where components or axes are alike. ``x`` of shape
    (N, D) and ``means`` of shape (K, D) are taken from the centre of the law, because squares expanded
    about a far point lose digits.
    """

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    means: Tensor
    variances: Tensor

    @property
    def power(self) -> Tensor:
        """``alpha_t^2 + sigma_t^2``, shaped like ``alpha``."""
        return self.alpha**2 + self.sigma**2

    @property
    def v(self) -> Tensor:
        """``v_k = alpha_t^2 s_k^2 + sigma_t^2``, shape ([N,] 1 or K, 1 or D)."""
        return self.alpha**2 * self.variances + self.sigma**2

    def fold(self, squares: Tensor) -> Tensor:
        """Sum over the axes that share a width; (..., D) to (..., 1 or D)."""
        return squares if self.variances.shape[1] > 1 else squares.sum(-1, keepdim=True)

    def log_joint(self, log_weights: Tensor) -> Tensor:
        """``log w_k + log N(x; alpha_t mean_k, v_k)``, weights of shape (K,) or (N, K); (N, K)."""
        if self.alpha.ndim == 2:
            return self._log_joint_at_one_time(log_weights)
        return self._log_joint_at_each_time(log_weights)

    def _log_joint_at_one_time(self, log_weights: Tensor) -> Tensor:
        """One product of statistics ``(x, x^2)`` and natural parameters ``(alpha m / v, -1 / 2v)``.

        Expand the square: ``-(x - alpha m)^2 / 2v = x alpha m / v - x^2 / 2v - alpha^2 m^2 / 2v``.
        """
        v, shift = self.v, self.alpha * self.means
        constant = log_weights - 0.5 * (shift**2 / v + (2 * math.pi * v).log()).sum(1)
        statistics = torch.cat([self.x, self.fold(self.x**2)], 1)
        natural = torch.cat([shift / v, (-0.5 / v).expand(len(shift), -1)], 1)
        return torch.addmm(constant, statistics, natural.T)

    def _log_joint_at_each_time(self, log_weights: Tensor) -> Tensor:
        """Distances by one product, then scaled for each sample; N K D numbers if axes differ."""
        v = self.v
        if v.shape[2] > 1:
            square = (self.x[:, None] - self.alpha * self.means) ** 2 / v
            return log_weights - 0.5 * (square + (2 * math.pi * v).log()).sum(2)
        v, alpha, one = v[..., 0], self.alpha[..., 0], torch.ones_like(self.means[:, :1])
        ours = torch.cat([alpha * self.x, -0.5 * self.fold(self.x**2), -0.5 * alpha**2], 1)
        theirs = torch.cat([self.means, one, self.fold(self.means**2)], 1)
        constant = log_weights - 0.5 * self.x.shape[1] * (2 * math.pi * v).log()
        return (ours @ theirs.T) / v + constant

    def average(self, r: Tensor, factors: Tensor, values: Tensor) -> Tensor:
        """``sum_k r_k f_k values_k``; ``f`` shaped like ``v``, ``values`` (K, 1 or D); (N, 1 or D)."""
        if factors.ndim == 2:
            return r @ (factors * values)
        if factors.shape[2] == 1:
            return (r * factors[..., 0]) @ values
        return torch.einsum("nk,nkd,kd->nd", r, factors, values)

    def mean(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """``E[x_0 | x_t]`` from the centre, and ``E[eps | x_t] / sigma_t``, minus the score; (N, D).

        Both from one average, ``u = (alpha eps - sigma x_0) / sigma``, in which no digit is lost at
        either end of a path; with ``x = alpha x_0 + sigma eps``, solve for ``x_0`` and ``eps / sigma``.
        """
        u = self._combine(r, *self._slopes())
        alpha, sigma, power = (c[..., 0] for c in (self.alpha, self.sigma, self.power))
        return (alpha * self.x - sigma**2 * u) / power, (self.x + alpha * u) / power

    def relative_variance(self, r: Tensor, fold: Callable[[Tensor], Tensor]) -> Tensor:
        """``Var[x_0 | x_t] / sigma_t^2`` of coordinates, or of their sums by ``fold``; (N, 1 or D).

        By the law of total variance: that within components, ``s_k^2 / v_k``, and that of their means
        ``E[x_0 | x_t, k] = (alpha x - sigma^2 u_k) / power``, which is ``sigma^4 / power^2 Var_r[u_k]``.
        """
        of_x, of_mean = self._slopes()
        one = torch.ones_like(self.means[:, :1])
        cross = self.x * self.average(r, of_x * of_mean, self.means)
        square = self.average(r, of_x**2, one) * fold(self.x**2) + 2 * fold(cross)
        square = square + self.average(r, of_mean**2, fold(self.means**2))
        between = (square - fold(self._combine(r, of_x, of_mean) ** 2)).clamp(min=0)
        within = fold(self.average(r, self.variances / self.v, one).expand_as(self.x))
        return within + (self.sigma**2 / self.power**2)[..., 0] * between

    def _combine(self, r: Tensor, of_x: Tensor, of_mean: Tensor) -> Tensor:
        """``sum_k r_k (of_x_k x + of_mean_k mean_k)``; (N, D)."""
        one = torch.ones_like(self.means[:, :1])
        return self.average(r, of_x, one) * self.x + self.average(r, of_mean, self.means)

    def _slopes(self) -> tuple[Tensor, Tensor]:
        """Factors of ``x`` and ``mean_k`` in ``u_k = alpha (1 - s_k^2) / v_k x - power / v_k mean_k``.

        Put ``E[x_0 | x_t, k]`` and ``E[eps | x_t, k]`` of a Gaussian into ``u``.
        """
        return self.alpha * (1 - self.variances) / self.v, -self.power / self.v


class GaussianMixture:
    """Data ``x_0 ~ sum_k w_k N(mean_k, diag(std_k^2))``; with ``std = 0``, a finite data set.

    The noisy marginal is the mixture of ``N(alpha_t mean_k, v_k)``, ``v_k = alpha_t^2 std_k^2 +
    sigma_t^2``. The responsibilities ``r_k(x_t)``, the posterior probability that ``x_t`` came from
    component ``k``, give everything else. A call costs one (N, D) by (D, K) product, a softmax and one
    (N, K) by (K, D) product; only with a width for each axis *and* a time for each sample does it take
    N K D memory.

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
        If shapes disagree, a mean is not finite, a weight is not positive or a standard deviation is
        negative.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        means: Tensor,
        stds: Tensor | float,
        weights: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        if means.ndim < 2 or not bool(means.isfinite().all()):
            raise ValueError(f"means must be finite, of shape (K, *D), not {tuple(means.shape)}")
        k = len(means)
        weights = torch.ones(k) if weights is None else weights
        stds = torch.as_tensor(stds, dtype=torch.float64)
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
        self._centre = self.log_weights.exp() @ self.means
        self._variances = (self.stds if stds.ndim else self.stds[:1]) ** 2

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` samples of ``x_0``; shape (n, *D), float64, on the CPU."""
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[k] + self.stds[k] * z).unflatten(1, self.shape)

    def responsibilities(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Posterior probability of each component, ``r_k(x_t)``; (N, *D) to (N, K), rows sum to 1.

        Bayes' rule: ``r_k = w_k N(x_t; alpha_t mean_k, v_k) / sum_j w_j N(x_t; alpha_t mean_j, v_j)``.
        With ``cond`` of shape (N,), only components of that class count.
        """
        return self._log_joint(x_t, t, cond).softmax(1)

    def log_prob(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Log-density of the marginal of ``x_t`` (within class ``cond``), in nats; (N, *D) to (N,).

        ``log sum_k w_k N(x_t; alpha_t mean_k, v_k)``, within a class less the log of its weight.
        """
        log_joint = self._log_joint(x_t, t, cond)
        if cond is None:
            return log_joint.logsumexp(1)
        return log_joint.logsumexp(1) - self._log_weights(log_joint, cond).logsumexp(1)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Prediction:
        """Exact ``E[x_0 | x_t]`` (within class ``cond``) and the eps that goes with it.

        ``E[x_0 | x_t] = sum_k r_k (mean_k + alpha_t std_k^2 / v_k (x_t - alpha_t mean_k))`` and
        ``E[eps | x_t] = sum_k r_k sigma_t / v_k (x_t - alpha_t mean_k)``: those of a `Gaussian`,
        averaged over the components that ``x_t`` may have come from.

        Parameters
        ----------
        x_t
            Shape (N, *D).
        t
            Shape () or (N,).
        cond
            Classes, shape (N,); None for the whole law.

        Returns
        -------
        Prediction
            Of the shape, dtype and device of ``x_t``.

        Raises
        ------
        ValueError
            If ``x_t``, ``t`` or ``cond`` does not fit, or a class has no component.
        """
        noisy, r = self._posterior(x_t, t, cond)
        x0, slope = noisy.mean(r)
        x0, eps = x0 + self._centre.to(x0), noisy.sigma[..., 0] * slope
        return Prediction(*(part.unflatten(1, self.shape).to(x_t) for part in (x0, eps)))

    def score(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Exact gradient of `log_prob`, ``-E[eps | x_t] / sigma_t``; arguments as for a call.

        Differentiate the log-density: ``sum_k r_k (alpha_t mean_k - x_t) / v_k``, which also holds where
        ``sigma_t = 0``, if no ``std`` is 0. Shape and dtype of ``x_t``.
        """
        noisy, r = self._posterior(x_t, t, cond)
        return -noisy.mean(r)[1].unflatten(1, self.shape).to(x_t)

    def posterior_variances(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """``Var[x_0 | x_t]`` of each coordinate (within class ``cond``); (N, *D) to (N, *D), float64.

        By the law of total variance: that within the components, ``std_k^2 sigma_t^2 / v_k``, averaged
        over ``r_k``, and that of their means ``E[x_0 | x_t, k]``.
        """
        noisy, r = self._posterior(x_t, t, cond)
        relative = noisy.relative_variance(r, fold=lambda coordinates: coordinates)
        return (noisy.sigma[..., 0] ** 2 * relative).unflatten(1, self.shape)

    def total_variance(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """``sum_d Var[x0_d | x_t]``, the squared error that no denoiser can avoid; as for a call.

        The sum of `posterior_variances`, for the price of ``E|mu|^2 - |E mu|^2``.

        Returns
        -------
        Tensor
            Shape (N,), float64: data units squared, summed over dimensions.
        """
        noisy, r = self._posterior(x_t, t, cond)
        relative = noisy.relative_variance(r, noisy.fold)
        return (noisy.sigma[..., 0] ** 2 * relative).sum(1)

    def divergence(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """``tr(d x0_hat / d x_t) = alpha_t / sigma_t^2 sum_d Var[x0_d | x_t]``; as for a call.

        ``p(x_0 | x_t)`` is proportional to ``p(x_0) exp(alpha x_0.x_t / sigma^2 - alpha^2 |x_0|^2 /
        2 sigma^2)``, an exponential family in ``x_t``; so the derivative of its mean is its covariance
        times ``alpha / sigma^2``: Tweedie's formula of second order. The noise cancels in the formulas,
        and the answer holds where ``sigma_t = 0``, if no ``std`` is 0.

        Returns
        -------
        Tensor
            Shape (N,), float64.
        """
        noisy, r = self._posterior(x_t, t, cond)
        return (noisy.alpha[..., 0] * noisy.relative_variance(r, noisy.fold)).sum(1)

    @property
    def classes(self) -> Tensor:
        """The class labels, sorted; shape (C,). Raises ValueError if the mixture has no labels."""
        return self._known_labels().unique()

    def class_log_prob(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Exact classifier ``log p(cond | x_t)`` at noise level ``t``; (N, *D), (N,) to (N,).

        Bayes' rule: the joint density of ``x_t`` and the class over the density of ``x_t``. Its gradient
        is what guidance adds to `score` (Dhariwal and Nichol 2021, arXiv:2105.05233, section 4).
        """
        return self._log_joint(x_t, t, cond).logsumexp(1) - self._log_joint(x_t, t).logsumexp(1)

    def class_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Exact ``p(class | x_t)`` of every class, in the order of `classes`; (N, *D) to (N, C).

        Responsibilities summed within classes, so that rows sum to 1: the softmax of `class_log_prob`.
        """
        r = self.responsibilities(x_t, t)
        return r @ (self._known_labels()[:, None] == self.classes).to(r)

    def _posterior(self, x_t: Tensor, t: Tensor, cond: Tensor | None) -> tuple[_Noisy, Tensor]:
        """The batch against the components, and the responsibilities; the latter (N, K)."""
        noisy = self._noisy(x_t, t)
        return noisy, noisy.log_joint(self._log_weights(noisy.x, cond)).softmax(1)

    def _log_joint(self, x_t: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """``log w_k + log N(x_t; alpha_t mean_k, v_k)``, -inf outside the class; (N, K)."""
        noisy = self._noisy(x_t, t)
        return noisy.log_joint(self._log_weights(noisy.x, cond))

    def _noisy(self, x_t: Tensor, t: Tensor) -> _Noisy:
        """Check a batch, and move what a formula needs to its device."""
        _check_batch(x_t, self.shape)
        self.schedule.check_times(t, batch=len(x_t))
        x = x_t.double().flatten(1)
        alpha, sigma = (
            scale(t)[..., None, None].to(x) for scale in (self.schedule.alpha, self.schedule.sigma)
        )
        centre = self._centre.to(x)
        means = self.means.to(x) - centre
        return _Noisy(x - alpha[..., 0] * centre, alpha, sigma, means, self._variances.to(x))

    def _known_labels(self) -> Tensor:
        if self.labels is None:
            raise ValueError("this mixture has no labels: classes are for one made with labels")
        return self.labels

    def _log_weights(self, like: Tensor, cond: Tensor | None) -> Tensor:
        """Log of the weights, (K,); with ``cond`` (N, K), -inf for components of another class."""
        if cond is None:
            return self.log_weights.to(like)
        labels = self._known_labels()
        if cond.shape != like.shape[:1]:
            raise ValueError(
                f"cond must hold one class for each of {len(like)} samples, "
                f"not have shape {tuple(cond.shape)}"
            )
        known = self.classes.tolist()
        unknown = sorted(set(cond.tolist()) - set(known))
        if unknown:
            raise ValueError(f"no component has class {unknown}; classes are {known}")
        same = cond.to(like.device)[:, None] == labels.to(like.device)
        return torch.where(same, self.log_weights.to(like), -torch.inf)


def digits_mixture(schedule: NoiseSchedule, bandwidth: float = 0.1) -> GaussianMixture:
    """Smooth the 1,797 handwritten digits of scikit-learn: an exact score of image-like data.

    A kernel density estimate: one round Gaussian around each image, all as likely.

    Parameters
    ----------
    schedule
        The path.
    bandwidth
        Standard deviation of each Gaussian, >= 0, in the units of pixels in [-1, 1]; 0 for the
        1,797 images themselves.

    Returns
    -------
    GaussianMixture
        On samples of shape (N, 1, 8, 8), labelled 0 ... 9.

    Raises
    ------
    ValueError
        If the bandwidth is negative.
    """
    # Not at the top: torchvision and scikit-learn, behind `data`, take seconds to import.
    from retro_diffusion.data import digits

    images = digits()
    return GaussianMixture(schedule, images.x, bandwidth, labels=images.y)
