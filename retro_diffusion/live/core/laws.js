// The laws of the figures: every one is a mixture, so that its exact denoiser is known.

const range = (n) => Array.from({ length: n }, (_, i) => i);

/** Eight equal Gaussians on a circle, of variance 1 along each axis. */
export function eightGaussians(std = 0.1) {
  const radius = Math.sqrt(2 * (1 - std * std));
  const means = range(8).map((k) => [
    radius * Math.cos((k * Math.PI) / 4),
    radius * Math.sin((k * Math.PI) / 4),
  ]);
  return { means, stds: means.map(() => [std, std]), labels: range(8).map((k) => k % 2) };
}

/** Two half circles that reach into each other, a class each; beads of equal weight. */
export function twoMoons(std = 0.09, beads = 24) {
  const arc = range(beads).map((k) => ((k + 0.5) / beads) * Math.PI);
  const scale = 1.25;
  const upper = arc.map((a) => [scale * (Math.cos(a) - 0.5), scale * (Math.sin(a) - 0.25)]);
  const lower = upper.map(([x, y]) => [-x, -y]);
  const means = [...upper, ...lower];
  return { means, stds: means.map(() => [std, std]), labels: means.map((_, k) => Number(k >= beads)) };
}

/** A spiral of beads, equally far from each other; its inner half is class 0. */
export function spiral(std = 0.07, beads = 64) {
  const [first, last] = [1.5 * Math.PI, 4.5 * Math.PI];
  const means = range(beads).map((k) => {
    const u = (k + 0.5) / beads;
    const angle = Math.sqrt(first ** 2 + u * (last ** 2 - first ** 2));
    const radius = (1.9 * angle) / last;
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });
  return { means, stds: means.map(() => [std, std]), labels: means.map((_, k) => Number(2 * k >= beads)) };
}

/** One fifth of the weight at (-5, -5), four fifths at (5, 5), unit variance. */
export function unequalModes() {
  return { means: [[-5, -5], [5, 5]], stds: [[1, 1], [1, 1]], weights: [0.2, 0.8], labels: [0, 1] };
}

/** Three modes on a line. */
export function threeOnALine() {
  return { means: [[-1.4], [0.1], [1.3]], stds: [[0.18], [0.12], [0.25]], weights: [0.45, 0.2, 0.35] };
}

/** The planar laws that a reader can choose, and what they are called. */
export const LAWS = { ring: eightGaussians(), moons: twoMoons(), spiral: spiral() };
export const LAW_NAMES = { ring: "eight clusters", moons: "two moons", spiral: "a spiral" };
