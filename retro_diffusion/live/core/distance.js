// How far two clouds of points are from the same law, and numbers from a number.

function meanDistance(a, b, dim) {
  let total = 0;
  for (let i = 0; i < a.length; i += dim) {
    for (let j = 0; j < b.length; j += dim) {
      let square = 0;
      for (let d = 0; d < dim; d++) square += (a[i + d] - b[j + d]) ** 2;
      total += Math.sqrt(square);
    }
  }
  return (total * dim * dim) / (a.length * b.length);
}

/** Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs of points. */
export function energyDistance(a, b, dim) {
  return 2 * meanDistance(a, b, dim) - meanDistance(a, a, dim) - meanDistance(b, b, dim);
}

/** The place of the number that is nearest to a value. */
export function nearest(numbers, value) {
  const distances = numbers.map((number) => Math.abs(number - value));
  return distances.indexOf(Math.min(...distances));
}
