"""What `plan` says is the compiler's, holds for what runs, and is chosen by rule."""

import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import ForwardMode, Unroll
from jmeta.diagnose._plan import OPERATIONS_PER_BYTE, Candidate, Plan, adjoint_name
from tests.cases import PLAIN


def make_problem(steps):
    def make(adjoint):
        def meta_loss(lrs, params, x):
            run = jmeta.inner_loop(
                lambda w, x: jnp.mean(jnp.tanh(x @ w) ** 2),
                params,
                jmeta.optim.sgd(),
                steps,
                batch=x,
                hyperparams={"lr": lrs},
                adjoint=adjoint,
            )
            return jnp.sum(run.params**2)

        return meta_loss

    return make


def arguments(steps, width=16):
    shapes = (steps,), (width, width), (8, width)
    keys = jax.random.split(jax.random.key(0), 3)
    return [0.3 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def column(table, name) -> list[Any]:
    return [getattr(candidate, name) for candidate in table.candidates]


def broken(loop):
    raise ValueError(f"cannot do {loop.steps} steps\nfor a reason")


@pytest.fixture(scope="module")
def table():
    return jmeta.plan(
        make_problem(40),
        *arguments(40),
        adjoints=[PLAIN, Unroll(), ForwardMode(), ForwardMode(limit=3), broken],
    )


def test_memory_is_the_compilers(table):
    for candidate in table.candidates[:2]:
        fun = jax.jit(jax.grad(make_problem(40)(candidate.adjoint)))
        analysis = fun.lower(*arguments(40)).compile().memory_analysis()
        assert analysis is not None
        assert candidate.temp_bytes == analysis.temp_size_in_bytes
    assert min(column(table, "compile_seconds")[:3]) > 0


def test_operations_grow_with_the_loop(table):
    short = jmeta.plan(make_problem(10), *arguments(10), adjoints=[Unroll()])
    _, long, forward = column(table, "operations")[:3]
    assert long / column(short, "operations")[0] == pytest.approx(4, rel=0.02)
    # 40 tangents of a gradient, against one transposition
    assert forward > 10 * long


def test_what_raises_is_a_row(table):
    limited, failed = table.candidates[3:]
    assert "more than `limit`=3" in limited.reason
    assert failed.reason == "ValueError: cannot do 40 steps"
    assert failed[1:5] == (None,) * 4
    assert not table.fits(failed)


def test_prints_a_table(table):
    lines = str(table).split("\n")
    assert len(lines) == 6
    best = [line for line in lines if line.startswith("*")]
    assert len(best) == 1
    assert adjoint_name(table.best.adjoint) in best[0]
    assert re.search(r"ForwardMode\(\) +[\d.]+ kB +[\d.]+ M +[\d.]+ m?s", lines[3])
    assert lines[5].endswith("ValueError: cannot do 40 steps")


def test_runs_nothing_of_what_is_too_big():
    """281 terabytes of parameters' history are planned, not allocated."""
    width, steps = 2**20, 64
    shapes = (steps,), (width, width), (8, width)
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    adjoints = [Unroll(), Unroll(checkpoint="nested")]
    big = jmeta.plan(make_problem(steps), *args, adjoints=adjoints, budget_bytes=2.5e14)
    step, nested = column(big, "temp_bytes")
    assert step > steps * width**2 * 4 > 2.5e14 > nested
    assert big.best is big.candidates[1]
    assert "over the budget" in str(big).split("\n")[1]


def test_measured_order_is_the_order_of_run_times():
    """The best and the worst, which lie far apart, timed again by hand."""
    make, args = make_problem(64), arguments(64, width=48)
    adjoints = [Unroll(), Unroll(last=4), ForwardMode()]
    table = jmeta.plan(make, *args, adjoints=adjoints, measure=True)

    def seconds(adjoint):
        fun = jax.jit(jax.grad(make(adjoint)))
        jax.block_until_ready(fun(*args))
        start = time.perf_counter()
        jax.block_until_ready(fun(*args))
        return time.perf_counter() - start

    measured = [seconds(adjoint) for adjoint in adjoints]
    planned = column(table, "run_seconds")
    assert planned.index(max(planned)) == measured.index(max(measured)) == 2
    assert min(planned) == table.best.run_seconds
    # the choice without measuring is the same
    unmeasured = [c._replace(run_seconds=None) for c in table.candidates]
    operations, memory = column(table, "operations"), column(table, "temp_bytes")
    work = [
        n + OPERATIONS_PER_BYTE * m for n, m in zip(operations, memory, strict=True)
    ]
    assert work.index(max(work)) == 2
    assert Plan(tuple(unmeasured), None).best.adjoint == Unroll(last=4)
    assert measured[1] < measured[2]


ROWS = (
    Candidate("a", temp_bytes=1000, operations=1e3, run_seconds=3.0),
    Candidate("b", temp_bytes=100, operations=9e3, run_seconds=2.0),
    Candidate("c", temp_bytes=10, operations=90e3, run_seconds=1.0),
    Candidate("d", reason="no"),
)


@pytest.mark.parametrize(
    ("budget", "measured", "best"),
    [
        (None, False, "b"),
        (100, False, "b"),
        (99, False, "c"),
        (None, True, "c"),
        (10, True, "c"),
    ],
)
def test_best(budget, measured, best):
    rows = ROWS if measured else tuple(c._replace(run_seconds=None) for c in ROWS)
    assert Plan(rows, budget).best.adjoint == best


def test_nothing_fits():
    with pytest.raises(
        ValueError, match=r"`budget_bytes`=5:\n(.*\n)+.*over the budget"
    ):
        _ = Plan(ROWS, 5).best
    assert "*" not in str(Plan(ROWS, 5))


def test_measuring_needs_arrays():
    with pytest.raises(ValueError, match="needs arrays; got a ShapeDtypeStruct"):
        jmeta.plan(
            make_problem(2), jax.ShapeDtypeStruct((2,), jnp.float32), measure=True
        )


@pytest.mark.parametrize(
    ("adjoint", "name"),
    [
        (Unroll(), "Unroll()"),
        (Unroll(mixed=False, last=3), "Unroll(mixed=False, last=3)"),
        (ForwardMode(limit=2), "ForwardMode(limit=2)"),
        ("own", "own"),
    ],
)
def test_names_are_as_written(adjoint, name):
    assert adjoint_name(adjoint) == name
