// Colours: the page's own ink and paper, and a palette told apart with every colour vision.

const LIGHT = ["#0072B2", "#D55E00", "#00795A", "#A6518A", "#946300", "#5A5A5A"];
const DARK = ["#56B4E9", "#FF9A4D", "#4ED8AE", "#E8A3CC", "#F0C94A", "#B5B5B5"];

function luminance(color) {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  probe.fillStyle = color;
  probe.fillRect(0, 0, 1, 1);
  const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
  return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}

/** The colours in which a figure inside `root` draws itself now. */
export function themeOf(root) {
  const style = getComputedStyle(root);
  const ink = style.color;
  const dark = luminance(ink) > 0.5;
  return { ink, dark, faint: dark ? "#8a8f98" : "#6b7078", grid: dark ? "#3a3f47" : "#dfe2e6",
           series: dark ? DARK : LIGHT, heat: dark ? [86, 180, 233] : [0, 114, 178] };
}

/** Whether the reader asked for less motion. */
export function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Calls back when the page turns from light to dark or the other way. */
export function onThemeChange(callback) {
  const observer = new MutationObserver(callback);
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-light", "class"] });
  }
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", callback);
  return () => {
    observer.disconnect();
    media.removeEventListener("change", callback);
  };
}
