"""How do the time of a step and the time to compile depend on the number of steps?

MAML on sinusoids as in `maml_sinusoid.py`, with T inner steps: jmeta's loop is one
`jax.lax.scan`; a Python loop that JAX traces step by step is compiled step by step;
`higher` and torch.func record their graph anew at each call.
"""

import sys
from functools import partial

import jax
from _harness import Candidate, compiled, measure, options
from _peers import higher, mlp_module, torch_func
from _problem import Problem, hypergradient, mean_square, mlp_apply, start
from _report import Claim, by_name, lines, report
from maml_sinusoid import problem

import jmeta

JMETA, LOOP = "jmeta", "JAX, Python loop"


def python_loop(sine: Problem) -> Candidate:
    """The same written by hand without a scan."""

    def objective(params, x, y):
        return mean_square(mlp_apply(params, x), y)

    def task_loss(meta, support, query):
        params = meta["params"]
        for _ in range(sine.steps):
            grads = jax.grad(objective)(params, *support)
            params = jax.tree.map(lambda p, g: p - sine.lr * g, params, grads)
        return objective(params, *query)

    def meta_loss(meta, support, query):
        return jax.vmap(task_loss, (None, 0, 0))(meta, support, query).mean()

    args = (start(sine, sine.wrt), sine.support, sine.query)
    return compiled(jax.grad(meta_loss), *args)


def main(argv=None):
    lengths = {"type": int, "nargs": "+", "default": [1, 4, 16, 64, 256, 1024]}
    args = options(__doc__, argv, steps=lengths)
    by_steps = {}
    for steps in [1, 3] if args.quick else args.steps:
        sine = problem(3 if args.quick else 25, steps)
        makers = {
            JMETA: lambda sine=sine: compiled(
                *hypergradient(mlp_apply, sine, jmeta.Unroll())
            )
        }
        if steps <= 64:
            makers[LOOP] = partial(python_loop, sine)
            if not args.no_peers:
                makers["torch.func + vmap"] = partial(torch_func, mlp_module, sine)
                makers["higher"] = partial(higher, mlp_module, sine)
        by_steps[steps] = measure(
            f"T={steps}", makers, repeats=args.repeats, tolerance=1e-2
        )
    rows = [row for of_steps in by_steps.values() for row in of_steps]
    claims = []
    if not args.quick:
        jmeta_rows = {T: by_name(rows)[JMETA] for T, rows in by_steps.items()}
        most, few = max(jmeta_rows), min(T for T in jmeta_rows if T > 1)
        growth = jmeta_rows[most].first - jmeta_rows[most].cpu
        growth /= jmeta_rows[few].first - jmeta_rows[few].cpu
        text = f"times the time to compile for T={most} as for T={few}"
        claims.append(Claim(text, growth, 1.5, at_most=True))
    report("scaling", args, rows, claims)
    panels = {"seconds for a step": {}, "seconds to compile, with the first run": {}}
    for steps, of_steps in by_steps.items():
        for row in by_name(of_steps).values():
            values = row.seconds() / steps, row.first
            for panel, value in zip(panels.values(), values, strict=True):
                panel.setdefault(row.name, []).append((steps, value))
    lines(args.out / "scaling.png", "MAML on sinusoids, T inner steps", "T", panels)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
