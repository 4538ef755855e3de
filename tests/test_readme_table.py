"""The README's table of optimizers says what the tests run over."""

import pytest

import jmeta
from tests import optimizer_table


def test_the_readme_has_the_table():
    _, inside, _ = optimizer_table.split(optimizer_table.README.read_text())
    assert inside == optimizer_table.table(), "run `python -m tests.optimizer_table -h`"


def test_every_optimizer_has_a_row():
    rows = optimizer_table.table().splitlines()[2:]
    names = {row.split("|")[1].strip(" `") for row in rows}
    others = {"finite", "param_groups"}
    factories = {
        name
        for name, value in vars(jmeta.optim).items()
        if callable(value) and not name.startswith("_")
    }
    assert names == factories - others


def test_missing_tests_show_in_the_table(monkeypatch):
    def nothing(name):
        """A test that lost its cases."""

    marked = pytest.mark.parametrize("name", ["adam"])(nothing)
    monkeypatch.setattr(optimizer_table.promises, "test_in_groups", marked)
    rows = optimizer_table.table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows if row.endswith("yes |")] == ["adam"]


@pytest.mark.parametrize("text", ["no markers", optimizer_table.BEGIN])
def test_markers_must_be_there(text):
    with pytest.raises(ValueError, match="once each"):
        optimizer_table.split(text)
