// The score of a mixture at a noise level, and particles that follow it.

import { nearest } from "../core/distance.js";
import { unequalModes } from "../core/laws.js";
import { Mixture, exactDenoiser } from "../core/mixture.js";
import { Random } from "../core/random.js";
import { annealedLangevin, langevinStep } from "../core/samplers.js";
import { geometricLevels, sigmaSchedule } from "../core/schedules.js";
import { choice, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { figures } from "../ui/mount.js";

const MIXTURE = new Mixture(unequalModes());
const PATH = sigmaSchedule(20);
const REACH = 9;
const LEVELS = geometricLevels(60, 0.3, 20);
const STEPS_A_LEVEL = 12;
const SIZE = 0.1; // Langevin step size in units of sigma^2
const START = 300;

const sigmaOf = (position) => 0.3 * (20 / 0.3) ** position;
const placeOf = (sigma) => Math.min(1, Math.max(0, Math.log(sigma / 0.3) / Math.log(20 / 0.3)));

/** Particles spread evenly over the square. */
export function scattered(n, random) {
  return Float64Array.from({ length: 2 * n }, () => REACH * (2 * random.uniform() - 1));
}

/** Langevin dynamics at one level of noise, from `x`. */
export function langevin(x, sigma, nSteps, random) {
  for (let i = 0; i < nSteps; i++) {
    const score = MIXTURE.score(PATH, x, sigma);
    x = langevinStep(x, score, SIZE * (1 + sigma * sigma), random.normals(x.length));
  }
  return x;
}

/** Annealed Langevin dynamics from `x`, a generator of states. */
export function annealed(x, random) {
  const stepSize = SIZE * LEVELS[LEVELS.length - 1] ** 2;
  const options = { nSteps: STEPS_A_LEVEL, stepSize, noise: (n) => random.normals(n) };
  return annealedLangevin(exactDenoiser(MIXTURE, PATH), PATH, x, LEVELS, options);
}

/** The share of points nearer to the heavy mode at (5, 5). */
export function heavyShare(x) {
  let near = 0;
  for (let i = 0; i < x.length; i += 2) near += Number(x[i] + x[i + 1] > 0);
  return x.length ? near / (x.length / 2) : NaN;
}

function particles(view) {
  if (!view.particles) {
    view.random = new Random(3);
    view.particles = langevin(scattered(START, view.random), 0.3, 400, view.random);
    view.dropped = 0;
  }
  return view.particles;
}

function scatter(view) {
  view.random = new Random(3);
  view.particles = scattered(START, view.random);
  view.states = null;
}

function draw(view) {
  const { plots, theme, values } = view;
  const sigma = sigmaOf(values.level);
  const field = plots.field;
  const x = particles(view);
  field.begin(theme);
  const shades = view.once("shades", [values.level], () => density(sigma));
  field.heat(shades, 61, 61);
  const { places, along } = view.once("arrows", [values.level], () => arrows(sigma));
  field.arrows(places, along, { color: theme.ink });
  field.points(x, { color: theme.series[1], size: 2.2, opacity: 0.9 });
  if (view.aim) field.points(view.aim, { shape: "cross", color: theme.ink, size: 6 });
  return {
    sigma: { label: "σ", value: sigma, digits: 2 },
    particles: { label: "particles", value: x.length / 2, digits: 0 },
    heavy: { label: "in the heavy mode (percent)", value: 100 * heavyShare(x), digits: 0 },
    truth: { label: "the law says", value: 80, digits: 0 },
  };
}

function density(sigma) {
  const grid = new Float64Array(2 * 61 * 61);
  for (let i = 0; i < 61 * 61; i++) {
    grid[2 * i] = REACH * (2 * ((i % 61) / 60) - 1);
    grid[2 * i + 1] = REACH * (2 * (Math.floor(i / 61) / 60) - 1);
  }
  const logs = MIXTURE.logProb(PATH, grid, sigma);
  const top = logs.reduce((a, b) => Math.max(a, b));
  return logs.map((log) => Math.sqrt(Math.exp(log - top)));
}

function arrows(sigma) {
  const n = 15;
  const places = new Float64Array(2 * n * n);
  for (let i = 0; i < n * n; i++) {
    places[2 * i] = REACH * (2 * (((i % n) + 0.5) / n) - 1);
    places[2 * i + 1] = REACH * (2 * ((Math.floor(i / n) + 0.5) / n) - 1);
  }
  const score = MIXTURE.score(PATH, places, sigma);
  const along = score.map((_, j) => {
    const i = 2 * Math.floor(j / 2);
    const length = Math.hypot(score[i], score[i + 1]);
    return (score[j] / (length + 1e-12)) * (0.35 + 0.75 * Math.tanh((length * sigma) / 2));
  });
  return { places, along };
}

figures["score-field"] = {
  title: "Follow the score",
  summary: "The density and score of a mixture with four fifths of its weight above right and one fifth below left, "
    + "smoothed by noise sigma, with particles that follow Langevin dynamics.",
  controls: () => [
    slider("level", { label: "noise σ", min: 0, max: 1, step: 0.005, start: 0, show: (v) => format(sigmaOf(v), 2) }),
    choice("dynamics", {
      label: "dynamics",
      options: { fixed: "Langevin at this σ", annealed: "annealed: σ falls from 20" },
      start: "fixed",
    }),
  ],
  plots: [{ name: "field", title: "density, score and particles", x: [-REACH, REACH], y: [-REACH, REACH], height: (width) => Math.min(0.72 * width, 460) }],
  draw,
  pick: {
    plot: "field",
    verb: "drops twenty particles",
    at(view, x, y) {
      const before = particles(view);
      const more = Float64Array.from({ length: 40 }, (_, j) => (j % 2 ? y : x) + 0.15 * view.random.normal());
      view.particles = Float64Array.of(...before, ...more).slice(-4000);
    },
  },
  actions: { Scatter: scatter, Clear: (view) => {
    particles(view);
    view.particles = new Float64Array(0);
  } },
  play: {
    label: "Run",
    start(view) {
      particles(view);
      view.states = null;
      view.ticks = 0;
      if (view.values.dynamics === "annealed") view.states = annealed(view.particles, view.random);
    },
    tick(view) {
      if (!view.states) {
        view.particles = langevin(view.particles, sigmaOf(view.values.level), 2, view.random);
        view.ticks += 1;
        return view.ticks < 600;
      }
      const { value, done } = view.states.next();
      if (done) return false;
      view.particles = value.x;
      view.values.level = placeOf(value.t);
      return true;
    },
    jump(view) {
      while (this.tick(view));
    },
  },
  predict: {
    question: "The particles shown began evenly spread and took 400 Langevin steps with little noise. The law has 80 % of "
      + "its weight above right. If σ falls slowly from 20 instead, how many end there?",
    answers: ["still about half", "about two thirds", "about 80 %"],
    reveal(view) {
      const random = new Random(3);
      const before = langevin(scattered(START, random), 0.3, 400, random);
      let x = scattered(START, new Random(4));
      for (const state of annealed(x, new Random(5))) x = state.x;
      view.random = random;
      view.particles = x;
      view.set({ level: 0, dynamics: "annealed" });
      const share = heavyShare(x);
      return {
        right: nearest([0.5, 2 / 3, 0.8], share),
        sentence: `Measured: ${format(100 * share, 0)} % of ${START} particles with annealing, ${format(100 * heavyShare(before), 0)} % `
          + "without. With much noise the modes are one hill, and the score across it knows their weights.",
      };
    },
  },
};
