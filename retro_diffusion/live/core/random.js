// Random numbers from a seed: the same figure for every reader.

/** A generator of 32-bit state (a Weyl sequence, hashed), good enough for pictures. */
export class Random {
  constructor(seed) {
    this.state = seed >>> 0;
    this.spare = null;
  }

  /** Uniform on (0, 1): never 0, so that its logarithm exists. */
  uniform() {
    this.state = (this.state + 0x9e3779b9) >>> 0;
    let z = this.state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    z ^= z >>> 16;
    return ((z >>> 0) + 0.5) / 4294967296;
  }

  /** Standard normal, by the Box-Muller transform. */
  normal() {
    if (this.spare !== null) {
      const spare = this.spare;
      this.spare = null;
      return spare;
    }
    const radius = Math.sqrt(-2 * Math.log(this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** `n` standard normals. */
  normals(n) {
    return Float64Array.from({ length: n }, () => this.normal());
  }
}
