// Noise schedules x_t = alpha(t) x_0 + sigma(t) eps: data at tMin, noise at tMax.
// The same paths, names and units as retro_diffusion.schedules.

/** Variance-preserving path of the rate betaMin + t (betaMax - betaMin), t in [0, 1]. */
export function linearVP(betaMin = 0.1, betaMax = 20) {
  const integral = (t) => betaMin * t + 0.5 * (betaMax - betaMin) * t * t;
  const rate = (t) => betaMin + (betaMax - betaMin) * t;
  const alpha = (t) => Math.exp(-0.5 * integral(t));
  const sigma = (t) => Math.sqrt(-Math.expm1(-integral(t)));
  return {
    tMin: 0,
    tMax: 1,
    alpha,
    sigma,
    alphaDot: (t) => -0.5 * rate(t) * alpha(t),
    sigmaDot: (t) => (0.5 * rate(t) * alpha(t) ** 2) / sigma(t),
  };
}

/** alpha = cos(pi t / 2), sigma = sin(pi t / 2), ending just short of pure noise. */
export function cosineVP(tMax = 0.999) {
  const half = Math.PI / 2;
  return {
    tMin: 0,
    tMax,
    alpha: (t) => Math.sin((1 - t) * half),
    sigma: (t) => Math.sin(t * half),
    alphaDot: (t) => -half * Math.sin(t * half),
    sigmaDot: (t) => half * Math.sin((1 - t) * half),
  };
}

/** Variance-exploding path, sigma = sigmaMin (sigmaMax / sigmaMin)^t, t in [0, 1]. */
export function geometricVE(sigmaMin = 0.01, sigmaMax = 50) {
  const ratio = Math.log(sigmaMax / sigmaMin);
  const sigma = (t) => sigmaMin * Math.exp(ratio * t);
  return {
    tMin: 0,
    tMax: 1,
    alpha: () => 1,
    sigma,
    alphaDot: () => 0,
    sigmaDot: (t) => ratio * sigma(t),
  };
}

/** x_t = x_0 + t eps: time is the noise level. */
export function sigmaSchedule(tMax = 80) {
  return {
    tMin: 0,
    tMax,
    alpha: () => 1,
    sigma: (t) => t,
    alphaDot: () => 0,
    sigmaDot: () => 1,
  };
}

/** The straight path x_t = (1 - t) x_0 + t eps, t in [0, 1]. */
export function rectifiedFlow() {
  return {
    tMin: 0,
    tMax: 1,
    alpha: (t) => 1 - t,
    sigma: (t) => t,
    alphaDot: () => -1,
    sigmaDot: () => 1,
  };
}

/** alpha x0 + sigma eps. */
export function addNoise(schedule, x0, eps, t) {
  const [alpha, sigma] = [schedule.alpha(t), schedule.sigma(t)];
  return x0.map((value, i) => alpha * value + sigma * eps[i]);
}

/** Log signal-to-noise ratio, log(alpha^2 / sigma^2). */
export function logsnr(schedule, t) {
  return 2 * (Math.log(schedule.alpha(t)) - Math.log(schedule.sigma(t)));
}

/** f of the forward SDE dx = f x dt + g dw. */
export function drift(schedule, t) {
  return schedule.alphaDot(t) / schedule.alpha(t);
}

/** g of the forward SDE: g^2 = d(sigma^2)/dt - 2 f sigma^2. */
export function diffusion(schedule, t) {
  const sigma = schedule.sigma(t);
  const square = 2 * sigma * (schedule.sigmaDot(t) - drift(schedule, t) * sigma);
  return Math.sqrt(Math.max(0, square));
}

/** The time at which the path has this log-SNR, by bisection; beyond its range, its end. */
export function timeAt(schedule, wanted) {
  let early = schedule.tMin;
  let late = schedule.tMax;
  for (let i = 0; i < 200; i++) {
    const middle = (early + late) / 2;
    if (middle === early || middle === late) break;
    if (logsnr(schedule, middle) > wanted) early = middle;
    else late = middle;
  }
  return logsnr(schedule, late) >= wanted ? late : early;
}

/** `n + 1` equally spaced times from tMax down to `end`. */
export function uniformTimes(schedule, n, end = schedule.tMin) {
  return Array.from({ length: n + 1 }, (_, i) => schedule.tMax + (i / n) * (end - schedule.tMax));
}

/** `n + 1` times, equally spaced in log-SNR, from tMax down to `end`. */
export function logsnrTimes(schedule, n, end) {
  const first = logsnr(schedule, schedule.tMax);
  const final = logsnr(schedule, end);
  return Array.from({ length: n + 1 }, (_, i) => {
    if (i === 0) return schedule.tMax;
    return i === n ? end : timeAt(schedule, first + (i / n) * (final - first));
  });
}

/** `n` noise levels from sigmaMax down to sigmaMin, each the same factor below the last. */
export function geometricLevels(n, sigmaMin, sigmaMax) {
  return Array.from({ length: n }, (_, i) => sigmaMax * (sigmaMin / sigmaMax) ** (i / (n - 1)));
}
