// From a page's elements to figures: <div data-live="NAME" data-options='{"t": 0.3}'>.

import { element } from "./dom.js";
import { View } from "./view.js";

/** The figures by name; each file of figures/ adds its own. */
export const figures = {};

function addStyle() {
  if (document.getElementById("retro-live-style")) return;
  document.head.append(element("style", { id: "retro-live-style" }, stylesheet));
}

/** Make a live figure of an element; the view is also its property `retro`. */
export function mount(root, name, options = {}) {
  addStyle();
  try {
    if (!(name in figures)) throw new RangeError(`no figure ${name}: there are ${Object.keys(figures).join(", ")}`);
    root.retro = new View(root, figures[name], options);
  } catch (error) {
    root.replaceChildren(element("p", { role: "alert" }, `This figure cannot be drawn: ${error.message}`));
    throw error;
  }
  return root.retro;
}

/** Make live every element of the page that names a figure. */
export function mountAll() {
  for (const root of document.querySelectorAll("[data-live]")) {
    if (!root.retro) mount(root, root.dataset.live, JSON.parse(root.dataset.options || "{}"));
  }
}

/** The entry that anywidget calls in a notebook. */
export function render({ model, el }) {
  const root = element("div");
  el.append(root);
  const view = mount(root, model.get("name"), model.get("options"));
  return () => view.remove();
}
