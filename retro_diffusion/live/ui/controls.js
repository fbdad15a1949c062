// Controls: the browser's own inputs, so that keys and screen readers know them.

import { element, format } from "./dom.js";

/** A slider. `value` and `show` map its position to the quantity and to words. */
export function slider(name, { label, min, max, step, start, show = (value) => format(value, 2) }) {
  return {
    name,
    start,
    accepts: (value) => typeof value === "number" && value >= min && value <= max,
    wanted: `a number from ${min} to ${max}`,
    build(set) {
      const output = element("output");
      const input = element("input", { type: "range", min, max, step, name, input: () => set(Number(input.value)) });
      const write = (value) => {
        input.value = value;
        output.textContent = show(value);
        input.setAttribute("aria-valuetext", output.textContent);
      };
      return { row: element("label", { class: "rl-control" }, element("span", {}, label), input, output), write };
    },
  };
}

/** A list of which one is chosen; `options` maps names to words. */
export function choice(name, { label, options, start }) {
  return {
    name,
    start,
    accepts: (value) => value in options,
    wanted: `one of ${Object.keys(options).join(", ")}`,
    build(set) {
      const entries = Object.entries(options).map(([value, words]) => element("option", { value }, words));
      const input = element("select", { name, change: () => set(input.value) }, ...entries);
      const write = (value) => {
        input.value = value;
      };
      return { row: element("label", { class: "rl-control" }, element("span", {}, label), input), write };
    },
  };
}
