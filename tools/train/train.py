"""Train a paper's model from the command line: `bazel run train -- --paper ddpm --data mnist`.

For those who outgrow a notebook. Everything here is a choice of values for `retro_diffusion`'s own
`train`: a paper names the defaults, and each can be changed by an argument.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from retro_diffusion import (
    data,
    devices,
    distributed,
    evaluation,
    interruption,
    losses,
    parameterizations,
    plotting,
    reverse,
    samplers,
    schedules,
    times,
    training,
)
from retro_diffusion.checkpoints import CheckpointError
from retro_diffusion.denoiser import Clipped, Denoiser, DenoiserLike
from retro_diffusion.devices import InPrecision
from retro_diffusion.distributed import ProcessLostError
from retro_diffusion.likelihood import Decoder, discretized_decoder, gaussian_decoder
from retro_diffusion.networks import MLP, UNet
from tools.command_line import from_caller, positive
from tools.train import launch

PREDICTIONS = {
    "eps": parameterizations.predict_eps,
    "x0": parameterizations.predict_x0,
    "v": parameterizations.predict_v,
    "score": parameterizations.predict_score,
    "mean": reverse.predict_posterior_mean,
}
SCHEDULES = {"linear": schedules.rescaled_linear, "cosine": schedules.cosine}
VARIANCES = {
    "lower": reverse.lower_variance,
    "upper": reverse.upper_variance,
    "learned": reverse.learned_variance,
}
NORMS = {"l2": losses.l2, "l1": losses.l1, "huber": losses.huber()}
OBJECTIVES = ("simple", "hybrid", "bound")


@dataclass(frozen=True)
class Paper:
    """The defaults of a paper; every field is also an argument."""

    prediction: str
    schedule: str
    timesteps: int
    variance: str
    objective: str


PAPERS = {
    "dpm": Paper("mean", "linear", 40, "learned", "bound"),  # Sohl-Dickstein et al. 2015
    "ddpm": Paper("eps", "linear", 1000, "upper", "simple"),  # Ho et al. 2020
}


class Source(NamedTuple):
    """Data to train on, whatever they are."""

    batches: data.Batches
    reference: Tensor
    """Data for the metrics, shape (N, *D)."""
    n_classes: int
    decoder: Decoder


def main(argv: list[str] | None = None) -> None:
    """Run the command line; a mistake of the user's ends in one sentence and exit status 2."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    interruption.exit_on_sigterm()
    if arguments.processes > 1 and not distributed.launched():
        launch.launch(__file__, sys.argv[1:] if argv is None else argv, arguments.processes)
        return
    try:
        run(_settled(arguments))
        distributed.leave()
    except CheckpointError as error:
        _refuse(f"{error}; --restart begins anew, --out elsewhere")
    except FileNotFoundError as error:
        _refuse(f"{error} (here: --download, --data-root)")
    except (ValueError, OSError, training.NonFiniteLossError, ProcessLostError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        _exit(130, "train: interrupted; the same command resumes")


def _refuse(reason: str) -> NoReturn:
    _exit(2, f"train: error: {reason}")


def _exit(status: int, sentence: str) -> NoReturn:
    """End with a sentence, which the first of several processes says for all."""
    if os.environ.get("RANK", "0") == "0":
        print(sentence, file=sys.stderr)
    sys.exit(status)


def run(options: argparse.Namespace) -> None:
    """Train, and leave checkpoint, metrics and samples in the output folder.

    Parameters
    ----------
    options
        What the command line says, with the paper's defaults filled in.
    """
    device = devices.pick(options.device)
    processes = distributed.join(device)
    options.precision = devices.precision(options.precision, device)
    options.quiet = options.quiet or not processes.first
    if options.download:
        processes.agree(lambda: bool(_source(options)))  # one fetches before the others look
    source = _source(options)
    denoiser = _denoiser(options, source)
    out = _output_folder(options)
    states = training.train(
        denoiser,
        source.batches,
        n_steps=options.steps,
        loss=_loss(options, source),
        lr=options.lr,
        lr_schedule=training.warmup(options.warmup),
        ema_decay=options.ema,
        device=str(device),
        dtype=options.precision,
        seed=options.seed,
        n_parts=options.parts,
        checkpoint=out / "checkpoint.pt",
        checkpoint_every=options.checkpoint_every,
        resume=not options.restart,
        progress=not options.quiet,
    )
    if not processes.first:
        training.finish(states)
        return
    _write_settings(options, out / "settings.json")
    together = f" in {processes.size} processes" if processes.size > 1 else ""
    print(
        f"{options.paper} on {options.data}: {training.count_parameters(denoiser):,} parameters, "
        f"{options.steps:,} steps of {options.batch_size} on {device}{together}; results in {out}"
    )
    with closing(states):
        for state in _logged(states, out / "metrics.jsonl", options):
            if state.step % options.sample_every == 0 or state.step == options.steps:
                _sample(state, source, options, out)


def _write_settings(options: argparse.Namespace, path: Path) -> None:
    settings = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}
    settings["precision"] = str(options.precision).removeprefix("torch.")
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _logged(
    states: Iterator[training.TrainState], path: Path, options: argparse.Namespace
) -> Iterator[training.TrainState]:
    """Pass states through, writing the loss as a line of JSON every few steps."""
    first, start = None, time.perf_counter()
    for state in states:
        if first is None:
            first = state.step - 1
            _forget_after(path, first)
        if state.step % options.log_every == 0 or state.step == options.steps:
            seconds = time.perf_counter() - start
            images = (state.step - first) * options.batch_size
            line = {
                "step": state.step,
                "loss": state.loss,
                "lr": state.lr,
                "grad_norm": state.grad_norm,
                "images_per_second": round(images / seconds, 1),
            }
            _append(path, line)
        yield state


def _forget_after(path: Path, step: int) -> None:
    """Drop lines of steps that a resumed run is about to do again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break  # a line that a kill cut short, or the first that is to be done again
        kept.append(line)
    path.write_text("".join(kept))


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


@torch.no_grad()
def _sample(
    state: training.TrainState, source: Source, options: argparse.Namespace, out: Path
) -> None:
    """Draw samples from the averaged weights; save them as PNG and score them as a line of JSON."""
    ema = state.ema
    assert isinstance(ema, Denoiser)  # train() copies the denoiser it is given
    device = next(ema.parameters()).device
    generator = torch.Generator().manual_seed(options.seed)
    n = min(options.n_samples, len(source.reference) // 2)
    noise = samplers.starting_noise(
        ema.schedule, (n, *source.reference.shape[1:]), generator=generator, device=device
    )
    cond = torch.arange(n, device=device) % source.n_classes if source.n_classes else None
    model: DenoiserLike = InPrecision(ema, options.precision)
    if noise.ndim == 4:
        model = Clipped(model)
    grid = _grid(ema, options)
    steps = _sampler(options, generator)(model, noise, grid, cond)
    bar = tqdm(
        steps, "sampling", total=len(grid) - 1, unit="step", leave=False, disable=options.quiet
    )
    x = samplers.last(bar).cpu()
    _save_picture(x, cond, out / f"samples-{state.step:06d}.png")
    held_out, reference = source.reference[:n], source.reference[n : 2 * n]
    scores = {
        "step": state.step,
        "n_samples": n,
        "energy_distance": evaluation.energy_distance(x, reference),
        "energy_distance_floor": evaluation.energy_distance(held_out, reference),
    }
    _append(out / "metrics.jsonl", scores)


def _sampler(options: argparse.Namespace, generator: torch.Generator) -> Callable[..., Any]:
    """Ancestral sampling, or DDIM if ``--eta`` is given."""

    def ancestral(model: DenoiserLike, x: Tensor, grid: Tensor, cond: Any) -> Any:
        variance = VARIANCES[options.variance]
        return samplers.ancestral(model, x, grid, cond, variance=variance, generator=generator)

    def ddim(model: DenoiserLike, x: Tensor, grid: Tensor, cond: Any) -> Any:
        return samplers.ddim(model, x, grid, cond, eta=options.eta, generator=generator)

    return ancestral if options.eta is None else ddim


def _grid(denoiser: Denoiser, options: argparse.Namespace) -> Tensor:
    schedule = denoiser.schedule
    assert isinstance(schedule, schedules.TabulatedSchedule)  # the only kind _denoiser builds
    return times.trailing(schedule, min(options.sampling_steps, options.timesteps))


def _save_picture(x: Tensor, cond: Tensor | None, path: Path) -> None:
    if x.ndim == 4:
        rows = 10 if cond is not None else 8
        figure = plotting.sample_grid(x[: rows * rows].clamp(-1, 1), rows)
    else:
        figure = plotting.scatter(x)
    figure.savefig(path)


def _source(options: argparse.Namespace) -> Source:
    """Find the data by name."""
    if options.data in data.TOY:
        law = data.TOY[options.data]
        reference = law(4 * options.n_samples, torch.Generator().manual_seed(options.seed + 1))
        return Source(data.fresh(law, options.batch_size), reference, 0, gaussian_decoder)
    if options.data == "digits":
        images, half_width = data.digits(), 1 / 16
    else:
        half_width = 1 / 255
        images = data.load(
            options.data, options.data_root, train=not options.test_half, download=options.download
        )
    data.check_image_range(images.x)
    mixed = images.x[torch.randperm(len(images.x), generator=torch.Generator().manual_seed(1))]
    batches = data.minibatches(*images, batch_size=options.batch_size)
    n_classes = int(images.y.max()) + 1
    return Source(batches, mixed, n_classes, discretized_decoder(half_width))


def _denoiser(options: argparse.Namespace, source: Source) -> Denoiser:
    """Build the network for the data: an MLP for points, a U-Net for images."""
    torch.manual_seed(options.seed)
    shape = tuple(source.reference.shape[1:])
    learned = options.variance == "learned"
    network: torch.nn.Module
    if len(shape) == 1:
        network = MLP(shape[0], width=options.width or 128, out_dim=(1 + learned) * shape[0])
    else:
        channels, size, _ = shape
        patch = 1 if size <= 16 else 2
        network = UNet(
            channels,
            width=options.width or (16 if size <= 16 else 32),
            n_classes=source.n_classes,
            dropout=options.dropout,
            patch=patch,
            out_channels=(1 + learned) * channels,
        )
    return Denoiser(
        network,
        SCHEDULES[options.schedule](options.timesteps),
        PREDICTIONS[options.prediction],
        learned_variance=learned,
    )


def _loss(options: argparse.Namespace, source: Source) -> losses.BatchLoss:
    if options.objective == "bound":
        return losses.bound_loss(variance=VARIANCES[options.variance], decoder=source.decoder)
    if options.objective == "hybrid":
        return losses.hybrid_loss(decoder=source.decoder)
    return losses.simple_loss(times.draw_steps, norm=NORMS[options.loss])


def _output_folder(options: argparse.Namespace) -> Path:
    out: Path = options.out
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot create {out} ({error.strerror}): choose another --out") from error
    if not os.access(out, os.W_OK):
        raise OSError(f"no permission to write to {out}: choose another --out")
    return out


def _settled(options: argparse.Namespace) -> argparse.Namespace:
    """Fill in what the paper decides, and refuse what does not go together."""
    for field in dataclasses.fields(Paper):
        if getattr(options, field.name) is None:
            setattr(options, field.name, getattr(PAPERS[options.paper], field.name))
    if options.variance == "learned" and options.objective == "simple":
        options.objective = "hybrid"  # the simple loss does not see the variance
    if options.objective == "hybrid" and options.variance != "learned":
        raise ValueError("--objective hybrid trains the variance: it needs --variance learned")
    if options.loss != "l2" and options.objective != "simple":
        raise ValueError(f"--loss {options.loss} belongs to --objective simple")
    if options.eta is not None and not 0 <= options.eta <= 1:
        raise ValueError(f"--eta must be in [0, 1], not {options.eta:g}")
    options.out = from_caller(options.out or Path("runs") / f"{options.paper}-{options.data}")
    if options.data_root is not None:
        options.data_root = from_caller(options.data_root)
    return options


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train",
        description="Train a paper's model. Interrupted? The same command resumes.",
        epilog="Results: checkpoint.pt, metrics.jsonl, settings.json and samples-STEP.png in --out.",
        formatter_class=_HelpFormatter,
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--paper", choices=PAPERS, default="ddpm", help="whose defaults to take")
    names = ["digits", *data.DATASETS, *data.TOY]
    what.add_argument("--data", choices=names, default="digits", help="what to learn")
    what.add_argument("--data-root", type=Path, help="folder of the image files")
    what.add_argument("--download", action="store_true", help="fetch the image files if absent")
    what.add_argument("--test-half", action="store_true", help="train on the set's test half")
    what.add_argument("--width", type=positive, help="channels of the network's first level")
    what.add_argument("--dropout", type=float, default=0.0, help="dropout of the U-Net")

    paper = parser.add_argument_group("the paper's choices (default: the paper's own)")
    unset: dict[str, Any] = {"default": None}
    paper.add_argument(
        "--prediction", choices=PREDICTIONS, help="what the network predicts", **unset
    )
    paper.add_argument("--schedule", choices=SCHEDULES, help="noise schedule", **unset)
    paper.add_argument("--timesteps", type=positive, help="length T of the chain", **unset)
    paper.add_argument("--variance", choices=VARIANCES, help="of the reverse steps", **unset)
    paper.add_argument("--objective", choices=OBJECTIVES, help="what is minimised", **unset)
    paper.add_argument("--loss", choices=NORMS, default="l2", help="norm of the simple objective")

    how = parser.add_argument_group("training")
    how.add_argument("--steps", type=positive, default=2000, help="optimiser steps")
    how.add_argument("--batch-size", type=positive, default=128, help="samples per step")
    how.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    how.add_argument("--warmup", type=int, default=100, help="steps until the full learning rate")
    how.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")
    how.add_argument("--seed", type=int, default=0, help="determines weights, batches and samples")
    how.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    how.add_argument(
        "--precision",
        choices=["auto", *devices.PRECISIONS],
        default="auto",
        help="of products in the network: auto is bf16 on GPUs that multiply it, else fp32; "
        "try bf16 on CPUs with AMX or AVX512-BF16",
    )

    many = parser.add_argument_group("several processes", "On several hosts: torchrun.")
    many.add_argument(
        "--processes", type=positive, default=1, help="processes to start on this host"
    )
    many.add_argument(
        "--parts",
        type=positive,
        help="equal parts of a batch, a multiple of the processes; the result depends on it and not "
        "on them (default: as in the checkpoint, else one for each)",
    )

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument("--sampling-steps", type=positive, default=100, help="of the sampler")
    sampling.add_argument(
        "--eta", type=float, help="sample with DDIM at this eta instead of ancestrally"
    )
    sampling.add_argument("--n-samples", type=positive, default=500, help="samples to draw")

    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder for results (default: runs/PAPER-DATA)")
    output.add_argument("--log-every", type=positive, default=10, help="steps between loss lines")
    output.add_argument("--sample-every", type=positive, default=1000, help="steps between samples")
    output.add_argument(
        "--checkpoint-every", type=positive, default=500, help="steps between saves"
    )
    output.add_argument("--restart", action="store_true", help="begin anew; replace the checkpoint")
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
