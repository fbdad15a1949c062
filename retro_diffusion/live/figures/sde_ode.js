// One law at every time, two ways to walk through it: the reverse SDE and the probability-flow ODE.

import { threeOnALine } from "../core/laws.js";
import { Mixture, exactDenoiser } from "../core/mixture.js";
import { Random } from "../core/random.js";
import { eulerMaruyama, heun } from "../core/samplers.js";
import { linearVP, uniformTimes } from "../core/schedules.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { sweep } from "../ui/motion.js";
import { figures } from "../ui/mount.js";

const MIXTURE = new Mixture(threeOnALine());
const PATH = linearVP();
const POINTS = 600;
const STEPS = 250;
const END = 1e-3;
const REACH = 3.2;

const tall = (width) => 0.75 * width;
const low = (width) => 0.45 * width;

/** Walks of `n` particles from one noise, as [{ t, x }, ...]: by the ODE and by the SDE. */
export function walks(seed, n = POINTS) {
  const start = new Random(seed).normals(n);
  const noise = new Random(seed + 1);
  const denoise = exactDenoiser(MIXTURE, PATH);
  const times = uniformTimes(PATH, STEPS, END);
  const all = (states) => [{ t: PATH.tMax, x: start }, ...states];
  return {
    ode: all(heun(denoise, PATH, start, times)),
    sde: all(eulerMaruyama(denoise, PATH, start, times, { noise: (k) => noise.normals(k) })),
  };
}

function ranks(x) {
  const order = Array.from(x.keys()).sort((i, j) => x[i] - x[j]);
  const rank = new Float64Array(x.length);
  order.forEach((i, place) => {
    rank[i] = place;
  });
  return rank;
}

/** Spearman's correlation of two sets of numbers. */
export function rankCorrelation(a, b) {
  const [p, q] = [ranks(a), ranks(b)];
  const n = a.length;
  const square = p.reduce((sum, value, i) => sum + (value - q[i]) ** 2, 0);
  return 1 - (6 * square) / (n * (n * n - 1));
}

/** Largest gap between the points' distribution function and the law's at time t. */
export function gap(x, t) {
  const grid = Float64Array.from({ length: 641 }, (_, i) => -4 + i / 80);
  const density = MIXTURE.logProb(PATH, grid, t).map(Math.exp);
  const sorted = Float64Array.from(x).sort();
  let [below, worst, place] = [0, 0, 0];
  for (let i = 1; i < grid.length; i++) {
    below += (density[i - 1] + density[i]) / 160;
    while (place < sorted.length && sorted[place] <= grid[i]) place += 1;
    worst = Math.max(worst, Math.abs(place / sorted.length - below));
  }
  return worst;
}

function draw(view) {
  const both = view.once("walks", [view.values.seed], () => walks(view.values.seed));
  const at = Math.round((1 - view.values.t) * STEPS);
  const numbers = {};
  for (const side of ["ode", "sde"]) {
    const states = both[side];
    drawWalks(view, side, states, at);
    drawBars(view, `${side}-bars`, states[at]);
    const label = side === "ode" ? "ODE" : "SDE";
    numbers[`${side}-gap`] = { label: `${label}: gap to the law`, value: gap(states[at].x, states[at].t), digits: 3 };
    numbers[`${side}-rank`] = { label: "rank correlation with the noise", value: rankCorrelation(states[0].x, states[at].x), digits: 2 };
  }
  numbers.floor = { label: "gap of fresh draws (95 %)", value: 1.358 / Math.sqrt(POINTS), digits: 3 };
  return numbers;
}

function drawWalks(view, side, states, at) {
  const { theme } = view;
  const plot = view.plots[side];
  plot.begin(theme);
  plot.heat(view.once("shades", [], shades), 80, 60);
  const ts = states.slice(0, at + 1).map(({ t }) => t);
  for (let i = 0; i < 24; i++) {
    const style = { color: i % 2 ? theme.series[1] : theme.ink, width: 1.1, opacity: 0.8 };
    plot.line(ts, states.slice(0, at + 1).map(({ x }) => x[i]), style);
  }
  plot.cursor(states[at].t);
}

function shades() {
  const values = new Float64Array(80 * 60);
  const line = Float64Array.from({ length: 60 }, (_, row) => REACH * (2 * ((row + 0.5) / 60) - 1));
  for (let column = 0; column < 80; column++) {
    const logs = MIXTURE.logProb(PATH, line, Math.max(END, 1 - (column + 0.5) / 80));
    const top = logs.reduce((a, b) => Math.max(a, b));
    for (let row = 0; row < 60; row++) values[row * 80 + column] = Math.exp(logs[row] - top);
  }
  return values;
}

function drawBars(view, name, { t, x }) {
  const { theme } = view;
  const plot = view.plots[name];
  plot.begin(theme);
  const bins = 32;
  const edges = Array.from({ length: bins + 1 }, (_, i) => REACH * (2 * (i / bins) - 1));
  const heights = new Array(bins).fill(0);
  for (const value of x) {
    const bin = Math.floor(((value / REACH + 1) / 2) * bins);
    if (bin >= 0 && bin < bins) heights[bin] += bins / (2 * REACH * x.length);
  }
  plot.bars(edges, heights, { color: theme.series[name === "ode-bars" ? 0 : 1] });
  const grid = Float64Array.from({ length: 161 }, (_, i) => REACH * (2 * (i / 160) - 1));
  plot.line(grid, MIXTURE.logProb(PATH, grid, t).map(Math.exp), { color: theme.ink, width: 1.6 });
}

figures["sde-ode"] = {
  title: "Same marginals, different paths",
  summary: "Above, particles walk from noise (left) to data (right) over the density of every time: by the probability-flow "
    + "ODE and by the reverse SDE. Below, histograms of all particles at the cursor, with the exact density.",
  controls: () => [
    slider("t", { label: "time t", min: 0, max: 1, step: 0.004, start: 0, show: (v) => format(v, 2) }),
    slider("seed", { label: "noise no.", min: 1, max: 9, step: 1, start: 1, show: (v) => format(v, 0) }),
  ],
  plots: [
    { name: "ode", title: "probability-flow ODE", x: [1, 0], y: [-REACH, REACH], height: tall, width: 1.3, xLabel: "t" },
    { name: "sde", title: "reverse SDE", x: [1, 0], y: [-REACH, REACH], height: tall, width: 1.3, xLabel: "t" },
    { name: "ode-bars", title: "ODE: particles and law at t", x: [-REACH, REACH], y: [0, 1.25], height: low, width: 1.3, xLabel: "x" },
    { name: "sde-bars", title: "SDE: particles and law at t", x: [-REACH, REACH], y: [0, 1.25], height: low, width: 1.3, xLabel: "x" },
  ],
  draw,
  play: sweep("t", { from: 1, to: 0, seconds: 4 }),
  predict: {
    question: "Both arrive at the same law. Rank the particles by their noise and by where they arrive: how well do the ranks agree?",
    answers: ["well for both", "ODE: perfectly, SDE: hardly", "hardly for both"],
    reveal(view) {
      view.set({ t: 0 });
      const { "ode-rank": ode, "sde-rank": sde } = view.numbers();
      const right = ode > 0.99 && sde < 0.5 ? 1 : sde >= 0.5 ? 0 : 2;
      return {
        right,
        sentence: `Measured: rank correlation ${format(ode, 3)} for the ODE, ${format(sde, 3)} for the SDE. In one dimension paths of `
          + "the ODE cannot cross, so noise encodes the sample; the SDE's own noise makes it forget.",
      };
    },
  },
};
