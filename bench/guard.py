"""What does it cost that optax's transforms have finite hypergradients by default?

Gradient of the loss after 10 steps with respect to learning rate and initial weights,
of an MLP 64-128-128-10 (batch 64) and of a small transformer, with the guard of
`inner_loop` and without. `first` is the time to trace, to compile and to run once.
"""

import sys
from functools import partial

import jax
import numpy as np
import optax
from _harness import compiled, measure, options
from _problem import Problem, cross_entropy, mlp, mlp_apply
from _report import Claim, bars, report
from transformer import problem as language, transformer

import jmeta
from jmeta.optim._finite.update_guard import mark_finite

TRANSFORMS = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "lamb": optax.lamb,
    "adafactor": partial(optax.adafactor, min_dim_size_to_factor=32),
    "clip, adam": lambda lr: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(lr)
    ),
    "MultiSteps(adam)": lambda lr: optax.MultiSteps(
        optax.adam(lr), 2
    ).gradient_transformation(),
}


def images(steps: int, *sizes: int) -> Problem:
    """Random labels for random inputs."""
    rng = np.random.default_rng(0)

    def sets():
        x = rng.normal(size=(1, sizes[0], sizes[0])).astype(np.float32)
        return x, rng.integers(0, sizes[-1], (1, sizes[0]))

    return Problem(mlp(0, *sizes), sets(), sets(), True, steps, lr=1e-3)


def candidate(apply_fn, problem: Problem, make, guarded: bool):
    def meta_loss(lr, params, support, query):
        tx = optax.with_extra_args_support(make(lr))
        tx = tx if guarded else mark_finite(tx)
        run = jmeta.inner_loop(
            apply_fn, params, tx, problem.steps, loss_fn=cross_entropy, batch=support
        )
        return cross_entropy(apply_fn(run.params, query[0]), query[1])

    support, query = jax.tree.map(lambda x: x[0], (problem.support, problem.query))
    args = np.float32(problem.lr), problem.params, support, query
    gradient = jax.grad(meta_loss, argnums=(0, 1))
    return compiled(gradient, *args, gradients=False)


def main(argv=None):
    args = options(__doc__, argv)
    quick = args.quick
    cases = {
        "MLP": (mlp_apply, images(2, 8, 4) if quick else images(10, 64, 128, 128, 10)),
        "transformer": (
            partial(transformer, False),
            language(*((1, 8, 4, 1, 2) if quick else (2, 64, 32, 8, 10))),
        ),
    }
    rows, claims = [], []
    for case, (apply_fn, problem) in cases.items():
        times, firsts = [], []
        for name in list(TRANSFORMS)[: 1 if quick else None]:
            build = partial(candidate, apply_fn, problem, TRANSFORMS[name])
            # what is compiled first pays for the imports
            build(True) if not rows else None
            makers = {
                f"{name}, not guarded": partial(build, False),
                f"{name}, guarded": partial(build, True),
            }
            found = measure(case, makers, repeats=args.repeats, tolerance=0.0)
            rows += found
            plain, guarded = (np.array([row.cpu, row.first], float) for row in found)
            time, first = map(float, guarded / plain)
            times.append(time)
            firsts.append(first)
        text = f"times {{}} of the unguarded, worst transform: {case}"
        claims += [
            Claim(text.format("the time"), max(times), 1.1, at_most=True),
            Claim(text.format("the time to compile"), max(firsts), 1.3, at_most=True),
        ]
    report("guard", args, rows, [] if quick else claims)
    bars(args.out / "guard.png", "With and without guards", rows)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
