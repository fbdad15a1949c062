"""Train DDPM's U-Net on MNIST within five CPU-minutes, and draw what it generates.

Writes ``mnist_ddpm.png``, twelve samples of each digit below two real ones, and ``mnist_ddpm.json``,
the settings, the cost and the quality. From the checkout:

    bazel run //tools/figures:mnist_ddpm -- --data-root FOLDER

where FOLDER holds MNIST's files as `retro_diffusion.data.load` finds them. The 10,000 images of the test half
suffice, so the other half need not be there.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro_diffusion import data, evaluation, losses, plotting, samplers, schedules, times, training
from retro_diffusion.data import Images
from retro_diffusion.denoiser import Clipped, Denoiser
from retro_diffusion.networks import UNet
from retro_diffusion.parameterizations import predict_eps, predict_v
from tools.command_line import from_caller, in_checkout

PREDICTIONS = {"eps": predict_eps, "v": predict_v}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def cpu_seconds() -> float:
    """Return the processor time that this process has used on all cores, user and system."""
    spent = os.times()
    return spent.user + spent.system


def train(images: Images, options: argparse.Namespace) -> Denoiser:
    """Train a class-conditional U-Net on images with DDPM's simple loss.

    Parameters
    ----------
    images
        Images of 28 x 28 pixels in [-1, 1].
    options
        What the command line says.

    Returns
    -------
    Denoiser
        The moving average of the weights.
    """
    torch.manual_seed(options.seed)
    network = UNet(width=32, multipliers=(1, 2), patch=2, n_classes=10)
    denoiser = Denoiser(network, schedules.cosine(1000), PREDICTIONS[options.prediction])
    state = training.finish(
        training.train(
            denoiser,
            data.minibatches(*images, batch_size=options.batch_size),
            n_steps=options.steps,
            loss=losses.simple_loss(),
            lr=options.lr,
            lr_schedule=training.warmup_cosine(min(100, options.steps // 2), options.steps),
            dtype=DTYPES[options.dtype],
            seed=options.seed,
        )
    )
    average = state.ema
    assert isinstance(average, Denoiser)
    return average


def quality(samples: Tensor, labels: Tensor, images: Images) -> dict[str, float]:
    """Measure samples in the features of a classifier that saw neither them nor the reference.

    Parameters
    ----------
    samples, labels
        Generated images, shape (N, 1, 28, 28), and the classes asked for, shape (N,).
    images
        Images that the generator was *not* trained on: a part trains the classifier, the rest is
        the reference and the floor.

    Returns
    -------
    dict
        Frechet distance, its floor for real images of the same classes, accuracy and recall.
    """
    for_classifier, reference, held_out = data.split(images, [1 / 2, 1 / 4, 1 / 4])
    classifier = evaluation.train_classifier(for_classifier)
    real = classifier.features(evaluation.label_matched(*reference, labels))
    other = classifier.features(evaluation.label_matched(*held_out, labels))
    made = classifier.features(samples)
    return {
        "frechet": evaluation.frechet_distance(made, real),
        "frechet_floor": evaluation.frechet_distance(other, real),
        "accuracy": (classifier.predict(samples) == labels).double().mean().item(),
        "recall": evaluation.precision_recall(made, real).recall,
        "recall_floor": evaluation.precision_recall(other, real).recall,
    }


def sample(denoiser: Denoiser, labels: Tensor, *, n_steps: int, seed: int) -> Tensor:
    """Draw one image per label by ancestral sampling; shape (N, 1, 28, 28), in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    start = samplers.starting_noise(
        denoiser.schedule, (len(labels), 1, 28, 28), generator=generator
    )
    grid = times.trailing(schedules.cosine(1000), n_steps)
    clipped = Clipped(denoiser)
    return samplers.last(
        samplers.ancestral(clipped, start, grid, labels, generator=generator)
    ).clamp(-1, 1)


def main() -> None:
    """Train, sample, measure, write the figure and the record beside it."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog="The folder of the data may also be named by the variable RETRO_DIFFUSION_DATA.",
    )
    parser.add_argument("--data-root", metavar="FOLDER", help="the folder that holds MNIST's files")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=2200, help="training steps")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--sampling-steps", type=int, default=100)
    parser.add_argument("--prediction", choices=PREDICTIONS, default="v")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    root = options.data_root
    if root is not None:
        root = from_caller(root)
    images = data.load("mnist", root=root, train=False)
    training_part, evaluation_part = data.split(images, [8000, 2000])
    cpu, wall = cpu_seconds(), time.perf_counter()
    denoiser = train(training_part, options)
    trained_cpu, trained_wall = cpu_seconds() - cpu, time.perf_counter() - wall
    shown = torch.arange(10).repeat_interleave(2).repeat(6)
    cpu = cpu_seconds()
    drawn = sample(denoiser, shown, n_steps=options.sampling_steps, seed=options.seed)
    sampled_cpu = cpu_seconds() - cpu
    labels = torch.arange(10).repeat_interleave(30)
    graded = sample(denoiser, labels, n_steps=options.sampling_steps, seed=options.seed + 1)

    record: dict[str, Any] = {
        "caption": f"DDPM on MNIST: {trained_cpu / 60:.1f} CPU-minutes of training. Upper row: real "
        "images; below: samples, all that were drawn, two columns per class.",
        "training_cpu_seconds": round(trained_cpu),
        "training_wall_seconds": round(trained_wall),
        "sampling_cpu_seconds": round(sampled_cpu),
        "threads": options.threads,
        "training_images": len(training_part.x),
        "parameters": sum(weights.numel() for weights in denoiser.parameters()),
        "steps": options.steps,
        "batch_size": options.batch_size,
        "lr": options.lr,
        "prediction": options.prediction,
        "dtype": options.dtype,
        "sampling_steps": options.sampling_steps,
        "seed": options.seed,
        **{k: round(v, 3) for k, v in quality(graded, labels, evaluation_part).items()},
    }
    real = evaluation.label_matched(*evaluation_part, torch.arange(10).repeat_interleave(2))
    figure = plotting.sample_grid(
        torch.cat([real, torch.ones(20, 1, 28, 28), drawn]),  # a white row between
        n_cols=20,
        title=f"MNIST: real (above) and drawn after {trained_cpu / 60:.1f} CPU-minutes of training",
    )
    out = in_checkout(options.out)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "mnist_ddpm.png")
    (out / "mnist_ddpm.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
