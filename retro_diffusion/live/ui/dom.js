// Small helpers for elements.

let counter = 0;

/** A fresh id for an element of a page with many figures. */
export function freshId(stem) {
  counter += 1;
  return `retro-${stem}-${counter}`;
}

/** An element with attributes (functions are listeners) and children. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A number as a reader wants it: a few digits, a real minus sign. */
export function format(value, digits = 2) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const text = Math.abs(value) >= 1e4 ? value.toExponential(1) : value.toFixed(digits);
  return text.replace("-", "−").replace(/^−(0(?:\.0*)?)$/, "$1");
}
