"""A small notebook that passes every check, for the tests to spoil."""

from __future__ import annotations

from tools.notebooks import documents, pairing, render
from tools.notebooks.documents import Notebook

NAME = "99_example"

TEXT = """\
# ---
# jupyter:
#   retro:
#     fast_seconds: 30
#     full_seconds: 60
#     shape: paper
# ---

# %% [markdown]
# # An example
#
# ## The question
#
# Does it run?

# %%
from retro_diffusion.notebook import show, start

run = start(seed=0)

# %% [markdown]
# ## Intuition
#
# ```
# # not a heading
# ```

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([0, 1], [0, 1])
show(figure, alt="A rising line.")

# %% [markdown]
# ## Derivation
# ## The experiment

# %%
sum(range(run.pick(fast=3, full=5)))

# %% [markdown]
# ## Ablation: what breaks it
# ## Claim check
# ## Exercises
#
# 1. How many?
#
# <details><summary>Solution</summary>
#
# ```python
# assert run.pick(fast=3, full=5) == 3
# ```
#
# </details>
#
# ## What came next

# %%
run.finish()
"""

_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def stored() -> Notebook:
    """Return the notebook as the renderer would store it, without running it."""
    notebook = pairing.from_text(TEXT, NAME)
    image = {
        "data": {"image/png": _PNG, "text/plain": "Figure: A rising line."},
        "metadata": {"image/png": {"alt": "A rising line."}},
        "output_type": "display_data",
    }
    value = {
        "data": {"text/plain": "10"},
        "execution_count": 3,
        "metadata": {},
        "output_type": "execute_result",
    }
    finish = f"Wall time: {render.WALL_TIME}\n"
    outputs = [_stream("Retro Diffusion | full profile\n"), image, value, _stream(finish)]
    for number, cell in enumerate(documents.code_cells(notebook), 1):
        cell |= {"outputs": [outputs[number - 1]], "execution_count": number}
    return render.finished(notebook, None, 4.0, "full")


def _stream(text: str) -> dict[str, str]:
    return {"name": "stdout", "output_type": "stream", "text": text}
