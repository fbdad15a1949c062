// What DDPM thinks of the end, all along the way; computed beforehand by the library.

import { nearest } from "../core/distance.js";
import { choice, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { figures } from "../ui/mount.js";

const rootMeanSquare = (a, b) => Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0) / a.length);

const LEFT = 34; // pixels for the names of the rows
const sideOf = (width) => (width - LEFT - 4) / digits.times.length;
const stripHeight = (width) => 24 + 2 * (sideOf(width) + 4) + 4;

const lastOf = (list) => list[list.length - 1];

/** The first column at which x0_hat is nearer to the end than half of its first distance. */
export function decidedAt(walk) {
  const end = lastOf(walk.x);
  const distances = walk.x0.map((x0) => rootMeanSquare(x0, end));
  return distances.findIndex((distance) => distance < distances[0] / 2);
}

function draw(view) {
  const { theme, values, plots } = view;
  const walk = digits.walks[Number(values.walk)];
  const { times } = digits;
  const strip = plots.strip;
  strip.begin(theme);
  const side = sideOf(strip.width);
  [["xₜ", walk.x], ["x̂₀", walk.x0]].forEach(([words, images], row) => {
    const top = 24 + row * (side + 4);
    strip.words(4, top + side / 2 + 4, words, { bold: true });
    images.forEach((image, i) => strip.image(image, LEFT + i * side + 1, top, side - 2));
  });
  strip.outline(LEFT + values.column * side + 0.5, 23, side - 1, 2 * side + 6);
  const near = plots.near;
  near.begin(theme);
  const end = lastOf(walk.x);
  const steps = times.map((_, i) => i);
  near.line(steps, walk.x.map((x) => rootMeanSquare(x, end)), { color: theme.series[1], dash: [7, 4] });
  near.line(steps, walk.x0.map((x0) => rootMeanSquare(x0, end)), { color: theme.series[0] });
  near.legend([
    { words: "xₜ", color: theme.series[1], dash: [7, 4] },
    { words: "x̂₀", color: theme.series[0] },
  ]);
  near.cursor(values.column);
  return {
    t: { label: "t", value: times[values.column], digits: 0 },
    alpha: { label: "α", value: digits.alphas[values.column], digits: 3 },
    distance: { label: "x̂₀ to the end (rms)", value: rootMeanSquare(walk.x0[values.column], end), digits: 3 },
  };
}

figures["x0-hat"] = {
  title: "What the network believes on the way",
  summary: "Two rows of images from noise to a digit: the sample x_t, and the network's guess of the end, x0 hat; below, "
    + "the distance of both to the final sample.",
  controls: () => [
    slider("column", { label: "moment", min: 0, max: digits.times.length - 1, step: 1, start: 4, show: (i) => `t = ${digits.times[i]}` }),
    choice("walk", {
      label: "walk",
      options: Object.fromEntries(digits.walks.map(({ label }, i) => [String(i), `asked for a ${label}`])),
      start: "0",
    }),
  ],
  plots: [
    { name: "strip", title: "from noise to a digit", x: [0, 1], y: [0, 1], height: stripHeight, bare: true, width: 3 },
    { name: "near", title: "distance to the final sample (rms)", x: [0, 12], y: [0, 2], height: (width) => Math.max(150, 0.3 * width), width: 3, xLabel: "moment" },
  ],
  draw,
  play: {
    label: "Play",
    start(view) {
      view.elapsed = 0;
      if (view.values.column >= digits.times.length - 1) view.values.column = 0;
      view.first = view.values.column;
    },
    tick(view, seconds) {
      view.elapsed += seconds;
      const last = digits.times.length - 1;
      view.values.column = Math.min(last, view.first + Math.floor(view.elapsed / 0.4));
      return view.values.column < last;
    },
    jump(view) {
      view.values.column = digits.times.length - 1;
    },
  },
  predict: {
    question: "How far must the walk have gone before the guess x̂₀ has come half of its way to the final digit?",
    answers: ["a quarter of the steps", "half of the steps", "three quarters"],
    reveal(view) {
      const shares = digits.walks.map((walk) => 1 - digits.times[decidedAt(walk)] / digits.times[0]);
      const mean = shares.reduce((a, b) => a + b) / shares.length;
      view.set({ column: decidedAt(digits.walks[Number(view.values.walk)]) });
      return {
        right: nearest([0.25, 0.5, 0.75], mean),
        sentence: `Measured over ${digits.walks.length} walks: ${shares.map((share) => `${format(100 * share, 0)} %`).join(", ")} `
          + "of the chain's steps. What is large is settled long before xₜ shows it; the last steps only sharpen.",
      };
    },
  },
};
