// Digits that the library computed (tools/figures/live_digits.py), values from -1 to 1.

function decoded({ scale, times, alphas, clean, walks }) {
  const images = (list) => list.map((image) => Float64Array.from(image, (value) => value / scale));
  return { times, alphas, clean: images(clean),
           walks: walks.map(({ label, x, x0 }) => ({ label, x: images(x), x0: images(x0) })) };
}

/** { times, alphas, clean, walks: [{ label, x, x0 }, ...] } */
export const digits = decoded(digitsData);
