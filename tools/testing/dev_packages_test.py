"""The layer of test-only packages is complete: what it holds works on top of the base."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["diffusers", "hypothesis", "jupytext", "nbclient", "scipy.stats", "torchdiffeq"]
)
def test_import(module: str) -> None:
    importlib.import_module(module)


@pytest.mark.parametrize("program", ["codespell_lib", "mypy", "ruff"])
def test_program(program: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", program, "--version"], check=True)


def test_diffusers_schedulers() -> None:
    """A class that diffusers only imports, with all it needs, when asked for."""
    from diffusers import DDPMScheduler

    assert DDPMScheduler(num_train_timesteps=10).config["num_train_timesteps"] == 10


def test_torch_is_the_base_s() -> None:
    import torch

    assert "pypi_dev" not in torch.__file__
