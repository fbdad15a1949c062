// A plot: a canvas with data coordinates, drawn sharp on every screen.

import { element, format } from "./dom.js";

const MARGIN = { left: 40, right: 8, top: 22, bottom: 30 };
const BARE = { left: 4, right: 4, top: 22, bottom: 4 };

/** About five round numbers between two ends. */
export function ticks(low, high, wanted = 5) {
  if (low > high) return ticks(high, low, wanted);
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => (first + i) * step);
}

export class Plot {
  /**
   * `spec`: { name, title, x: [low, high], y: [low, high], height (of a width, in pixels),
   * xLabel, bare (no axes), width (share of the row, 1 by default) }.
   */
  constructor(spec) {
    this.spec = spec;
    this.canvas = element("canvas", { role: "img", "aria-label": spec.title });
    this.box = element("div", { class: "rl-plot" }, this.canvas);
    this.box.style.flexGrow = spec.width ?? 1;
    this.box.style.flexBasis = `${(spec.width ?? 1) * 15}em`;
    this.margin = spec.bare ? BARE : MARGIN;
    this.x = spec.x;
    this.y = spec.y;
  }

  /** Clear the canvas, set what it shows, and draw its frame. */
  begin(theme, { x = this.spec.x, y = this.spec.y, title = this.spec.title } = {}) {
    this.theme = theme;
    this.x = x;
    this.y = y;
    this.width = Math.max(120, this.box.clientWidth || 320);
    this.height = Math.round(this.spec.height(this.width));
    const scale = globalThis.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.height * scale);
    this.canvas.style.height = `${this.height}px`;
    this.context = this.canvas.getContext("2d");
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.context.clearRect(0, 0, this.width, this.height);
    if (!this.spec.bare) this._axes();
    this._words(title, this.margin.left, 14, { bold: true });
  }

  /** Pixels of a point of the data. */
  toX(value) {
    const span = this.width - this.margin.left - this.margin.right;
    return this.margin.left + ((value - this.x[0]) / (this.x[1] - this.x[0])) * span;
  }

  toY(value) {
    const span = this.height - this.margin.top - this.margin.bottom;
    return this.height - this.margin.bottom - ((value - this.y[0]) / (this.y[1] - this.y[0])) * span;
  }

  /** The data's coordinates under a pixel. */
  at(px, py) {
    const width = this.width - this.margin.left - this.margin.right;
    const height = this.height - this.margin.top - this.margin.bottom;
    return [
      this.x[0] + ((px - this.margin.left) / width) * (this.x[1] - this.x[0]),
      this.y[0] + ((this.height - this.margin.bottom - py) / height) * (this.y[1] - this.y[0]),
    ];
  }

  /** Marks at (x, y), (x, y), ...; `shape` is "dot", "cross" or "ring". */
  points(flat, { color = this.theme.series[0], shape = "dot", size = 2, opacity = 1 } = {}) {
    const { context } = this;
    this._inside(() => {
      context.globalAlpha = opacity;
      context.fillStyle = context.strokeStyle = color;
      context.lineWidth = 1.3;
      context.beginPath();
      for (let i = 0; i < flat.length; i += 2) this._mark(shape, this.toX(flat[i]), this.toY(flat[i + 1]), size);
      if (shape === "dot") context.fill();
      else context.stroke();
    });
  }

  /** A line through points; `dash` is a pattern in pixels. */
  line(xs, ys, { color = this.theme.series[0], dash = [], width = 2, opacity = 1 } = {}) {
    const { context } = this;
    this._inside(() => {
      context.globalAlpha = opacity;
      context.strokeStyle = color;
      context.lineWidth = width;
      context.setLineDash(dash);
      context.beginPath();
      for (let i = 0; i < xs.length; i++) context.lineTo(this.toX(xs[i]), this.toY(ys[i]));
      context.stroke();
    });
  }

  /** A vertical line over the whole height: where the figure stands. */
  cursor(x) {
    this.line([x, x], this.y, { color: this.theme.ink, width: 1, dash: [4, 3] });
  }

  /** Bars from zero; `edges` has one entry more than `heights`. */
  bars(edges, heights, { color = this.theme.series[0], opacity = 0.5 } = {}) {
    this._inside(() => {
      this.context.globalAlpha = opacity;
      this.context.fillStyle = color;
      heights.forEach((height, i) => {
        const [left, right] = [this.toX(edges[i]), this.toX(edges[i + 1])];
        this.context.fillRect(left, this.toY(height), right - left - 1, this.toY(0) - this.toY(height));
      });
    });
  }

  /** Arrows from (x, y), (x, y), ... along (u, v), (u, v), ... in units of the data. */
  arrows(flat, along, { color = this.theme.ink, opacity = 0.6 } = {}) {
    const { context } = this;
    this._inside(() => {
      context.globalAlpha = opacity;
      context.strokeStyle = color;
      context.lineWidth = 1;
      context.beginPath();
      for (let i = 0; i < flat.length; i += 2) {
        const [x, y] = [this.toX(flat[i]), this.toY(flat[i + 1])];
        const [u, v] = [this.toX(flat[i] + along[i]) - x, this.toY(flat[i + 1] + along[i + 1]) - y];
        context.moveTo(x, y);
        context.lineTo(x + u, y + v);
        for (const side of [-1, 1]) {
          context.moveTo(x + u, y + v);
          context.lineTo(x + u - 0.35 * (u + side * 0.7 * v), y + v - 0.35 * (v - side * 0.7 * u));
        }
      }
      context.stroke();
    });
  }

  /** Shades of values in [0, 1] on a grid, row by row from the bottom, over the whole frame. */
  heat(values, columns, rows) {
    const [red, green, blue] = this.theme.heat;
    const pixels = new ImageData(columns, rows);
    for (let i = 0; i < values.length; i++) {
      const [row, column] = [rows - 1 - Math.floor(i / columns), i % columns];
      pixels.data.set([red, green, blue, 150 * values[i]], 4 * (row * columns + column));
    }
    this._picture(pixels, this.toX(this.x[0]), this.toY(this.y[1]),
      this.toX(this.x[1]) - this.toX(this.x[0]), this.toY(this.y[0]) - this.toY(this.y[1]), true);
  }

  /** A square grey image, values from -1 (black) to 1 (white), its corner and side in pixels. */
  image(values, left, top, side) {
    const n = Math.round(Math.sqrt(values.length));
    const pixels = new ImageData(n, n);
    values.forEach((value, i) => {
      const grey = 127.5 * (1 + Math.min(1, Math.max(-1, value)));
      pixels.data.set([grey, grey, grey, 255], 4 * i);
    });
    this._picture(pixels, left, top, side, side, false);
  }

  /** Names of lines, each with a piece of it, from the top down; `left` is a share of the width. */
  legend(entries, left = 0) {
    const start = this.margin.left + 8 + left * (this.width - this.margin.left);
    entries.forEach(({ words, color = this.theme.ink, dash = [], width = 2 }, i) => {
      const top = this.margin.top + 14 + 16 * i;
      const { context } = this;
      context.save();
      context.strokeStyle = color;
      context.lineWidth = width;
      context.setLineDash(dash);
      context.beginPath();
      context.moveTo(start, top - 4);
      context.lineTo(start + 26, top - 4);
      context.stroke();
      context.restore();
      this._words(words, start + 32, top, { color, size: 11.5 });
    });
  }

  /** An open rectangle in pixels. */
  outline(left, top, width, height) {
    this.context.strokeStyle = this.theme.series[1];
    this.context.lineWidth = 2;
    this.context.strokeRect(left, top, width, height);
  }

  /** Words at a point of the data. */
  text(x, y, words, options = {}) {
    this._words(words, this.toX(x) + (options.dx ?? 0), this.toY(y) + (options.dy ?? 0), options);
  }

  /** Words at a pixel. */
  words(left, top, words, options = {}) {
    this._words(words, left, top, options);
  }

  _words(words, px, py, { color = this.theme.ink, align = "left", bold = false, size = 12 } = {}) {
    this.context.font = `${bold ? "600 " : ""}${size}px system-ui, sans-serif`;
    this.context.textAlign = align;
    this.context.textBaseline = "alphabetic";
    this.context.fillStyle = color;
    this.context.fillText(words, px, py);
  }

  _mark(shape, px, py, size) {
    const { context } = this;
    if (shape === "cross") {
      context.moveTo(px - size, py - size);
      context.lineTo(px + size, py + size);
      context.moveTo(px - size, py + size);
      context.lineTo(px + size, py - size);
    } else {
      context.moveTo(px + size, py);
      context.arc(px, py, size, 0, 2 * Math.PI);
    }
  }

  _picture(pixels, left, top, width, height, smooth) {
    const small = document.createElement("canvas");
    [small.width, small.height] = [pixels.width, pixels.height];
    small.getContext("2d").putImageData(pixels, 0, 0);
    this.context.imageSmoothingEnabled = smooth;
    this.context.drawImage(small, left, top, width, height);
  }

  _inside(draw) {
    const { context, margin } = this;
    context.save();
    context.beginPath();
    context.rect(margin.left, margin.top, this.width - margin.left - margin.right,
      this.height - margin.top - margin.bottom);
    context.clip();
    draw();
    context.restore();
  }

  _axes() {
    const { context, theme } = this;
    context.strokeStyle = theme.grid;
    context.lineWidth = 1;
    context.beginPath();
    const [left, right] = [this.toX(this.x[0]), this.toX(this.x[1])];
    const [bottom, top] = [this.toY(this.y[0]), this.toY(this.y[1])];
    const marks = (low, high, length) => ticks(low, high, Math.max(3, Math.round(length / 60)));
    const digits = (values) => (values.every((v) => Number.isInteger(Number(v.toFixed(6)))) ? 0 : 1);
    const across = marks(...this.x, Math.abs(right - left));
    const upward = marks(...this.y, bottom - top);
    for (const value of across) {
      context.moveTo(this.toX(value), bottom);
      context.lineTo(this.toX(value), top);
      const close = right - this.toX(value) < 8;
      this._words(format(value, digits(across)), this.toX(value), bottom + 13, { color: theme.faint, align: close ? "right" : "center", size: 10.5 });
    }
    for (const value of upward) {
      context.moveTo(left, this.toY(value));
      context.lineTo(right, this.toY(value));
      this._words(format(value, digits(upward)), left - 4, this.toY(value) + 3.5, { color: theme.faint, align: "right", size: 10.5 });
    }
    context.stroke();
    if (this.spec.xLabel) this._words(this.spec.xLabel, right, bottom + 26, { color: theme.faint, align: "right", size: 11 });
  }
}
