"""How far data parallelism goes, on paper: `bazel run //tools/train:scaling`.

    bazel run //tools/train:scaling -- --tflops 36    # what a GPU of yours sustains
    bazel run //tools/train:scaling -- --measure      # what this machine sustains

Operations and gradient bytes are counted on our own U-Net, at the sizes of the papers. The bandwidths are
nominal and the sustained rate is an assumption that can be changed: docs/scaling.md says where it is from.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from retro_diffusion import devices
from retro_diffusion.networks import UNet
from retro_diffusion.training import count_parameters

BUCKET = 25 * 2**20
"""Bytes of gradients that DistributedDataParallel sends together, by default."""

BACKWARD = 2 / 3
"""Share of a step's operations in the backward pass: two products for each one of the forward."""

LINKS = {"NVLink, 300 GB/s": 300e9, "100 Gb/s": 12.5e9, "10 Gb/s": 1.25e9}
"""Bytes per second of the slowest link of the ring, each way."""

GPUS = (8, 64, 256)

SUSTAINED = 36.0
"""TFLOP/s of an A100 in the largest run below; see docs/scaling.md."""


@dataclass(frozen=True)
class Paper:
    """A network of a paper.

    Attributes
    ----------
    name
        Of paper and data set.
    published
        Its parameters in millions, as published.
    batch
        Images of a step, as published.
    size
        Side of the images.
    shape
        Arguments of our `UNet`.
    """

    name: str
    published: float
    batch: int
    size: int
    shape: dict[str, object]


PAPERS = (
    Paper(  # Ho et al. 2020 (arXiv:2006.11239), appendix B
        "DDPM, CIFAR-10",
        35.7,
        128,
        32,
        {"width": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "attention": (0, 1, 0, 0)},
    ),
    Paper(  # Nichol and Dhariwal 2021 (arXiv:2102.09672), appendix A; the class-conditional batch
        "iDDPM, ImageNet-64",
        120,
        2048,
        64,
        {"width": 128, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (0, 0, 1, 1)},
    ),
    Paper(  # Dhariwal and Nichol 2021 (arXiv:2105.05233), appendix I; batch of arXiv:2206.00364
        "ADM, ImageNet-64",
        296,
        4096,
        64,
        {"width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (0, 1, 1, 1)},
    ),
)


def network(paper: Paper) -> UNet:
    """Build our U-Net at a paper's size, on the device that is the default."""
    return UNet(3, **paper.shape)  # type: ignore[arg-type]


def flops_per_image(model: nn.Module, size: int) -> int:
    """Count the operations of a training step for one image.

    Parameters
    ----------
    model
        A U-Net of colour images, on the device "meta": nothing is computed.
    size
        Side of the image.

    Returns
    -------
    int
        Floating-point operations of products and convolutions, forward and backward; a
        multiplication and an addition are two.
    """
    x, t = torch.empty(1, 3, size, size, device="meta"), torch.empty(1, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(x, t).sum().backward()
    return counter.get_total_flops()


def all_reduce_seconds(n_gpus: int, n_bytes: float, bandwidth: float) -> float:
    """Time to sum a vector over a ring, ``2 (N - 1) / N`` bytes over bandwidth, latencies aside.

    Parameters
    ----------
    n_gpus
        N, >= 1. Every GPU sends each of N pieces but one, twice: once to sum, once to share.
    n_bytes
        Size of the vector.
    bandwidth
        Of the slowest link of the ring, bytes per second.

    Returns
    -------
    float
        Seconds; 0 for one GPU.
    """
    return 2 * (n_gpus - 1) / n_gpus * n_bytes / bandwidth


def step_seconds(compute: float, n_gpus: int, n_bytes: float, bandwidth: float) -> float:
    """Time of a training step whose gradients travel while the backward pass goes on.

    What remains visible is what the backward pass does not hide, and never less than the last
    bucket, which is complete only when that pass is.

    Parameters
    ----------
    compute
        Seconds of computation on each GPU.
    n_gpus, n_bytes, bandwidth
        As for `all_reduce_seconds`.

    Returns
    -------
    float
        Seconds, >= ``compute``.
    """
    travel = all_reduce_seconds(n_gpus, n_bytes, bandwidth)
    last = all_reduce_seconds(n_gpus, min(n_bytes, BUCKET), bandwidth)
    return compute + max(last, travel - BACKWARD * compute)


def efficiency(compute: float, n_gpus: int, n_bytes: float, bandwidth: float) -> float:
    """Speed of N GPUs over N times the speed of one on the same images; in (0, 1]."""
    return compute / step_seconds(compute, n_gpus, n_bytes, bandwidth)


def table(tflops: float, per_gpu: int | None = None) -> str:
    """Write the table of efficiencies, in Markdown.

    Parameters
    ----------
    tflops
        What a GPU sustains, in 10^12 operations per second.
    per_gpu
        Images of a step on each GPU; None divides the paper's batch, which must suffice.

    Returns
    -------
    str
        A row for each network and link. Every entry is the efficiency with overlap and, in
        brackets, without.
    """
    heads = [f"{n} GPUs" for n in GPUS]
    lines = [
        " | ".join(["", "network", "link", *heads, ""]).strip(),
        "|---" * (2 + len(GPUS)) + "|",
    ]
    for paper in PAPERS:
        with torch.device("meta"):
            model = network(paper)
        n_bytes, flops = 4 * count_parameters(model), flops_per_image(model, paper.size)
        for link, bandwidth in LINKS.items():
            cells = []
            for n in GPUS:
                images = paper.batch // n if per_gpu is None else per_gpu
                compute = images * flops / (tflops * 1e12)
                cells.append(_cell(compute, n, n_bytes, bandwidth) if images else "too many")
            lines.append(" | ".join(["", paper.name, link, *cells, ""]).strip())
    return "\n".join(lines)


def _cell(compute: float, n_gpus: int, n_bytes: float, bandwidth: float) -> str:
    hidden = efficiency(compute, n_gpus, n_bytes, bandwidth)
    plain = compute / (compute + all_reduce_seconds(n_gpus, n_bytes, bandwidth))
    return f"{hidden:.0%} ({plain:.0%})"


def sizes() -> str:
    """Write the table of what the networks are, in Markdown."""
    lines = [
        "| network | parameters, published | ours | gradient | operations per image |",
        "|---" * 5 + "|",
    ]
    for paper in PAPERS:
        with torch.device("meta"):
            model = network(paper)
        n, flops = count_parameters(model), flops_per_image(model, paper.size)
        lines.append(
            f"| {paper.name} | {paper.published:g} M | {n / 1e6:.1f} M | {4 * n / 1e6:.0f} MB "
            f"| {flops / 1e9:.0f} GFLOP |"
        )
    return "\n".join(lines)


def measure(device: torch.device, batch: int, dtype: torch.dtype) -> float:
    """Time a step of the first network.

    Parameters
    ----------
    device
        Where to run.
    batch
        Images.
    dtype
        Precision of the products.

    Returns
    -------
    float
        Seconds per image, the best of five steps after a first one.
    """
    paper = PAPERS[0]
    model = network(paper).to(device)
    x = torch.randn(batch, 3, paper.size, paper.size, device=device)
    t = torch.rand(batch, device=device)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        with devices.autocast(device, dtype):
            loss = (model(x, t) - x).square().mean()
        loss.backward()
        float(loss.detach())  # waits for the device
        float(next(p.grad for p in model.parameters() if p.grad is not None).sum())
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / batch


def main() -> None:
    """Print the tables, or measure this machine."""
    parser = argparse.ArgumentParser(
        prog="scaling", description=(__doc__ or "").split("\n\n")[0].split(":")[0]
    )
    parser.add_argument("--tflops", type=float, default=SUSTAINED, help="what a GPU sustains")
    parser.add_argument("--measure", action="store_true", help="time this machine instead")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--batch-size", type=int, default=4, help="images of the measured step")
    options = parser.parse_args()
    if not options.tflops > 0:
        parser.error(f"--tflops must be positive, not {options.tflops:g}")
    if not options.measure:
        print(sizes(), "", sep="\n")
        print(f"At {options.tflops:g} TFLOP/s, the paper's batch divided among the GPUs:\n")
        print(table(options.tflops), "", sep="\n")
        print(f"At {options.tflops:g} TFLOP/s, 128 images on each GPU:\n")
        print(table(options.tflops, per_gpu=128))
        return
    device = devices.pick(options.device)
    with torch.device("meta"):
        flops = flops_per_image(network(PAPERS[0]), PAPERS[0].size)
    for name, dtype in devices.PRECISIONS.items():
        seconds = measure(device, options.batch_size, dtype)
        print(
            f"{PAPERS[0].name} on {device}, {name}, batch of {options.batch_size}: "
            f"{seconds:.3g} s per image, {flops / seconds / 1e12:.3g} TFLOP/s"
        )


if __name__ == "__main__":
    main()
