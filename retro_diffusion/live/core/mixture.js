// A mixture of Gaussians, whose denoiser, score and density are known exactly.

/**
 * Data x_0 ~ sum_k w_k N(mean_k, diag(std_k^2)), in any number of dimensions.
 *
 * Points are flat arrays, (x, y) after (x, y). `within`, where it is not null, is a class:
 * only the components with this label count.
 */
export class Mixture {
  constructor({ means, stds, weights = null, labels = null }) {
    this.n = means.length;
    this.dim = means[0].length;
    this.means = Float64Array.from(means.flat());
    this.stds = Float64Array.from(stds.flat());
    const total = weights ? weights.reduce((a, b) => a + b) : this.n;
    this.weights = Float64Array.from({ length: this.n }, (_, k) => (weights ? weights[k] : 1) / total);
    this.labels = labels;
  }

  /** Draw `n` points; with a class, of that class alone. */
  sample(n, random, within = null) {
    const keep = this._kept(within);
    const total = keep.reduce((sum, k) => sum + this.weights[k], 0);
    const x = new Float64Array(n * this.dim);
    for (let i = 0; i < n; i++) {
      const k = this._choose(keep, random.uniform() * total);
      for (let d = 0; d < this.dim; d++) {
        const j = k * this.dim + d;
        x[i * this.dim + d] = this.means[j] + this.stds[j] * random.normal();
      }
    }
    return x;
  }

  /** Exact E[x_0 | x_t] and E[eps | x_t] of every point, as { x0, eps }. */
  predict(schedule, x, t, within = null) {
    const { dim, means, stds } = this;
    const alpha = schedule.alpha(t);
    const sigma = schedule.sigma(t);
    const x0 = new Float64Array(x.length);
    const eps = new Float64Array(x.length);
    this._eachPosterior(schedule, x, t, within, (i, k, share) => {
      for (let d = 0; d < dim; d++) {
        const j = k * dim + d;
        const variance = (alpha * stds[j]) ** 2 + sigma * sigma;
        const slope = (x[i * dim + d] - alpha * means[j]) / variance;
        x0[i * dim + d] += share * (means[j] + alpha * stds[j] ** 2 * slope);
        eps[i * dim + d] += share * sigma * slope;
      }
    });
    return { x0, eps };
  }

  /** Exact score of the law of x_t at every point. */
  score(schedule, x, t, within = null) {
    const sigma = schedule.sigma(t);
    return this.predict(schedule, x, t, within).eps.map((eps) => -eps / sigma);
  }

  /** Log-density of the law of x_t at every point, in nats. */
  logProb(schedule, x, t, within = null) {
    const joint = this._joint(schedule, t, within);
    const total = joint.kept.reduce((sum, k) => sum + this.weights[k], 0);
    return Float64Array.from({ length: x.length / this.dim }, (_, i) => {
      const logs = joint.at(x, i);
      const top = Math.max(...logs);
      return top + Math.log(logs.reduce((sum, l) => sum + Math.exp(l - top), 0) / total);
    });
  }

  /** Mean over the points of exp(entropy of "which component?"): among how many it is open. */
  openComponents(schedule, x, t) {
    const entropy = new Float64Array(x.length / this.dim);
    this._eachPosterior(schedule, x, t, null, (i, k, share) => {
      if (share > 0) entropy[i] -= share * Math.log(share);
    });
    return entropy.reduce((sum, h) => sum + Math.exp(h), 0) / entropy.length;
  }

  _kept(within) {
    const all = Array.from({ length: this.n }, (_, k) => k);
    return within === null ? all : all.filter((k) => this.labels[k] === within);
  }

  _choose(keep, u) {
    let sum = 0;
    for (const k of keep) {
      sum += this.weights[k];
      if (u < sum) return k;
    }
    return keep[keep.length - 1];
  }

  // What a density at time t needs of each component; `at` gives log w_k N(x_i; ...) of all.
  _joint(schedule, t, within) {
    const { dim } = this;
    const alpha = schedule.alpha(t);
    const sigma = schedule.sigma(t);
    const kept = this._kept(within);
    const centres = new Float64Array(kept.length * dim);
    const precisions = new Float64Array(kept.length * dim);
    const constants = new Float64Array(kept.length);
    kept.forEach((k, c) => {
      constants[c] = Math.log(this.weights[k]);
      for (let d = 0; d < dim; d++) {
        const variance = (alpha * this.stds[k * dim + d]) ** 2 + sigma * sigma;
        centres[c * dim + d] = alpha * this.means[k * dim + d];
        precisions[c * dim + d] = 1 / variance;
        constants[c] -= 0.5 * Math.log(2 * Math.PI * variance);
      }
    });
    const logs = new Float64Array(kept.length);
    const at = (x, i) => {
      for (let c = 0; c < kept.length; c++) {
        let log = constants[c];
        for (let d = 0; d < dim; d++) {
          const away = x[i * dim + d] - centres[c * dim + d];
          log -= 0.5 * away * away * precisions[c * dim + d];
        }
        logs[c] = log;
      }
      return logs;
    };
    return { kept, at };
  }

  // Calls back with the posterior probability of each component, point after point.
  _eachPosterior(schedule, x, t, within, callback) {
    const { kept, at } = this._joint(schedule, t, within);
    for (let i = 0; i < x.length / this.dim; i++) {
      const logs = at(x, i);
      let top = -Infinity;
      for (const log of logs) if (log > top) top = log;
      let total = 0;
      for (let c = 0; c < kept.length; c++) {
        logs[c] = Math.exp(logs[c] - top);
        total += logs[c];
      }
      for (let c = 0; c < kept.length; c++) {
        if (logs[c] > 1e-16 * total) callback(i, kept[c], logs[c] / total);
      }
    }
  }
}

/** A denoiser: the mixture's exact answer on this path. */
export function exactDenoiser(mixture, schedule, within = null) {
  return (x, t) => mixture.predict(schedule, x, t, within);
}

/** Classifier-free guidance of the pair: scale 0 ignores the class, 1 obeys it. */
export function guided(conditional, unconditional, scale) {
  const mix = (c, u) => c.map((value, i) => u[i] + scale * (value - u[i]));
  return (x, t) => {
    const c = conditional(x, t);
    const u = unconditional(x, t);
    return { x0: mix(c.x0, u.x0), eps: mix(c.eps, u.eps) };
  };
}
