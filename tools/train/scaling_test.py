"""The arithmetic of scaling, against cases done by hand."""

import pytest
import torch
from torch import nn

from tools.train import scaling


def test_all_reduce_by_hand() -> None:
    assert scaling.all_reduce_seconds(1, 1e9, 1e9) == 0
    assert scaling.all_reduce_seconds(2, 1e9, 1e9) == pytest.approx(1.0)
    assert scaling.all_reduce_seconds(4, 1e9, 1e9) == pytest.approx(1.5)


def test_a_ring_passes_that_many_bytes() -> None:
    """Each of N pieces makes N - 1 hops to be summed and N - 1 to be shared."""
    n_gpus, n_bytes = 5, 100.0
    sent = [0.0] * n_gpus
    for _round in range(2):
        for piece in range(n_gpus):
            for hop in range(n_gpus - 1):
                sent[(piece + hop) % n_gpus] += n_bytes / n_gpus
    assert max(sent) == pytest.approx(scaling.all_reduce_seconds(n_gpus, n_bytes, 1.0))


def test_the_backward_pass_hides_what_it_can() -> None:
    bucket = scaling.BUCKET
    hidden = scaling.step_seconds(3.0, 2, 10 * bucket, 10 * bucket)  # travels 1 s, behind 2 s
    assert hidden == pytest.approx(3.0 + 0.1)
    assert scaling.step_seconds(3.0, 2, 10 * bucket, 2 * bucket) == pytest.approx(3.0 + 5 - 2)
    assert scaling.step_seconds(3.0, 1, bucket, bucket) == 3.0


def test_efficiency_falls_with_gpus_and_rises_with_bandwidth() -> None:
    one, few, many = (scaling.efficiency(0.1, n, 1e8, 1e9) for n in (1, 8, 256))
    assert one == 1 > few > many > 0
    assert scaling.efficiency(0.1, 8, 1e8, 1e10) > few


def test_operations_of_a_convolution_by_hand() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 5, 1, device="meta")
            self.second = nn.Conv2d(5, 7, 3, padding=1, device="meta")

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    forward = 2 * 16 * (3 * 5 + 5 * 7 * 9)
    backward = 2 * 16 * (3 * 5 + 2 * 5 * 7 * 9)  # the first layer's input needs no gradient
    assert scaling.flops_per_image(Layer(), 4) == forward + backward


def test_our_networks_have_about_the_published_sizes() -> None:
    for paper in scaling.PAPERS:
        with torch.device("meta"):
            model = scaling.network(paper)
        ours = sum(p.numel() for p in model.parameters()) / 1e6
        assert 0.75 * paper.published < ours < 1.05 * paper.published


def test_tables_have_a_row_for_each_network_and_link() -> None:
    lines = scaling.table(30.0).splitlines()
    assert len(lines) == 2 + len(scaling.PAPERS) * len(scaling.LINKS)
    assert {line.count("|") for line in lines} == {3 + len(scaling.GPUS)}
    assert "too many" in lines[2]  # 256 GPUs cannot share a batch of 128
    assert "too many" not in scaling.table(30.0, per_gpu=1)


def test_measuring_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = scaling.Paper("tiny", 0.1, 1, 8, {"width": 8})
    monkeypatch.setattr(scaling, "PAPERS", (tiny,))
    assert scaling.measure(torch.device("cpu"), 2, torch.float32) > 0
