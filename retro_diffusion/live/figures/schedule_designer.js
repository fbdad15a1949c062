// The schedule designer: the same digit under three schedules, one of them the reader's.

import { nearest } from "../core/distance.js";
import { Random } from "../core/random.js";
import { addNoise, cosineVP, linearVP, logsnr } from "../core/schedules.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { figures } from "../ui/mount.js";

const COLUMNS = 11;
const LEFT = 68; // pixels for the names of the rows

const sideOf = (width) => (width - LEFT - 4) / COLUMNS;
const stripHeight = (width) => 24 + 3 * (sideOf(width) + 4);

/** Variance-preserving, log-SNR falling from `high` to `low` as u^bend. */
export function designed(high, low, bend) {
  const level = (u) => high + (low - high) * u ** bend;
  return {
    tMin: 0,
    tMax: 1,
    alpha: (u) => Math.sqrt(1 / (1 + Math.exp(-level(u)))),
    sigma: (u) => Math.sqrt(1 / (1 + Math.exp(level(u)))),
  };
}

/** Share of the time in which the log-SNR is below a level. */
export function shareBelow(schedule, level, n = 2000) {
  let below = 0;
  for (let i = 0; i < n; i++) {
    below += Number(logsnr(schedule, ((i + 0.5) / n) * schedule.tMax) < level);
  }
  return below / n;
}

const LINEAR = linearVP();
const COSINE = cosineVP();

function rows(view) {
  const { high, low, bend } = view.values;
  return [["linear VP", LINEAR, [7, 4]], ["cosine VP", COSINE, [2, 3]], ["yours", designed(high, low, bend), []]];
}

function draw(view) {
  const { plots, theme } = view;
  const us = Array.from({ length: 161 }, (_, i) => Math.max(0.001, i / 160));
  for (const name of ["scales", "levels"]) plots[name].begin(theme);
  rows(view).forEach(([name, schedule, dash], i) => {
    const style = { color: theme.series[i], dash, width: name === "yours" ? 2.6 : 1.8 };
    const ts = us.map((u) => u * schedule.tMax);
    plots.scales.line(us, ts.map(schedule.alpha), style);
    plots.scales.line(us, ts.map(schedule.sigma), { ...style, opacity: 0.55 });
    plots.levels.line(us, ts.map((t) => logsnr(schedule, t)), style);
  });
  plots.levels.line([0, 1], [-5, -5], { color: theme.ink, width: 1, dash: [1, 3] });
  plots.scales.text(0.02, 0.86, "α", { bold: true });
  plots.scales.text(0.02, 0.24, "σ", { bold: true });
  drawStrip(view);
  const mine = rows(view)[2][1];
  return {
    linear: { label: "below log-SNR −5: linear VP", value: 100 * shareBelow(LINEAR, -5), digits: 0 },
    cosine: { label: "cosine VP", value: 100 * shareBelow(COSINE, -5), digits: 0 },
    yours: { label: "yours (percent of the time)", value: 100 * shareBelow(mine, -5), digits: 0 },
  };
}

function drawStrip(view) {
  const { plots, theme } = view;
  const strip = plots.strip;
  strip.begin(theme);
  const digit = digits.clean[0];
  const eps = new Random(5).normals(digit.length);
  const side = sideOf(strip.width);
  rows(view).forEach(([name, schedule], row) => {
    const top = 24 + row * (side + 4);
    strip.words(2, top + side / 2 + 4, name, { color: theme.series[row], size: 11.5, bold: true });
    for (let column = 0; column < COLUMNS; column++) {
      const t = Math.max(1e-3, (column / (COLUMNS - 1)) * schedule.tMax);
      const scale = Math.hypot(schedule.alpha(t), schedule.sigma(t));
      strip.image(addNoise(schedule, digit, eps, t).map((value) => value / scale), LEFT + column * side + 1, top, side - 2);
    }
  });
}

figures["schedule-designer"] = {
  title: "A schedule says where the steps are spent",
  summary: "Curves of alpha, sigma and log-SNR for the linear, the cosine and the reader's schedule; "
    + "below, one digit at eleven equally spaced times under each.",
  controls: () => [
    slider("high", { label: "log-SNR, data", min: 2, max: 14, step: 0.5, start: 9, show: (v) => format(v, 1) }),
    slider("low", { label: "log-SNR, noise", min: -14, max: -1, step: 0.5, start: -9, show: (v) => format(v, 1) }),
    slider("bend", { label: "bend", min: 0.3, max: 3, step: 0.05, start: 1 }),
  ],
  plots: [
    { name: "scales", title: "signal α and noise σ", x: [0, 1], y: [0, 1], height: (width) => 0.7 * width, xLabel: "share of the time" },
    { name: "levels", title: "log-SNR", x: [0, 1], y: [-14, 14], height: (width) => 0.7 * width, xLabel: "share of the time" },
    { name: "strip", title: "one digit, eleven equally spaced times", x: [0, 1], y: [0, 1], height: stripHeight, bare: true, width: 3 },
  ],
  draw,
  predict: {
    question: "Below log-SNR −5 this digit is lost. How much of its time does the linear schedule spend there?",
    answers: ["about a tenth", "about a third", "about half"],
    reveal(view) {
      const [linear, cosine] = [shareBelow(LINEAR, -5), shareBelow(COSINE, -5)];
      view.draw();
      return {
        right: nearest([0.1, 1 / 3, 0.5], linear),
        sentence: `Measured: ${format(100 * linear, 0)} % of the linear schedule's time, ${format(100 * cosine, 0)} % of the `
          + "cosine's. Steps taken there see almost no signal: that is what the cosine schedule was made for.",
      };
    },
  },
};
