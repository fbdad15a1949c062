// Motions that several figures share.

/** A `play` that moves the control `name` evenly from one end to the other, as fast as `seconds` for all of it. */
export function sweep(name, { from, to, seconds }) {
  const arrived = (value) => (to > from ? value >= to : value <= to);
  return {
    label: "Play",
    start(view) {
      if (arrived(view.values[name])) view.values[name] = from;
    },
    tick(view, elapsed) {
      const next = view.values[name] + ((to - from) * elapsed) / seconds;
      view.values[name] = arrived(next) ? to : next;
      return !arrived(next);
    },
    jump(view) {
      view.values[name] = to;
    },
  };
}
