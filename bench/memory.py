"""What does each way to differentiate keep in memory?

Hypergradient of learning rate and momentum through 256 steps of a 32-256-256-1 tanh
network, batch 256, SGD with momentum: the compiler's own figure for temporary memory,
which does not depend on the machine's load. `--run` also measures time, with `higher`
beside it.
"""

import sys
from functools import partial

import jax
import numpy as np
from _harness import Candidate, Row, compiled, measure, options
from _peers import higher, mlp_module
from _problem import Problem, hypergradient, mlp, mlp_apply
from _report import Claim, bars, by_name, report

import jmeta

ADJOINTS = {
    "plain: nothing recomputed": jmeta.Unroll(mixed=False, checkpoint=None),
    "plain, each step again": jmeta.Unroll(mixed=False),
    "default: Unroll()": jmeta.Unroll(),
    "nested": jmeta.Unroll(checkpoint="nested"),
    "ForwardMode": jmeta.ForwardMode(),
}
CLAIMS = {
    "nested": (30, "MB with nested checkpoints"),
    "ForwardMode": (8, "MB in forward mode"),
}


def problem(steps: int, batch: int, width: int) -> Problem:
    rng = np.random.default_rng(0)

    def points():
        x = rng.normal(size=(1, batch, 32))
        y = np.sin(x.sum(-1, keepdims=True))
        return x.astype(np.float32), y.astype(np.float32)

    return Problem(
        mlp(1, 32, width, width, 1),
        points(),
        points(),
        classes=False,
        steps=steps,
        lr=0.01,
        momentum=0.9,
        wrt=("lr", "momentum"),
    )


def compile_only(case: str, makers: dict) -> list[Row]:
    """Rows with the compiler's figures alone."""
    made: dict[str, Candidate] = {name: make() for name, make in makers.items()}
    return [Row(case, name, temp_bytes=c.temp_bytes) for name, c in made.items()]


def main(argv=None):
    run = {"action": "store_true", "help": "measure time as well"}
    args = options(__doc__, argv, run=run)
    regression = problem(*((16, 8, 8) if args.quick else (256, 256, 256)))
    apply_fn = partial(mlp_apply, activation=jax.numpy.tanh)
    makers = {
        name: lambda adjoint=adjoint: compiled(
            *hypergradient(apply_fn, regression, adjoint, chunk_size=1)
        )
        for name, adjoint in ADJOINTS.items()
    }
    if args.run or args.quick:
        if not args.no_peers:
            module = partial(mlp_module, activation="Tanh")
            makers["higher"] = partial(higher, module, regression)
        rows = measure("", makers, repeats=min(args.repeats, 3), tolerance=1e-2)
    else:
        rows = compile_only("", makers)
    found = by_name(rows)
    claims = [
        Claim(text, 1e-6 * found[name].temp_bytes, bound, at_most=True)
        for name, (bound, text) in CLAIMS.items()
        if not args.quick
    ]
    report("memory", args, rows, claims)
    title = f"Hypergradient of lr, momentum through {regression.steps} steps"
    bars(args.out / "memory.png", title, rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
