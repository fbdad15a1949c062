import pytest

from tools.site import registry

GOOD = """
[eq-a]
tests = ["b_test.py::test_one"]
code = "retro_diffusion.reverse"
[eq-b]
waiver = "definition"
"""


def test_read(tmp_path):
    (tmp_path / "01_x.toml").write_text(GOOD)
    first, second = registry.read(tmp_path)
    assert (first.label, first.chapter, first.tests) == ("eq-a", "01_x", ("b_test.py::test_one",))
    assert (second.waiver, second.tests, second.code) == ("definition", (), "")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[eq-a]", r"01_x.toml: \[eq-a\] needs either tests or a waiver"),
        ('[eq-a]\ntests = ["x"]\nwaiver = "y"', "either tests or a waiver"),
        ('[eq-a]\nwaiver = "y"\nteste = 1', "unknown field 'teste'"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, message):
    (tmp_path / "01_x.toml").write_text(entry)
    with pytest.raises(ValueError, match=message):
        registry.read(tmp_path)


def test_a_label_stands_once(tmp_path):
    for name in ("01_x", "02_y"):
        (tmp_path / f"{name}.toml").write_text('[eq-a]\nwaiver = "definition"')
    with pytest.raises(ValueError, match=r"02_y.toml: \[eq-a\] is also in 01_x.toml"):
        registry.read(tmp_path)


def test_the_source_of_a_test(tmp_path):
    test = "@x.mark\n@x.other(\n    1\n)\ndef test_a(y):\n    assert y"
    text = f"import x\n\n\n{test}\n\n\ndef test_b():\n    pass\n"
    (tmp_path / "a_test.py").write_text(text)
    found = registry.source(tmp_path, "a_test.py::test_a[case-1]")
    assert found == test


@pytest.mark.parametrize(
    ("test", "message"),
    [("no_test.py::test_a", "there is no file"), ("a_test.py::test_c", "no test of that name")],
)
def test_a_test_that_is_not_there(tmp_path, test, message):
    (tmp_path / "a_test.py").write_text("def test_a(): pass\n")
    with pytest.raises(ValueError, match=message):
        registry.source(tmp_path, test)
