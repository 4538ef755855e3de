"""Wrong calls of `jmeta.schedules`."""

import jax
import jax.numpy as jnp

from jmeta import PerLeaf, schedules as S
from tests.wrong_calls.table import WrongCall

CONSTANT = S.constant_lr(0.1)
PLATEAU = S.reduce_lr_on_plateau(0.1)

# wrong on purpose
# pyright: reportArgumentType=false, reportCallIssue=false
ROWS = [
    *(
        WrongCall(f"{name}-{argument}-{got}", call, error, argument, got, use)
        for name, rows in {
            "exponential_lr": [
                (lambda: S.exponential_lr(0.1, "a"), TypeError, "gamma", "'a'", "a nu"),
            ],
            "one_cycle_momentum": [
                (
                    lambda: S.one_cycle_momentum(2.5),
                    *(TypeError, "total_steps", "2.5", "Python integer"),
                ),
            ],
            "cyclic_momentum": [
                (
                    lambda: S.cyclic_momentum("a", 0.9, 3),
                    *(TypeError, "base_momentum", "'a'", "a number"),
                ),
            ],
            "step_lr": [
                (lambda: S.step_lr("a", 2), TypeError, "lr", "'a'", "a number"),
                (lambda: S.step_lr([0.1], 2), TypeError, "lr", "a list", "an array"),
                (
                    lambda: S.step_lr(PerLeaf(0.1), 2),
                    *(TypeError, "lr", "a PerLeaf", "parameter group"),
                ),
                (lambda: S.step_lr(0.1, 2, None), TypeError, "gamma", "None", "a num"),
                (
                    lambda: S.step_lr(0.1, 2.5),
                    *(TypeError, "step_size", "2.5", "Python integer"),
                ),
                (
                    lambda: S.step_lr(0.1, True),
                    *(TypeError, "step_size", "True", "Python integer"),
                ),
                (
                    lambda: S.step_lr(0.1, 0),
                    *(ValueError, "step_size", "0", "at least 1"),
                ),
                (
                    lambda: jax.jit(lambda n: S.step_lr(0.1, n)(0))(3),
                    *(TypeError, "step_size", "a traced", "known before tracing"),
                ),
                (lambda: CONSTANT(1.5), TypeError, "step", "1.5", "an integer"),
                (lambda: CONSTANT("a"), TypeError, "step", "'a'", "an integer"),
            ],
            "multi_step_lr": [
                (
                    lambda: S.multi_step_lr(0.1, 5),
                    *(TypeError, "milestones", "5", "`[30, 60]`"),
                ),
                (
                    lambda: S.multi_step_lr(0.1, "30"),
                    *(TypeError, "milestones", "'30'", "`[30, 60]`"),
                ),
                (
                    lambda: S.multi_step_lr(0.1, [1.5]),
                    *(ValueError, "milestones", "[1.5]", "Python integers"),
                ),
                (
                    lambda: S.multi_step_lr(0.1, [3, "a"]),
                    *(ValueError, "milestones", "[3, 'a']", "Python integers"),
                ),
                (
                    lambda: S.multi_step_lr(0.1, [-1, 2]),
                    *(ValueError, "milestones", "[-1, 2]", "from 0"),
                ),
            ],
            "constant_lr": [
                (
                    lambda: S.constant_lr(0.1, 1.5),
                    *(ValueError, "factor", "1.5", "between 0 and 1"),
                ),
            ],
            "linear_lr": [
                (
                    lambda: S.linear_lr(0.1, 0.0),
                    *(ValueError, "start_factor", "0.0", "greater than 0"),
                ),
                (
                    lambda: S.linear_lr(0.1, 0.5, -0.1),
                    *(ValueError, "end_factor", "-0.1", "between 0 and 1"),
                ),
            ],
            "polynomial_lr": [
                (
                    lambda: S.polynomial_lr(0.1, 0),
                    *(ValueError, "total_iters", "0", "at least 1"),
                ),
            ],
            "lambda_lr": [
                (
                    lambda: S.lambda_lr(0.1, 0.5),
                    *(TypeError, "lr_lambda", "0.5", "`lambda step: 0.9**step`"),
                ),
                (
                    lambda: S.lambda_lr(0.1, lambda step: "a")(0),
                    *(TypeError, "lr_lambda(step)", "'a'", "a number"),
                ),
            ],
            "cosine_annealing_lr": [
                (
                    lambda: S.cosine_annealing_lr(0.1, -3),
                    *(ValueError, "T_max", "-3", "at least 1"),
                ),
                (
                    lambda: S.cosine_annealing_lr(0.1, 3, True),
                    *(TypeError, "eta_min", "True", "a number"),
                ),
            ],
            "cosine_annealing_warm_restarts": [
                (
                    lambda: S.cosine_annealing_warm_restarts(0.1, 3, 0),
                    *(ValueError, "T_mult", "0", "at least 1"),
                ),
                (
                    lambda: S.cosine_annealing_warm_restarts(0.1, None),
                    *(TypeError, "T_0", "None", "Python integer"),
                ),
            ],
            "warmup_cosine": [
                (
                    lambda: S.warmup_cosine(None, 2, 4),
                    *(TypeError, "peak", "None", "a number"),
                ),
                (
                    lambda: S.warmup_cosine(0.1, 0, 4),
                    *(ValueError, "total_iters", "0", "at least 1"),
                ),
                (
                    lambda: S.warmup_cosine(0.1, 2, 4.5),
                    *(TypeError, "T_max", "4.5", "Python integer"),
                ),
                (
                    lambda: S.warmup_cosine(0.1, 2, 4, start_factor=0),
                    *(ValueError, "start_factor", "0", "greater than 0"),
                ),
            ],
            "one_cycle_lr": [
                (
                    lambda: S.one_cycle_lr(0.1, epochs=3),
                    *(ValueError, "total_steps", "epochs=3", "both"),
                ),
                (
                    lambda: S.one_cycle_lr(0.1, 10.5),
                    *(TypeError, "total_steps", "10.5", "Python integer"),
                ),
                (
                    lambda: S.one_cycle_lr(0.1, 10, pct_start=1.1),
                    *(ValueError, "pct_start", "1.1", "between 0 and 1"),
                ),
                (
                    lambda: S.one_cycle_lr(0.1, 10, pct_start=0.1),
                    *(ValueError, "pct_start", "0.1", "Change"),
                ),
                (
                    lambda: S.one_cycle_lr(0.1, 10, anneal_strategy="poly"),
                    *(ValueError, "anneal_strategy", "'poly'", "'cos' or 'linear'"),
                ),
                (
                    lambda: S.one_cycle_lr(0.1, 10, three_phase="a"),
                    *(TypeError, "three_phase", "'a'", "True or False"),
                ),
            ],
            "cyclic_lr": [
                (
                    lambda: S.cyclic_lr(0.1, 0.2, 0),
                    *(ValueError, "step_size_up", "0", "above 0"),
                ),
                (
                    lambda: S.cyclic_lr(0.1, 0.2, 3, "a"),
                    *(TypeError, "step_size_down", "'a'", "a number"),
                ),
                (
                    lambda: S.cyclic_lr(0.1, 0.2, mode="saw"),
                    *(ValueError, "mode", "'saw'", "'triangular2'"),
                ),
                (
                    lambda: S.cyclic_lr(0.1, 0.2, scale_mode="steps"),
                    *(ValueError, "scale_mode", "'steps'", "'iterations'"),
                ),
                (
                    lambda: S.cyclic_lr(0.1, 0.2, scale_fn=2.0),
                    *(TypeError, "scale_fn", "2.0", "`lambda n: 1 / n`"),
                ),
            ],
            "sequential_lr": [
                (
                    lambda: S.sequential_lr([0.1], []),
                    *(TypeError, "schedules[0]", "0.1", "`constant_lr(0.1)`"),
                ),
                (
                    lambda: S.sequential_lr(CONSTANT, []),
                    *(TypeError, "schedules", "the function", "milestones=[100]"),
                ),
                (
                    lambda: S.sequential_lr([], []),
                    *(ValueError, "schedules", "0 schedules", "one more than"),
                ),
                (
                    lambda: S.sequential_lr([CONSTANT] * 3, [5, 2]),
                    *(ValueError, "milestones", "[5, 2]", "increasing"),
                ),
                (
                    lambda: S.sequential_lr([CONSTANT] * 2, 5),
                    *(TypeError, "milestones", "5", "`[30, 60]`"),
                ),
            ],
            "reduce_lr_on_plateau": [
                (
                    lambda: S.reduce_lr_on_plateau(0.1, "down"),
                    *(ValueError, "mode", "'down'", "'min' or 'max'"),
                ),
                (
                    lambda: S.reduce_lr_on_plateau(0.1, factor=1.0),
                    *(ValueError, "factor", "1.0", "less than 1"),
                ),
                (
                    lambda: S.reduce_lr_on_plateau(0.1, patience=2.5),
                    *(TypeError, "patience", "2.5", "Python integer"),
                ),
                (
                    lambda: S.reduce_lr_on_plateau(0.1, threshold_mode="x"),
                    *(ValueError, "threshold_mode", "'x'", "'rel' or 'abs'"),
                ),
                (
                    lambda: S.reduce_lr_on_plateau(jnp.complex64(1)),
                    *(TypeError, "lr", "complex64", "a number"),
                ),
                (
                    lambda: PLATEAU.update("a", PLATEAU.init()),
                    *(TypeError, "metric", "'a'", "a number"),
                ),
                (
                    lambda: PLATEAU.update(1.0, 0.1),
                    *(TypeError, "state", "0.1", "what `update` returns"),
                ),
            ],
        }.items()
        for call, error, argument, got, use in rows
    ),
]
