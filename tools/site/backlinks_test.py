from __future__ import annotations

import json

import pytest

from tools.site import backlinks
from tools.site.registry import Equation


def cell(kind, source):
    return {"cell_type": kind, "metadata": {}, "source": source}


@pytest.fixture
def notebooks(tmp_path):
    cells = [
        cell("markdown", "# DDPM"),
        cell("code", "from retro_diffusion.samplers import ddim"),
        cell("code", ["x = 1\n", "last(samplers.ddim(f, x, t))"]),
        cell("code", "samplers.ddim_step(f)"),
    ]
    (tmp_path / "05_ddpm.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    return tmp_path


def equation(label="eq-a", chapter="03_ddpm", **options):
    return Equation(label=label, chapter=chapter, notebook="05_ddpm", **options)


def test_the_cell_is_the_first_that_uses_the_function(notebooks):
    notebook = backlinks.read(notebooks, "05_ddpm")
    assert backlinks.cell_with(notebook, "retro_diffusion.samplers.ddim") == 2
    assert backlinks.cell_with(notebook, "retro_diffusion.samplers.ddim_step") == 3
    assert backlinks.cell_with(notebook, "retro_diffusion.samplers.heun") is None


def test_an_equation_leads_to_the_cell_or_else_to_the_notebook(notebooks):
    page = "{doc}`/notebooks/05_ddpm`"
    at = backlinks.place(notebooks, equation(code="retro_diffusion.samplers.ddim"))
    assert at == f"{page}, {{ref}}`cell 2 <cell-2-of-05_ddpm>`"
    assert backlinks.place(notebooks, equation(code="retro_diffusion.samplers.heun")) == page
    assert backlinks.place(notebooks, equation()) == page


def test_a_notebook_leads_back_chapter_by_chapter_and_keeps_its_cells(notebooks):
    equations = [equation("eq-a"), equation("eq-b", "05_ddim"), equation("eq-c")]
    made = backlinks.annotated(notebooks, "05_ddpm", equations)
    sources = [cell["source"] for cell in made["cells"]]
    assert sources[:3] == [
        "# DDPM",
        "*In the survey:* {doc}`/post/03_ddpm`, {eq}`eq-a`, {eq}`eq-c`.",
        "*In the survey:* {doc}`/post/05_ddim`, {eq}`eq-b`.",
    ]
    assert sources[3] == "(cell-1-of-05_ddpm)="
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert code == backlinks.read(notebooks, "05_ddpm")["cells"][1:]


def test_a_notebook_that_is_not_there_is_named(notebooks):
    with pytest.raises(ValueError, match="no notebook 06_ddim; there are 05_ddpm"):
        backlinks.read(notebooks, "06_ddim")
