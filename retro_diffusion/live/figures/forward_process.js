// The forward process: how a cloud of points dissolves, and what forgets when.

import { LAWS, LAW_NAMES } from "../core/laws.js";
import { Mixture } from "../core/mixture.js";
import { Random } from "../core/random.js";
import { addNoise, cosineVP, geometricVE, linearVP, logsnr, rectifiedFlow } from "../core/schedules.js";
import { choice, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { sweep } from "../ui/motion.js";
import { figures } from "../ui/mount.js";

const PATHS = { linear: linearVP(), cosine: cosineVP(), flow: rectifiedFlow(), exploding: geometricVE(0.01, 10) };
const PATH_NAMES = { linear: "linear VP", cosine: "cosine VP", flow: "straight (flow)", exploding: "variance exploding" };
const DASHES = { linear: [], cosine: [7, 4], flow: [2, 3], exploding: [9, 3, 2, 3] };
const POINTS = 800;

const timeOf = (schedule, u) => Math.max(1e-4, u * schedule.tMax);

function cloud(view) {
  return view.once("cloud", [view.values.law], () => {
    const mixture = new Mixture(LAWS[view.values.law]);
    const random = new Random(1);
    const x0 = mixture.sample(POINTS, random);
    return { mixture, x0, eps: random.normals(x0.length), labels: nearestLabels(mixture, x0) };
  });
}

/** Among how many components a point is open, where the share `u` of the time has gone by. */
function open(mixture, schedule, x0, eps, u) {
  const t = timeOf(schedule, u);
  return mixture.openComponents(schedule, addNoise(schedule, x0, eps, t), t);
}

/** The share of the time after which half of the components have been forgotten. */
function forgottenAt(view, path) {
  const { mixture, x0, eps } = cloud(view);
  let [low, high] = [0, 1];
  for (let i = 0; i < 20; i++) {
    const middle = (low + high) / 2;
    if (open(mixture, PATHS[path], x0, eps, middle) < mixture.n / 2) low = middle;
    else high = middle;
  }
  return high;
}

function draw(view) {
  const { u, path } = view.values;
  const schedule = PATHS[path];
  const { mixture, x0, eps, labels } = cloud(view);
  const t = timeOf(schedule, u);
  const [alpha, sigma] = [schedule.alpha(t), schedule.sigma(t)];
  const x = addNoise(schedule, x0, eps, t);
  const reach = 2.9 * Math.max(1, Math.sqrt(alpha * alpha + sigma * sigma));
  drawCloud(view, x0, x, reach, labels);
  drawLevels(view, u);
  return {
    alpha: { label: "α", value: alpha, digits: 3 },
    sigma: { label: "σ", value: sigma, digits: 3 },
    logsnr: { label: "log-SNR", value: logsnr(schedule, t), digits: 2 },
    open: {
      label: `a point could come from (of ${mixture.n})`,
      value: view.once("open", [view.values.law, u, path], () => mixture.openComponents(schedule, x, t)),
      digits: 1,
    },
  };
}

function drawCloud(view, x0, x, reach, labels) {
  const { plots, theme } = view;
  plots.cloud.begin(theme, { x: [-reach, reach], y: [-reach, reach] });
  plots.cloud.points(x0.slice(0, 600), { color: theme.faint, size: 1, opacity: 0.35 });
  for (let i = 0; i < 24; i += 2) {
    plots.cloud.line([x0[i], x[i]], [x0[i + 1], x[i + 1]], { color: theme.faint, width: 1, opacity: 0.7 });
  }
  for (const [label, shape, color] of [[0, "dot", theme.series[0]], [1, "cross", theme.series[1]]]) {
    const some = x.filter((_, j) => labels[Math.floor(j / 2)] === label);
    plots.cloud.points(some, { shape, color, size: 2, opacity: 0.8 });
  }
}

function nearestLabels(mixture, x0) {
  return Array.from({ length: x0.length / 2 }, (_, i) => {
    let best = [Infinity, 0];
    for (let k = 0; k < mixture.n; k++) {
      const away = (x0[2 * i] - mixture.means[2 * k]) ** 2 + (x0[2 * i + 1] - mixture.means[2 * k + 1]) ** 2;
      if (away < best[0]) best = [away, mixture.labels[k]];
    }
    return best[1];
  });
}

function drawLevels(view, u) {
  const { plots, theme, values } = view;
  plots.levels.begin(theme);
  const lineOf = (name) => ({
    color: name === values.path ? theme.series[0] : theme.faint,
    width: name === values.path ? 2.6 : 1.3,
    dash: DASHES[name],
  });
  const us = Array.from({ length: 101 }, (_, i) => Math.max(0.002, i / 100));
  for (const [name, schedule] of Object.entries(PATHS)) {
    const levels = us.map((share) => logsnr(schedule, timeOf(schedule, share)));
    plots.levels.line(us, levels, lineOf(name));
  }
  plots.levels.legend(Object.keys(PATHS).map((name) => ({ words: PATH_NAMES[name], ...lineOf(name) })), 0.45);
  plots.levels.cursor(u);
}

figures["forward-process"] = {
  title: "Data dissolve into noise",
  summary: "Left: points of a known law at time t, the data behind them; lines tie some points to where they began. "
    + "Right: the log signal-to-noise ratio along four paths.",
  controls: () => [
    slider("u", { label: "time", min: 0, max: 1, step: 0.005, start: 0.2, show: (u) => `${format(100 * u, 0)} %` }),
    choice("path", { label: "path", options: PATH_NAMES, start: "linear" }),
    choice("law", { label: "data", options: LAW_NAMES, start: "ring" }),
  ],
  plots: [
    { name: "cloud", title: "xₜ = α x₀ + σ ε", x: [-3, 3], y: [-3, 3], height: (width) => width },
    { name: "levels", title: "log-SNR, four paths", x: [0, 1], y: [-14, 14], height: (width) => width, xLabel: "share of the time" },
  ],
  draw,
  play: sweep("u", { from: 0, to: 1, seconds: 5 }),
  predict: {
    question: "Two variance-preserving paths dissolve the same data. On which does a point forget its origin first, "
      + "so that half of the components are open?",
    answers: ["linear VP", "cosine VP", "both at the same time"],
    reveal(view) {
      const [linear, cosine] = ["linear", "cosine"].map((path) => forgottenAt(view, path));
      const level = (path, u) => format(logsnr(PATHS[path], timeOf(PATHS[path], u)), 2);
      view.set({ path: "linear", u: Math.round(200 * linear) / 200 });
      return {
        right: Math.abs(linear - cosine) < 0.01 ? 2 : Number(cosine < linear),
        sentence: `Measured: after ${format(100 * linear, 0)} % of the time on the linear path, ${format(100 * cosine, 0)} % `
          + `on the cosine path, and at log-SNR ${level("linear", linear)} and ${level("cosine", cosine)}: `
          + "the level decides, and a schedule only says when it is reached.",
      };
    },
  },
};
