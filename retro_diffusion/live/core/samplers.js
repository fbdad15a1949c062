// Samplers: from noise to data, one generator each, as in retro_diffusion.samplers.
// `denoise(x, t)` gives the pair { x0, eps }; `noise(n)` gives n standard normals.
// Every step yields { t, x, nfe }: nfe is the number of function evaluations so far.

import { diffusion, drift, logsnr } from "./schedules.js";

const combine = (length, value) => Float64Array.from({ length }, (_, i) => value(i));

/** DDIM; eta = 0 is deterministic, eta = 1 is DDPM's ancestral sampling. */
export function* ddim(denoise, schedule, x, times, { eta = 0, noise = null } = {}) {
  for (let i = 1; i < times.length; i++) {
    const [t, s] = [times[i - 1], times[i]];
    const { x0, eps } = denoise(x, t);
    const [alpha, sigma] = [schedule.alpha(s), schedule.sigma(s)];
    const removed = sigma > 0 ? -Math.expm1(logsnr(schedule, t) - logsnr(schedule, s)) : 0;
    const tau = eta * sigma * Math.sqrt(removed);
    const direction = Math.sqrt(Math.max(0, sigma * sigma - tau * tau));
    const z = tau > 0 ? noise(x.length) : null;
    x = combine(x.length, (j) => alpha * x0[j] + direction * eps[j] + (z ? tau * z[j] : 0));
    yield { t: s, x, nfe: i };
  }
}

/** DDPM's ancestral sampling, with the lower variance. */
export function* ancestral(denoise, schedule, x, times, { noise }) {
  yield* ddim(denoise, schedule, x, times, { eta: 1, noise });
}

const velocity = (schedule, { x0, eps }, t) => {
  const [alphaDot, sigmaDot] = [schedule.alphaDot(t), schedule.sigmaDot(t)];
  return combine(x0.length, (j) => alphaDot * x0[j] + sigmaDot * eps[j]);
};

/** Euler's method for the probability-flow ODE. */
export function* euler(denoise, schedule, x, times) {
  for (let i = 1; i < times.length; i++) {
    const [t, s] = [times[i - 1], times[i]];
    const slope = velocity(schedule, denoise(x, t), t);
    const here = x;
    x = combine(x.length, (j) => here[j] + (s - t) * slope[j]);
    yield { t: s, x, nfe: i };
  }
}

/** Heun's method for the probability-flow ODE; Euler's where a step ends without noise. */
export function* heun(denoise, schedule, x, times) {
  let nfe = 0;
  for (let i = 1; i < times.length; i++) {
    const [t, s] = [times[i - 1], times[i]];
    const here = x;
    const slope = velocity(schedule, denoise(here, t), t);
    nfe += 1;
    x = combine(x.length, (j) => here[j] + (s - t) * slope[j]);
    if (schedule.sigma(s) > 0) {
      const there = velocity(schedule, denoise(x, s), s);
      nfe += 1;
      x = combine(x.length, (j) => here[j] + ((s - t) * (slope[j] + there[j])) / 2);
    }
    yield { t: s, x, nfe };
  }
}

/** DPM-Solver++(2M): x0_hat is extrapolated to the middle of the step. */
export function* dpmSolverPP2M(denoise, schedule, x, times) {
  let previous = null;
  let lengthBefore = Infinity;
  for (let i = 1; i < times.length; i++) {
    const [t, s] = [times[i - 1], times[i]];
    const { x0 } = denoise(x, t);
    const length = (logsnr(schedule, s) - logsnr(schedule, t)) / 2;
    const ahead = previous && Number.isFinite(length) ? length / (2 * lengthBefore) : 0;
    const ofX = schedule.sigma(s) / schedule.sigma(t);
    const ofX0 = -schedule.alpha(s) * Math.expm1(-length);
    const [here, before] = [x, previous ?? x0];
    x = combine(x.length, (j) => ofX * here[j] + ofX0 * (x0[j] + ahead * (x0[j] - before[j])));
    previous = x0;
    lengthBefore = length;
    yield { t: s, x, nfe: i };
  }
}

/** Euler-Maruyama for the reverse SDE; eta = 0 is the probability-flow ODE. */
export function* eulerMaruyama(denoise, schedule, x, times, { eta = 1, noise = null } = {}) {
  for (let i = 1; i < times.length; i++) {
    const [t, s] = [times[i - 1], times[i]];
    const { eps } = denoise(x, t);
    const [f, g, sigma] = [drift(schedule, t), diffusion(schedule, t), schedule.sigma(t)];
    const ofScore = (-(1 + eta * eta) / 2) * g * g;
    const spread = schedule.sigma(s) > 0 ? eta * g * Math.sqrt(t - s) : 0;
    const z = spread > 0 ? noise(x.length) : null;
    const here = x;
    x = combine(x.length, (j) => {
      const slope = f * here[j] - (ofScore * eps[j]) / sigma;
      return here[j] + slope * (s - t) + (z ? spread * z[j] : 0);
    });
    yield { t: s, x, nfe: i };
  }
}

/** One step of Langevin dynamics: x + (a / 2) score + sqrt(a) z. */
export function langevinStep(x, score, size, z) {
  return combine(x.length, (j) => x[j] + (size / 2) * score[j] + Math.sqrt(size) * z[j]);
}

/** Annealed Langevin dynamics over decreasing times: step sizes follow sigma^2. */
export function* annealedLangevin(denoise, schedule, x, times, { nSteps, stepSize, noise }) {
  const levels = times.filter((t) => schedule.sigma(t) > 0);
  const smallest = schedule.sigma(levels[levels.length - 1]);
  let nfe = 0;
  for (const t of levels) {
    const sigma = schedule.sigma(t);
    const size = stepSize * (sigma / smallest) ** 2;
    for (let k = 0; k < nSteps; k++) {
      const score = denoise(x, t).eps.map((eps) => -eps / sigma);
      x = langevinStep(x, score, size, noise(x.length));
      nfe += 1;
    }
    yield { t, x, nfe };
  }
  const end = times[times.length - 1];
  if (schedule.sigma(end) === 0) {
    const { x0 } = denoise(x, levels[levels.length - 1]);
    yield { t: end, x: x0.map((value) => schedule.alpha(end) * value), nfe: nfe + 1 };
  }
}
