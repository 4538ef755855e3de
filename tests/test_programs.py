"""Programs drawn at random: every loop equals a Python loop with `jax.grad`.

A failure prints the program as a script that can be pasted and run; `python -m
tests.programs 17` prints one, `python -m tests.programs 0 50` runs some.
"""

import collections

import jax
import jax.numpy as jnp
import pytest

from tests.programs import blocks, draw
from tests.programs.optimizers import OPTIMIZERS
from tests.programs.run import assert_agree, check, results
from tests.programs.write import program, whole

DEFAULT = 50
SLOW = 2000
CHUNK = 25


@pytest.mark.parametrize("seed", range(DEFAULT))
def test_program(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(DEFAULT, SLOW, CHUNK))
def test_many_programs(first):
    failures = []
    for seed in range(first, first + CHUNK):
        try:
            check(seed)
        except AssertionError as failure:
            failures.append(str(failure))
        # each compiles what no other one uses
        jax.clear_caches()
    assert not failures, "\n\n".join(failures)


FEATURES = {
    *(f"block {name}" for name in blocks.NAMES),
    *(f"loss {name}" for name in draw.LOSSES),
    *(f"data {name}" for name in draw.DATA),
    *(f"optimizer {name}" for name in OPTIMIZERS),
    *(f"quantity {name}" for name in draw.QUANTITIES),
    *(f"rate {name}" for name in draw.RATES),
    *(f"adjoint {name}" for name in draw.ADJOINTS),
    *(f"composition {name}" for name in draw.COMPOSITIONS),
    *(f"extra {name}" for name in draw.EXTRAS if name != "none"),
    *("apply_fn with loss_fn", "one objective", "no active step"),
}


def test_every_feature_occurs():
    seen = [draw.draw(seed).features() for seed in range(DEFAULT)]
    counts = collections.Counter(feature for features in seen for feature in features)
    assert set(counts) == FEATURES


def test_a_seed_stands_for_one_program():
    assert program(3) == program(3)
    assert len({program(seed) for seed in range(DEFAULT)}) == DEFAULT


def test_a_wrong_loop_is_noticed():
    source = program(3)
    right = results(source)
    assert_agree(*right)
    wrong = source.replace("return outer(run", "return 1.0000001 * outer(run")
    assert wrong != source
    with pytest.raises(AssertionError, match="entries differ"):
        assert_agree(*results(wrong))
    # a derivative of nothing would agree with anything
    for seed in range(DEFAULT):
        assert 'theta["' in program(seed)


def test_agreement_is_to_eight_digits():
    tree = {"a": jnp.array([1.0, 1e-3])}
    assert_agree(jax.tree.map(lambda x: x * (1 + 5e-9), tree), tree)
    for error in (2e-8, jnp.nan):
        with pytest.raises(AssertionError, match="entries differ"):
            assert_agree({"a": tree["a"] * (1 + error)}, tree)


def test_a_failure_prints_a_script(monkeypatch):
    monkeypatch.setattr("tests.programs.run.program", lambda seed: "result = 1 / 0")
    with pytest.raises(AssertionError) as raised:
        check(3)
    assert "division by zero" in str(raised.value)
    script = str(raised.value).split("\n\n", 1)[1]
    assert script == whole(3)
    assert script.startswith("# program 3: adjoint")
    compile(script, "program", "exec")
