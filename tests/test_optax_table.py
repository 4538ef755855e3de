"""The table of optax's transforms says what they do."""

import pytest

from jmeta.optim._finite import update_guard
from tests import optax_table
from tests.optax_cases import MAKERS
from tests.optimizer_table import split

pytestmark = pytest.mark.standard_promotion("optax mixes dtypes")

TABLE = split(optax_table.FILE.read_text(), optax_table.BEGIN, optax_table.END)[1]
ROWS = {line.split("`")[1]: line for line in TABLE.splitlines()[2:]}
QUICK = ("clip_by_global_norm", "scale_by_radam")


def test_every_transform_has_a_row():
    assert list(ROWS) == list(MAKERS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MAKERS],
)
def test_rows_are_what_is_found(name):
    assert str(optax_table.row(name)) == ROWS[name], "see `tests/optax_table.py`"


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_not_covered_is_known_by_name(name):
    _, default, finite = (cell.strip() for cell in ROWS[name].split("|")[2:5])
    cured = default == "NaN" and finite == "finite"
    found = set(update_guard._factory_names(MAKERS[name](0.1).update))
    assert bool(found & update_guard.NEEDS_FINITE) == cured
