// One live figure on a page: its state, controls, plots, numbers, motion and question.

import { element, format, freshId } from "./dom.js";
import { Plot } from "./plot.js";
import { onThemeChange, prefersStillness, themeOf } from "./theme.js";

/**
 * A figure is described by
 *   title, summary        words for the heading and for those who do not see it,
 *   controls()            of ui/controls.js,
 *   plots                 specs of ui/plot.js,
 *   draw(view)            draws on view.plots, returns { name: { label, value, digits } },
 *   play                  optional { label, start(view), tick(view, seconds), jump(view) },
 *   predict               optional { question, answers, reveal(view) -> { right, sentence } },
 *   pick                  optional { plot, verb, at(view, x, y) }: a place chosen by click or keys,
 *   actions               optional { words: (view) => ... }, further buttons.
 */
export class View {
  constructor(root, spec, options = {}) {
    this.root = root;
    this.spec = spec;
    this.memory = new Map();
    this.controls = spec.controls();
    this.values = Object.fromEntries(this.controls.map((control) => [control.name, control.start]));
    this._check(options);
    Object.assign(this.values, options);
    this._build();
    this.theme = themeOf(root);
    this.set({});
    this._watch();
  }

  /** What the controls say. */
  state() {
    return { ...this.values };
  }

  /** The numbers that the figure shows now. */
  numbers() {
    return Object.fromEntries(Object.entries(this.shown).map(([name, { value }]) => [name, value]));
  }

  /** Change controls, as a reader would, and draw. */
  set(values) {
    this._check(values);
    Object.assign(this.values, values);
    for (const { name } of this.controls) this.writers[name](this.values[name]);
    this.draw();
  }

  /** Remember the result of work while its inputs stay the same. */
  once(name, inputs, work) {
    const key = JSON.stringify(inputs);
    const known = this.memory.get(name);
    if (known?.key === key) return known.value;
    const value = work();
    this.memory.set(name, { key, value });
    return value;
  }

  draw() {
    this.shown = this.spec.draw(this);
    const entries = Object.entries(this.shown).map(([name, { label, value, digits }]) =>
      element("span", { "data-number": name }, `${label} `, element("b", {}, format(value, digits))));
    this.list.replaceChildren(...entries);
    const said = Object.values(this.shown).map(({ label, value, digits }) => `${label}: ${format(value, digits)}`);
    for (const plot of Object.values(this.plots)) {
      plot.canvas.setAttribute("aria-label", `${plot.spec.title}. ${this.spec.summary} ${said.join("; ")}.`);
    }
  }

  /** Begin or stop the motion; with less motion asked for, go to its end at once. */
  toggle() {
    if (this.frame) {
      this.stop();
      return;
    }
    this.spec.play.start?.(this);
    if (prefersStillness()) {
      this.spec.play.jump(this);
      this.set({});
      return;
    }
    this.button.textContent = "Pause";
    let before = null;
    const step = (now) => {
      const seconds = before === null ? 0 : Math.min(0.1, (now - before) / 1000);
      before = now;
      const goesOn = this.spec.play.tick(this, seconds);
      this.set({});
      if (goesOn) this.frame = requestAnimationFrame(step);
      else this.stop();
    };
    this.frame = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (this.button) this.button.textContent = this.spec.play.label;
  }

  /** Take the figure off the page. */
  remove() {
    this.stop();
    this.unwatch?.();
    this.root.replaceChildren();
  }

  _check(values) {
    for (const [name, value] of Object.entries(values)) {
      const control = this.controls.find((c) => c.name === name);
      if (!control) throw new RangeError(`no control ${name}: there are ${this.controls.map((c) => c.name).join(", ")}`);
      if (!control.accepts(value)) throw new RangeError(`${name} must be ${control.wanted}, not ${value}`);
    }
  }

  _build() {
    const { spec } = this;
    const id = freshId("title");
    this.plots = Object.fromEntries(spec.plots.map((plot) => [plot.name, new Plot(plot)]));
    this.writers = {};
    const rows = this.controls.map((control) => {
      const { row, write } = control.build((value) => {
        this.values[control.name] = value;
        write(value);
        this._soon();
      });
      this.writers[control.name] = write;
      return row;
    });
    this.list = element("p", { class: "rl-numbers" });
    this.root.classList.add("retro-live");
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-labelledby", id);
    this.root.replaceChildren(
      element("p", { class: "rl-title", id }, spec.title),
      element("div", { class: "rl-plots" }, ...Object.values(this.plots).map((plot) => plot.box)),
      element("div", { class: "rl-controls" }, ...rows, ...this._buttons()),
      this.list,
      ...this._question(),
    );
    if (spec.pick) this._pick();
  }

  _buttons() {
    const made = [];
    if (this.spec.play) {
      this.button = element("button", { type: "button", class: "rl-play", click: () => this.toggle() }, this.spec.play.label);
      made.push(this.button);
    }
    for (const [words, act] of Object.entries(this.spec.actions ?? {})) {
      made.push(element("button", { type: "button", click: () => { this.stop(); act(this); this.set({}); } }, words));
    }
    return made.length ? [element("div", { class: "rl-buttons" }, ...made)] : [];
  }

  _question() {
    const { predict } = this.spec;
    if (!predict) return [];
    const verdict = element("p", { class: "rl-verdict", "aria-live": "polite" });
    const answers = predict.answers.map((words, i) =>
      element("button", { type: "button", click: () => {
        this.stop();
        const { right, sentence } = predict.reveal(this);
        const said = right === i ? "You said so." : `You said: ${words}.`;
        verdict.textContent = `${said} ${sentence}`;
        answers.forEach((button, j) => button.setAttribute("aria-pressed", String(j === i)));
      } }, words));
    return [element("div", { class: "rl-predict" },
      element("p", {}, element("strong", {}, "Predict, then try. "), predict.question),
      element("div", { class: "rl-buttons" }, ...answers), verdict)];
  }

  // A place on a plot is chosen with a click, or with arrow keys and Enter.
  _pick() {
    const { plot: name, verb, at } = this.spec.pick;
    const plot = this.plots[name];
    const { canvas } = plot;
    this.aim = null;
    canvas.tabIndex = 0;
    canvas.setAttribute("aria-description", `Arrow keys move a cross, Enter ${verb}.`);
    const choose = (x, y) => {
      at(this, x, y);
      this.set({});
    };
    canvas.addEventListener("click", (event) => choose(...plot.at(event.offsetX, event.offsetY)));
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (event.key in moves) {
        const middle = [(plot.x[0] + plot.x[1]) / 2, (plot.y[0] + plot.y[1]) / 2];
        const [x, y] = this.aim ?? middle;
        const [u, v] = moves[event.key];
        const step = (plot.x[1] - plot.x[0]) / 40;
        this.aim = [x + step * u, y + step * v];
        this.draw();
      } else if (event.key === "Enter" && this.aim) choose(...this.aim);
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("blur", () => {
      this.aim = null;
      this.draw();
    });
  }

  // Draw once before the next picture, however often a slider moved.
  _soon() {
    this.pending ??= requestAnimationFrame(() => {
      this.pending = null;
      this.draw();
    });
  }

  _watch() {
    let width = this.root.clientWidth;
    const redraw = () => {
      this.theme = themeOf(this.root);
      this._soon();
    };
    const sizes = new ResizeObserver(() => {
      if (this.root.clientWidth === width) return;
      width = this.root.clientWidth;
      redraw();
    });
    sizes.observe(this.root);
    const forget = onThemeChange(redraw);
    this.unwatch = () => {
      sizes.disconnect();
      forget();
    };
  }
}
