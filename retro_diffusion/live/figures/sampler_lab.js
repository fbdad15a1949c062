// The sampler laboratory: two samplers side by side, from the same noise, at the same price.

import { energyDistance } from "../core/distance.js";
import { LAWS, LAW_NAMES } from "../core/laws.js";
import { Mixture, exactDenoiser, guided } from "../core/mixture.js";
import { Random } from "../core/random.js";
import { ancestral, annealedLangevin, ddim, dpmSolverPP2M, eulerMaruyama, heun } from "../core/samplers.js";
import { geometricLevels, linearVP, logsnrTimes, sigmaSchedule, uniformTimes } from "../core/schedules.js";
import { choice, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { sweep } from "../ui/motion.js";
import { figures } from "../ui/mount.js";

const VP = linearVP();
const VE = sigmaSchedule(4);
const POINTS = 500;
const FLOOR_DRAWS = 6;
const LEVEL_STEPS = 4;

/** Grids of `n` steps on the VP path; both end without noise. */
const GRIDS = {
  logsnr: (n) => (n < 2 ? uniformTimes(VP, n) : [...logsnrTimes(VP, n - 1, 1e-3), 0]),
  time: (n) => uniformTimes(VP, n),
};

const levels = (nfe) => [...geometricLevels(Math.max(2, Math.round((nfe - 1) / LEVEL_STEPS)), 0.08, 4), 0];

/** Each sampler: its words, its path, and its walk for a budget of evaluations. */
export const SAMPLERS = {
  ancestral: {
    words: "DDPM (ancestral)",
    path: VP,
    run: (f, x, { nfe, grid }, noise) => ancestral(f, VP, x, GRIDS[grid](nfe), { noise }),
  },
  ddim: {
    words: "DDIM",
    path: VP,
    run: (f, x, { nfe, grid, eta }, noise) => ddim(f, VP, x, GRIDS[grid](nfe), { eta, noise }),
  },
  heun: {
    words: "Heun",
    path: VP,
    run: (f, x, { nfe, grid }) => heun(f, VP, x, GRIDS[grid](Math.ceil(nfe / 2))),
  },
  dpm: {
    words: "DPM-Solver++(2M)",
    path: VP,
    run: (f, x, { nfe, grid }) => dpmSolverPP2M(f, VP, x, GRIDS[grid](nfe)),
  },
  sde: {
    words: "reverse SDE (Euler)",
    path: VP,
    run: (f, x, { nfe, grid }, noise) => eulerMaruyama(f, VP, x, GRIDS[grid](nfe), { noise }),
  },
  langevin: {
    words: "annealed Langevin",
    path: VE,
    run: (f, x, { nfe }, noise) => annealedLangevin(f, VE, x, levels(nfe), { nSteps: LEVEL_STEPS, stepSize: 0.002, noise }),
  },
};

/** The denoiser of a law on a path, guided towards class 0 if asked for. */
export function denoiserFor(mixture, path, guidance, scale) {
  const plain = exactDenoiser(mixture, path);
  return guidance === "none" ? plain : guided(exactDenoiser(mixture, path, 0), plain, scale);
}

/** All states of a sampler, the start first; `budget` is { nfe, grid, eta }. */
export function trajectory(name, law, budget, { guidance, scale, n = POINTS, seed = 1 }) {
  const { path, run } = SAMPLERS[name];
  const mixture = new Mixture(LAWS[law]);
  const random = new Random(seed);
  const width = Math.hypot(path.alpha(path.tMax), path.sigma(path.tMax));
  const start = random.normals(2 * n).map((z) => width * z);
  const denoise = denoiserFor(mixture, path, guidance, scale);
  const states = [{ t: path.tMax, x: start, nfe: 0 }];
  for (const state of run(denoise, start, budget, (k) => random.normals(k))) states.push(state);
  return states;
}

/** Data to compare with, and the mean distance between two such draws. */
export function reference(law, guidance) {
  const mixture = new Mixture(LAWS[law]);
  const drawn = (seed) => mixture.sample(POINTS, new Random(seed), guidance === "none" ? null : 0);
  const data = drawn(11);
  const others = Array.from({ length: FLOOR_DRAWS }, (_, i) => energyDistance(drawn(12 + i), data, 2));
  return { data, floor: others.reduce((a, b) => a + b) / FLOOR_DRAWS };
}

function draw(view) {
  const { values } = view;
  const { law, guidance, scale, progress } = values;
  const budget = { nfe: values.nfe, grid: values.grid, eta: values.eta };
  const { data, floor } = view.once("reference", [law, guidance], () => reference(law, guidance));
  const numbers = {};
  for (const side of ["a", "b"]) {
    const name = values[side];
    const inputs = [name, law, budget, guidance, scale];
    const states = view.once(`states-${side}`, inputs, () => trajectory(name, law, budget, { guidance, scale }));
    const end = states[states.length - 1];
    const distance = view.once(`distance-${side}`, inputs, () => energyDistance(end.x, data, 2));
    drawSide(view, side, states, Math.round(progress * (states.length - 1)), data);
    const label = SAMPLERS[name].words;
    numbers[`nfe-${side}`] = { label: `${label}: evaluations`, value: end.nfe, digits: 0 };
    numbers[`distance-${side}`] = { label: "distance in floors", value: distance / floor, digits: 1 };
  }
  return numbers;
}

function drawSide(view, side, states, shown, data) {
  const { theme, values } = view;
  const plot = view.plots[side];
  const { path, words } = SAMPLERS[values[side]];
  const { t, x } = states[shown];
  // Where the noise is not bounded, points are shown at the scale of the data.
  const unit = (time) => (path === VE ? 1 / Math.hypot(1, path.sigma(time)) : 1);
  plot.begin(theme, { title: words });
  plot.points(data, { color: theme.faint, size: 1.1, opacity: 0.55 });
  const steps = states.slice(0, shown + 1);
  for (let i = 0; i < 40; i += 2) {
    const along = (d) => steps.map((state) => unit(state.t) * state.x[i + d]);
    plot.line(along(0), along(1), { color: theme.ink, width: 0.8, opacity: 0.45 });
  }
  const [shape, color] = side === "a" ? ["dot", theme.series[0]] : ["cross", theme.series[1]];
  plot.points(x.map((value) => unit(t) * value), { shape, color, size: 2, opacity: 0.85 });
}

const words = Object.fromEntries(Object.entries(SAMPLERS).map(([name, sampler]) => [name, sampler.words]));

figures["sampler-lab"] = {
  title: "Sampler laboratory: same noise, same price",
  summary: "Two samplers with exact denoisers walk from the same noise to the data with the same number of evaluations; "
    + "distance is the energy distance to fresh data, in units of that between two draws of the data.",
  controls: () => [
    choice("a", { label: "left", options: words, start: "ancestral" }),
    choice("b", { label: "right", options: words, start: "dpm" }),
    slider("nfe", { label: "evaluations", min: 2, max: 120, step: 1, start: 10, show: (v) => format(v, 0) }),
    choice("grid", { label: "steps equal in", options: { logsnr: "log-SNR", time: "time" }, start: "logsnr" }),
    slider("eta", { label: "η of DDIM", min: 0, max: 1, step: 0.05, start: 0 }),
    choice("law", { label: "data", options: LAW_NAMES, start: "moons" }),
    choice("guidance", { label: "class", options: { none: "none", half: "class 0, guided" }, start: "none" }),
    slider("scale", { label: "guidance scale", min: 0, max: 6, step: 0.25, start: 1 }),
    slider("progress", { label: "progress", min: 0, max: 1, step: 0.01, start: 1, show: (v) => `${format(100 * v, 0)} %` }),
  ],
  plots: [
    { name: "a", title: "left", x: [-2.9, 2.9], y: [-2.9, 2.9], height: (width) => width },
    { name: "b", title: "right", x: [-2.9, 2.9], y: [-2.9, 2.9], height: (width) => width },
  ],
  draw,
  play: sweep("progress", { from: 0, to: 1, seconds: 3 }),
  predict: {
    question: "Ten evaluations each. How much nearer to the data does the second-order solver come than ancestral sampling?",
    answers: ["about as near", "several times nearer", "more than fifty times nearer"],
    reveal(view) {
      view.set({ a: "ancestral", b: "dpm", nfe: 10, grid: "logsnr", guidance: "none", progress: 1 });
      const { "distance-a": left, "distance-b": right } = view.numbers();
      const ratio = left / right;
      return {
        right: ratio < 2 ? 0 : ratio < 50 ? 1 : 2,
        sentence: `Measured: ${format(left, 1)} floors against ${format(right, 1)}, a ratio of ${format(ratio, 1)}. `
          + "Give both 120 evaluations and see what remains of it.",
      };
    },
  },
};
