"""A small notebook that passes every check, for the tests to spoil."""

from __future__ import annotations

from retro_diffusion.claims import MIME
from tools.notebooks import documents, pairing, render
from tools.notebooks.documents import Notebook

NAME = "99_example"

TEXT = """\
# ---
# jupyter:
#   retro:
#     arxiv: '2006.11239'
#     fast_seconds: 30
#     full_seconds: 60
#     paper: Ho, Jain and Abbeel 2020
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

# %%
from retro_diffusion.claims import Claim, check, claims_table

claims = [
    Claim(
        key="small-sum",
        statement="The sum is small",
        paper="10",
        source="Table 1, arXiv:2006.11239",
        experiment="the first five whole numbers",
        ours=str(sum(range(5))),
        band="10",
        seeds=0,
        control="the first six: 15",
        control_failed=sum(range(6)) != 10,
        grade="EXACT",
        passed=sum(range(5)) == 10,
    )
]
check(claims)
claims_table(claims)

# %% [markdown]
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


CLAIM = {
    "key": "small-sum",
    "statement": "The sum is small",
    "paper": "10",
    "source": "Table 1, arXiv:2006.11239",
    "experiment": "the first five whole numbers",
    "ours": "10",
    "band": "10",
    "seeds": 0,
    "control": "the first six: 15",
    "control_failed": True,
    "grade": "EXACT",
    "passed": True,
    "note": "",
}
"""The row that the example's claim cell stores."""


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
    table = {
        "data": {MIME: {"claims": [dict(CLAIM)], "library": "0.1.0"}, "text/plain": "supported"},
        "execution_count": 4,
        "metadata": {},
        "output_type": "execute_result",
    }
    finish = f"Wall time: {render.WALL_TIME}\n"
    outputs = [_stream("Retro Diffusion | full profile\n"), image, value, table, _stream(finish)]
    for number, cell in enumerate(documents.code_cells(notebook), 1):
        cell |= {"outputs": [outputs[number - 1]], "execution_count": number}
    return render.finished(notebook, None, 4.0, "full")


def _stream(text: str) -> dict[str, str]:
    return {"name": "stdout", "output_type": "stream", "text": text}
