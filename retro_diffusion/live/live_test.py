"""The live figures' mathematics, run in a bare JavaScript engine, against this library."""

import json
import math
import re
from dataclasses import dataclass

import pytest
import scipy.stats
import torch
from py_mini_racer import JSEvalException, MiniRacer

from retro_diffusion import live, oracles, samplers, schedules, times
from retro_diffusion.evaluation import energy_distance
from retro_diffusion.parameterizations import Prediction

SCHEDULES = {
    "linearVP()": schedules.LinearVP(),
    "linearVP(0.5, 12)": schedules.LinearVP(0.5, 12.0),
    "cosineVP()": schedules.CosineVP(),
    "geometricVE(0.01, 10)": schedules.GeometricVE(0.01, 10.0),
    "sigmaSchedule(20)": schedules.SigmaSchedule(20.0),
    "rectifiedFlow()": schedules.RectifiedFlow(),
}
LAWS = ("LAWS.ring", "LAWS.moons", "LAWS.spiral", "unequalModes()", "threeOnALine()")


class Engine:
    """The figures' script without a page."""

    def __init__(self) -> None:
        self._engine = MiniRacer()
        self._engine.eval(live.script())

    def __call__(self, expression: str, **values):
        """Evaluate an expression in which the script's names and `values` are known."""
        given = "".join(f"const {k} = {json.dumps(v)};" for k, v in values.items())
        plain = "(_, v) => ArrayBuffer.isView(v) ? Array.from(v) : v"
        program = f"(() => {{ with (Retro) {{ {given} return JSON.stringify({expression}, {plain}); }} }})()"
        return json.loads(self._engine.eval(program))


@pytest.fixture(scope="module")
def js():
    return Engine()


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def flat(x):
    return x.flatten().tolist()


def close(ours, theirs, tolerance=1e-9):
    torch.testing.assert_close(
        tensor(ours).flatten(), theirs.flatten(), rtol=tolerance, atol=tolerance
    )


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(js, law, schedule):
    """The library's mixture with the figure's own parameters."""
    given = js(law)
    weights = given.get("weights")
    labels = given.get("labels")
    return oracles.GaussianMixture(
        schedule,
        tensor(given["means"]),
        tensor(given["stds"]),
        None if weights is None else tensor(weights),
        None if labels is None else torch.tensor(labels),
    )


# ---- schedules -------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_and_their_derivatives_are_those_of_the_library(js, name):
    schedule = SCHEDULES[name]
    # A rectified flow's drift is infinite at its end.
    t = torch.linspace(0.002, 0.998 * schedule.t_max, 41, dtype=torch.float64)
    for method in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
        camel = re.sub("_d", "D", method)
        close(js(f"ts.map((t) => {name}.{camel}(t))", ts=flat(t)), getattr(schedule, method)(t))
    for function in ("logsnr", "drift", "diffusion"):
        close(
            js(f"ts.map((t) => {function}({name}, t))", ts=flat(t)), getattr(schedule, function)(t)
        )
    x0, eps = draw(5), draw(5, seed=1)
    noisy = js(f"addNoise({name}, x0, eps, 0.3)", x0=flat(x0), eps=flat(eps))
    close(noisy, schedule.add_noise(x0, eps, torch.tensor(0.3, dtype=torch.float64)))
    assert js(f"[{name}.tMin, {name}.tMax]") == [schedule.t_min, schedule.t_max]


def test_time_grids_are_those_of_the_library(js):
    for name in ("linearVP()", "cosineVP()"):
        schedule = SCHEDULES[name]
        close(js(f"uniformTimes({name}, 7)"), times.uniform(schedule, 7))
        close(js(f"uniformTimes({name}, 7, 1e-3)"), times.uniform(schedule, 7, end=1e-3))
        close(js(f"logsnrTimes({name}, 9, 1e-3)"), times.uniform_logsnr(schedule, 9, end=1e-3))
    close(js("geometricLevels(10, 0.01, 1)"), times.geometric(10))


@dataclass(frozen=True)
class Designed(schedules.NoiseSchedule):
    """The reader's own schedule: log-SNR from `high` to `low` as u^bend."""

    high: float
    low: float
    bend: float

    def alpha(self, t):
        return (self.high + (self.low - self.high) * t**self.bend).sigmoid().sqrt()

    def sigma(self, t):
        return (-self.high - (self.low - self.high) * t**self.bend).sigmoid().sqrt()


def test_the_designer_s_schedule_has_the_log_snr_it_promises(js):
    t = torch.linspace(0.01, 1, 30, dtype=torch.float64)
    designed = Designed(9.0, -7.0, 1.5)
    close(js("ts.map(designed(9, -7, 1.5).alpha)", ts=flat(t)), designed.alpha(t))
    close(js("ts.map(designed(9, -7, 1.5).sigma)", ts=flat(t)), designed.sigma(t))
    close(js("ts.map((t) => logsnr(designed(9, -7, 1.5), t))", ts=flat(t)), 9 - 16 * t**1.5)


def test_the_share_of_time_below_a_level_is_the_time_at_which_it_is_reached(js):
    for name in ("linearVP()", "cosineVP()"):
        schedule = SCHEDULES[name]
        reached = float(schedule.time_at(tensor(-5.0))) / schedule.t_max
        assert js(f"shareBelow({name}, -5)") == pytest.approx(1 - reached, abs=5e-4)


# ---- mixtures --------------------------------------------------------------


@pytest.mark.parametrize("path", ["linearVP()", "sigmaSchedule(20)", "rectifiedFlow()"])
@pytest.mark.parametrize("law", LAWS)
def test_denoiser_score_and_density_are_the_oracle_s(js, law, path):
    ours = oracle(js, law, SCHEDULES[path])
    x = 2 * draw(60, *ours.shape)
    for t in (0.05, 0.4, 0.97):
        given = {"x": flat(x), "t": t}
        theirs = ours(x, tensor(t))
        answer = js(f"new Mixture({law}).predict({path}, x, t)", **given)
        close(answer["x0"], theirs.x0)
        close(answer["eps"], theirs.eps)
        close(js(f"new Mixture({law}).score({path}, x, t)", **given), ours.score(x, tensor(t)))
        close(js(f"new Mixture({law}).logProb({path}, x, t)", **given), ours.log_prob(x, tensor(t)))
        shares = ours.responsibilities(x, tensor(t))
        open_to = torch.special.entr(shares).sum(1).exp().mean()
        close(js(f"new Mixture({law}).openComponents({path}, x, t)", **given), open_to)


def test_a_class_and_its_guidance_are_the_oracle_s(js):
    ours = oracle(js, "LAWS.moons", SCHEDULES["linearVP()"])
    x, t, scale = draw(40, 2), 0.4, 2.5
    within = ours(x, tensor(t), torch.zeros(40, dtype=torch.long))
    plain = ours(x, tensor(t))
    answer = js("new Mixture(LAWS.moons).predict(linearVP(), x, t, 0)", x=flat(x), t=t)
    close(answer["x0"], within.x0)
    guided = js(
        'denoiserFor(new Mixture(LAWS.moons), linearVP(), "half", s)(x, t)', x=flat(x), t=t, s=scale
    )
    close(guided["x0"], plain.x0 + scale * (within.x0 - plain.x0))
    close(guided["eps"], plain.eps + scale * (within.eps - plain.eps))
    log_prob = js("new Mixture(LAWS.moons).logProb(linearVP(), x, t, 0)", x=flat(x), t=t)
    close(log_prob, ours.log_prob(x, tensor(t), torch.zeros(40, dtype=torch.long)))


def test_the_ring_has_the_parameters_of_the_library_s(js):
    from retro_diffusion.data import toy

    close(js("LAWS.ring.means"), toy.eight_gaussians_parameters().means)
    close(js("LAWS.ring.stds"), toy.eight_gaussians_parameters().stds)


@pytest.mark.parametrize("law", LAWS)
def test_samples_have_the_mean_and_the_variance_of_their_law(js, law):
    ours = oracle(js, law, schedules.LinearVP())
    n = 20_000
    x = tensor(js(f"new Mixture({law}).sample({n}, new Random(2))")).unflatten(0, (n, -1))
    weights = ours.log_weights.exp()
    mean = weights @ ours.means
    variance = weights @ (ours.stds**2 + ours.means**2) - mean**2
    assert ((x.mean(0) - mean).abs() < 4.5 * (variance / n).sqrt()).all()
    torch.testing.assert_close(x.var(0), variance, rtol=0.06, atol=0)


def test_samples_of_a_class_belong_to_it(js):
    x = js("new Mixture(unequalModes()).sample(500, new Random(1), 1)")
    assert min(x) > 0  # the mode at (5, 5), unit variance


def test_normals_are_normal_and_seeds_differ(js):
    x = js("new Random(5).normals(20000)")
    assert scipy.stats.kstest(x, "norm").pvalue > 1e-3
    assert abs(scipy.stats.pearsonr(x[:-1], x[1:]).statistic) < 4 / math.sqrt(len(x))
    other = js("new Random(6).normals(20000)")
    assert abs(scipy.stats.pearsonr(x, other).statistic) < 4 / math.sqrt(len(x))
    assert js("new Random(5).normals(3)") == x[:3]


# ---- samplers --------------------------------------------------------------

GRID = "[...logsnrTimes(path, 11, 1e-3), 0]"


def ours_and_theirs(
    js, call, sample, law="LAWS.moons", path="linearVP()", grid=GRID, n=24, draws=0
):
    """Final samples, and evaluations, of a sampler of the figures and of the library's."""
    schedule = SCHEDULES[path]
    denoiser = oracle(js, law, schedule)
    x = schedule.sigma(tensor(schedule.t_max)) * draw(n, 2)
    generator = torch.Generator().manual_seed(3)
    z = [flat(torch.randn((n, 2), generator=generator, dtype=torch.float64)) for _ in range(draws)]
    prepare = f"const path = {path}, times = {grid}, f = exactDenoiser(new Mixture({law}), path);"
    prepare += "let next = 0; const noise = () => Float64Array.from(z[next++]);"
    walk = f"let end; for (const state of {call}) end = state; return {{...end, times, next}};"
    answer = js(f"(() => {{ {prepare} {walk} }})()", x=flat(x), z=z)
    times_used = tensor(answer["times"])
    counted = Counting(denoiser)
    theirs = samplers.last(sample(counted, x, times_used, torch.Generator().manual_seed(3)))
    assert answer["next"] == draws
    assert answer["nfe"] == counted.calls
    close(answer["x"], theirs, 1e-8)


class Counting:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoiser) -> None:
        self.denoiser, self.schedule, self.calls = denoiser, denoiser.schedule, 0

    def __call__(self, x_t, t, cond=None) -> Prediction:
        self.calls += 1
        return self.denoiser(x_t, t, cond)


def test_ddim_walks_as_the_library_s(js):
    ours_and_theirs(js, "ddim(f, path, x, times)", lambda f, x, t, _: samplers.ddim(f, x, t))
    for eta in (0.4, 1.0):
        ours_and_theirs(
            js,
            f"ddim(f, path, x, times, {{ eta: {eta}, noise }})",
            lambda f, x, t, g, eta=eta: samplers.ddim(f, x, t, eta=eta, generator=g),
            draws=11,
        )


def test_ancestral_sampling_walks_as_the_library_s(js):
    ours_and_theirs(
        js,
        "ancestral(f, path, x, times, { noise })",
        lambda f, x, t, g: samplers.ancestral(f, x, t, generator=g),
        draws=11,
    )


def test_the_ode_solvers_walk_as_the_library_s(js):
    grid = "uniformTimes(path, 12)"
    ours_and_theirs(
        js, "euler(f, path, x, times)", lambda f, x, t, _: samplers.euler(f, x, t), grid=grid
    )
    ours_and_theirs(
        js, "heun(f, path, x, times)", lambda f, x, t, _: samplers.heun(f, x, t), grid=grid
    )
    ours_and_theirs(
        js,
        "dpmSolverPP2M(f, path, x, times)",
        lambda f, x, t, _: samplers.dpm_solver_pp_2m(f, x, t),
    )


@pytest.mark.parametrize(("eta", "draws"), [(0.0, 0), (0.5, 20), (1.0, 20)])
def test_the_reverse_sde_and_its_family_walk_as_the_library_s(js, eta, draws):
    ours_and_theirs(
        js,
        f"eulerMaruyama(f, path, x, times, {{ eta: {eta}, noise }})",
        lambda f, x, t, g: samplers.euler_maruyama(f, x, t, eta=eta, generator=g),
        grid="uniformTimes(path, 20, 1e-3)",
        draws=draws,
    )


def test_annealed_langevin_walks_as_the_library_s(js):
    ours_and_theirs(
        js,
        "annealedLangevin(f, path, x, times, { nSteps: 3, stepSize: 0.01, noise })",
        lambda f, x, t, g: samplers.annealed_langevin(
            f, x, t, n_steps=3, step_size=0.01, generator=g
        ),
        path="sigmaSchedule(20)",
        grid="[...geometricLevels(5, 0.3, 20), 0]",
        draws=15,
    )


# ---- what the figures print ------------------------------------------------


def test_the_energy_distance_is_the_library_s(js):
    a, b = draw(30, 2), draw(50, 2, seed=1) + 0.5
    assert js("energyDistance(a, b, 2)", a=flat(a), b=flat(b)) == pytest.approx(
        energy_distance(a, b), rel=1e-9
    )


@pytest.mark.parametrize("name", ["ddim", "heun", "dpm"])
@pytest.mark.parametrize("grid", ["logsnr", "time"])
def test_the_laboratory_s_walks_are_the_library_s(js, name, grid):
    budget, law = {"nfe": 10, "grid": grid, "eta": 0}, {"guidance": "none", "scale": 1, "n": 50}
    states = js("trajectory(name, 'moons', budget, law)", name=name, budget=budget, law=law)
    start, end = (tensor(states[i]["x"]).unflatten(0, (50, 2)) for i in (0, -1))
    sampler = {"ddim": samplers.ddim, "heun": samplers.heun, "dpm": samplers.dpm_solver_pp_2m}[name]
    schedule = schedules.LinearVP()
    steps = 5 if name == "heun" else 10
    if grid == "time":
        t = times.uniform(schedule, steps)
    else:
        t = torch.cat([times.uniform_logsnr(schedule, steps - 1, end=1e-3), tensor([0.0])])
    theirs = samplers.last(sampler(oracle(js, "LAWS.moons", schedule), start, t))
    torch.testing.assert_close(end, theirs, rtol=1e-8, atol=1e-8)
    assert states[-1]["nfe"] <= 10


def test_walks_of_the_ode_and_the_sde_keep_the_law_and_only_the_ode_keeps_the_order(js):
    both = js("walks(1)")
    law = oracle(js, "threeOnALine()", schedules.LinearVP())
    start, ends = both["ode"][0]["x"], {side: both[side][-1] for side in both}

    def distribution(values):
        z = (tensor(values)[:, None] - law.means[:, 0]) / law.stds[:, 0]
        return (torch.special.ndtr(z) @ law.log_weights.exp()).numpy()

    for side, end in ends.items():
        statistic = scipy.stats.kstest(end["x"], distribution).statistic
        assert statistic < 1.63 / math.sqrt(len(start))  # 99 % of fresh draws
        assert js("gap(x, t)", x=end["x"], t=end["t"]) == pytest.approx(statistic, abs=6e-3), side
        rank = scipy.stats.spearmanr(start, end["x"]).statistic
        assert js("rankCorrelation(a, b)", a=start, b=end["x"]) == pytest.approx(rank, abs=1e-9)
    assert js("rankCorrelation(a, b)", a=start, b=ends["ode"]["x"]) == 1
    assert abs(js("rankCorrelation(a, b)", a=start, b=ends["sde"]["x"])) < 0.2


def test_annealing_finds_the_weights_of_the_modes_and_little_noise_does_not(js):
    shares = js(
        "[1, 2, 3].map((seed) => { let x = scattered(300, new Random(seed));"
        " const still = heavyShare(langevin(x, 0.3, 400, new Random(seed + 10)));"
        " for (const state of annealed(x, new Random(seed + 20))) x = state.x;"
        " return [still, heavyShare(x)]; })"
    )
    still, slow = tensor(shares).mean(0)
    assert abs(float(still) - 0.5) < 0.08  # three times 300 coins: 0.017 is one deviation
    assert abs(float(slow) - 0.8) < 0.08


def test_the_stored_digits_are_walks_of_ddpm_s_chain(js):
    digits = js("digits")
    linear = schedules.linear()
    shown = tensor(digits["times"])
    close(digits["alphas"], linear.alpha(shown), 1e-5)
    assert [shown[0], shown[-1]] == [linear.t_max, 0]
    for walk in digits["walks"]:
        assert len(walk["x"]) == len(walk["x0"]) == len(shown)
        assert walk["x0"][-1] == walk["x"][-1]
        assert all(len(image) == 64 and max(map(abs, image)) <= 1 for image in walk["x0"])
        assert 0.8 < tensor(walk["x"][0]).std() < 1.25  # it begins as noise


# ---- putting it together ---------------------------------------------------


def test_every_figure_is_known_by_its_name_on_both_sides(js):
    assert sorted(js("Object.keys(figures)")) == live.names()
    assert len(live.names()) >= 6


def test_the_script_stands_alone():
    for text in (live.script(), live.module()):
        assert not re.search(r"^(import|export) (?!default)", text, flags=re.MULTILINE)
        assert "http" not in text  # no other host
    assert live.module().endswith("export default { render };\n")


def test_a_mistake_of_the_engine_is_an_error_here(js):
    with pytest.raises(JSEvalException):
        js("noSuchName()")


def test_html_names_the_figure_and_keeps_its_options_safe():
    made = live.html("sampler-lab", nfe=20, law="ring")
    assert 'data-live="sampler-lab"' in made
    assert "{&quot;nfe&quot;: 20, &quot;law&quot;: &quot;ring&quot;}" in made
    assert "<b>" not in live.html("sampler-lab", law='"><b>')


def test_an_unknown_figure_is_refused_with_what_there_is():
    for make in (live.html, live.figure):
        with pytest.raises(ValueError, match="no live figure 'sampler'.*sampler-lab"):
            make("sampler")


def test_a_widget_keeps_an_element_for_the_page_beside_itself():
    widget = live.figure("x0-hat", column=3)
    assert (widget.name, widget.options) == ("x0-hat", {"column": 3})
    data, _ = widget._repr_mimebundle_()
    assert data["text/html"] == live.html("x0-hat", column=3)
    assert "application/vnd.jupyter.widget-view+json" in data
