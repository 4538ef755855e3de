"""Wrong calls of the plots."""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

import jmeta
from tests.wrong_calls.table import WrongCall

mpl.use("agg")

X = np.linspace(0.0, 1.0, 3)
RATES = np.array([[0.2, 0.3], [0.6, 0.8]])


def draw(name, *args: Any, **kwargs: Any):
    return lambda: getattr(jmeta.plot, name)(*args, **kwargs)


def run():
    return jmeta.inner_loop(lambda w: w**2, 1.0, jmeta.optim.sgd(), 1)


def runs():
    square, tx = lambda w: w**2, jmeta.optim.sgd()
    loop = lambda w: jmeta.inner_loop(square, w, tx, 1, history=True)
    return jax.vmap(loop)(jnp.ones(2))


AXES = {
    "hypergradients": (X,),
    "losses": (X,),
    "adaptation": (X, {"after": X}),
    "accuracy": (RATES,),
}

ROWS = [
    *(
        WrongCall(
            *(f"plot.{name}-ax-number", draw(name, *args, ax=3)),
            *(TypeError, "ax", "3", "`ax = plt.subplots()[1]`"),
        )
        for name, args in AXES.items()
    ),
    WrongCall(
        *("plot.losses-ax-array", draw("losses", X, ax=np.array([1, 2]))),
        *(TypeError, "ax", "shape (2,)", "matplotlib axes"),
    ),
    WrongCall(
        *("plot.hypergradients-scalar", draw("hypergradients", {"lr": 1.0})),
        *(ValueError, "values", "['lr']", "an axis of steps"),
    ),
    WrongCall(
        *("plot.hypergradients-string", draw("hypergradients", {"lr": "big"})),
        *(TypeError, "values", "'big'", "arrays"),
    ),
    WrongCall(
        *("plot.hypergradients-none", draw("hypergradients", None)),
        *(TypeError, "values", "None", "arrays"),
    ),
    WrongCall(
        *("plot.losses-scalar", draw("losses", 1.0)),
        *(ValueError, "run", "a scalar", "an axis of steps"),
    ),
    WrongCall(
        *("plot.losses-string", draw("losses", "losses")),
        *(TypeError, "run", "'losses'", "real numbers"),
    ),
    WrongCall(
        *("plot.losses-ragged", draw("losses", [[1.0, 2.0], [3.0]])),
        *(TypeError, "run", "a list", "real numbers"),
    ),
    WrongCall(
        *("plot.history-not-kept", lambda: jmeta.plot.history(run())),
        *(ValueError, "run", "without", "`inner_loop(..., history=True)`"),
    ),
    WrongCall(
        *("plot.history-several", lambda: jmeta.plot.history(runs())),
        *(ValueError, "run", "(2, 1)", "a single loop"),
    ),
    WrongCall(
        *("plot.losses-no-steps", draw("losses", np.zeros(0))),
        *(ValueError, "run", "shape (0,)", "an axis of steps"),
    ),
    WrongCall(
        *("plot.history-array", draw("history", X)),
        *(TypeError, "run", "shape (3,)", "`inner_loop(..., history=True)`"),
    ),
    WrongCall(
        *("plot.adaptation-length", draw("adaptation", X, {"after": np.ones(4)})),
        *(ValueError, "outputs", "(4,) for 'after'", "3 entries as `x` has"),
    ),
    WrongCall(
        *("plot.adaptation-x-row", draw("adaptation", X[None], {"after": X})),
        *(ValueError, "x", "(1, 3)", "`[n]` or `[n, 1]`"),
    ),
    WrongCall(
        *("plot.adaptation-outputs-array", draw("adaptation", X, X)),
        *(TypeError, "outputs", "shape (3,)", "{'after': y}"),
    ),
    WrongCall(
        *("plot.adaptation-truth", draw("adaptation", X, {"a": X}, truth=X[:2])),
        *(ValueError, "truth", "(2,)", "3 entries as `x` has"),
    ),
    WrongCall(
        *("plot.adaptation-seen-array", draw("adaptation", X, {"a": X}, seen=X)),
        *(TypeError, "seen", "shape (3,)", "`task.support`"),
    ),
    WrongCall(
        "plot.adaptation-seen-lengths",
        draw("adaptation", X, {"a": X}, seen=(X, X[:2])),
        *(ValueError, "seen", "(2,)", "3 entries"),
    ),
    WrongCall(
        *("plot.accuracy-one-task", draw("accuracy", np.ones(1))),
        *(ValueError, "values", "(1,)", "two tasks or more"),
    ),
    WrongCall(
        *("plot.accuracy-rank", draw("accuracy", np.ones((2, 2, 2)))),
        *(ValueError, "values", "(2, 2, 2)", "`[tasks]`"),
    ),
    WrongCall(
        *("plot.accuracy-above-one", draw("accuracy", np.array([0.5, 1.2]))),
        *(ValueError, "values", "1.2", "between 0 and 1"),
    ),
    WrongCall(
        *("plot.accuracy-nan", draw("accuracy", np.array([0.5, np.nan]))),
        *(ValueError, "values", "nan", "between 0 and 1"),
    ),
    WrongCall(
        *("plot.accuracy-string", draw("accuracy", {"MAML": "good"})),
        *(TypeError, "values", "'good'", "real numbers"),
    ),
    WrongCall(
        *("plot.accuracy-points", draw("accuracy", RATES, jnp.arange(3))),
        *(ValueError, "x", "(3,)", "for each of the points"),
    ),
    WrongCall(
        *("plot.accuracy-label", draw("accuracy", RATES, label=3)),
        *(TypeError, "label", "3", "a string"),
    ),
]
