"""Every public function refuses a wrong call itself, and says what to do."""

import importlib
import pkgutil
from pathlib import Path

import pytest

import jmeta
from tests import wrong_calls

AREAS = [
    importlib.import_module(f"tests.wrong_calls.{module.name}")
    for module in pkgutil.iter_modules(wrong_calls.__path__)
    if module.name != "table"
]
ROWS = [row for area in AREAS for row in area.ROWS]
PACKAGE = Path(jmeta.__file__).parent


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_is_refused(row):
    with pytest.raises(Exception) as raised:  # noqa: PT011 (the row names the type)
        row.call()
    error, message = raised.value, str(raised.value)
    assert type(error) is row.error, message
    assert f"`{row.argument}`" in message
    assert row.got in message
    assert row.use in message
    raiser = Path(str(raised.traceback[-1].path))
    assert PACKAGE in raiser.parents, f"raised by {raiser}"


def test_ids_are_unique():
    assert len({row.id for row in ROWS}) == len(ROWS)
