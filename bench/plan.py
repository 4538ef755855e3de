"""Does `jmeta.plan` know what a hypergradient costs, before anything runs?

The transformer of `transformer.py`, layers recomputed: `plan` ranks the ways to unroll
it by operations and memory alone, then all are run. And a job too big for most
machines, 16 times as wide and 64 steps long, which is only planned.
"""

import sys
import time
from functools import partial

import jax
from _harness import Row, compiled, measure, options
from _problem import Problem, adapt, start
from _report import Claim, bars, by_name, report
from transformer import problem, transformer

import jmeta
from jmeta.diagnose._plan import ADJOINTS, adjoint_name

UNROLLS = [a for a in ADJOINTS if isinstance(a, jmeta.Unroll)]


def meta_loss(language: Problem, adjoint: jmeta.Unroll):
    """The query loss after training, of weights and rate and one task."""
    return lambda meta, task: adapt(
        partial(transformer, True), language, adjoint, meta, task
    )[1]


def arguments(language: Problem):
    task = jax.tree.map(lambda x: x[0], jmeta.Task(language.support, language.query))
    return start(language, language.wrt), task


def planned(language: Problem) -> jmeta.Plan:
    """What the compiler says of shapes, without an array."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments(language)
    )
    return jmeta.plan(partial(meta_loss, language), *shapes, adjoints=UNROLLS)


def agreement(plan: jmeta.Plan, rows: list[Row]) -> list[Claim]:
    """The time of what the plan calls best and worst, beside the measured extremes."""
    found = by_name(rows)
    ranked = sorted(plan.candidates, key=lambda candidate: candidate.work)
    best, worst = (
        found[adjoint_name(candidate.adjoint)].seconds()
        for candidate in (ranked[0], ranked[-1])
    )
    seconds = [row.seconds() for row in rows]
    return [
        Claim("times the best time, the plan's best", best / min(seconds), 1, True),
        Claim("times the worst time, the plan's worst", worst / max(seconds), 1),
    ]


def main(argv=None):
    args = options(__doc__, argv)
    small = problem(*((2, 16, 8, 2, 2) if args.quick else (6, 256, 128, 8, 4)))
    big = problem(*((2, 32, 8, 2, 4) if args.quick else (6, 4096, 128, 8, 64)))

    start = time.process_time()
    table = planned(big)
    print(f"planned in {time.process_time() - start:.0f} s, and not run:\n{table}\n")
    case = "quick" if args.quick else "64 steps, 16 times as wide"
    rows = [
        Row(case, name, temp_bytes=candidate.temp_bytes)
        for name, candidate in _named(table).items()
    ]

    table = planned(small)
    print(f"{table}\n")
    run = lambda adjoint: compiled(
        jax.grad(meta_loss(small, adjoint)), *arguments(small)
    )
    makers = {adjoint_name(adjoint): partial(run, adjoint) for adjoint in UNROLLS}
    measured = measure(
        "small", makers, repeats=min(args.repeats, 5), tolerance=1e-2, patience=60
    )
    own = _named(table)
    for row in measured:
        assert row.temp_bytes == own[row.name].temp_bytes, row
    claims = [] if args.quick else agreement(table, measured)
    report("plan", args, rows + measured, claims)
    bars(args.out / "plan.png", "Through 4 steps of a transformer", measured)
    return rows + measured


def _named(table: jmeta.Plan):
    return {adjoint_name(c.adjoint): c for c in table.candidates}


if __name__ == "__main__":
    main(sys.argv[1:])
