"""Wrong calls of the adjoints, their conditions and their linear solvers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jmeta
from jmeta import (
    CG,
    GMRES,
    FixedPoint,
    ForwardMode,
    Implicit,
    Neumann,
    NormalCG,
    Root,
    Unroll,
    proximal,
)
from tests.wrong_calls.table import WrongCall

PARAMS = {"w": jnp.ones(2)}


def make(kind: Any, **settings):
    return lambda: kind(**settings)


def solved(solver):
    return solution(jmeta.StationaryPoint(), solver)


def as_half(matvec, b):
    return jax.tree.map(lambda x: x.astype(jnp.float16), b)


class OneArgument:
    """A condition whose method takes the parameters alone."""

    def residual(self, params):
        return params


def solution(condition, solver: Any = CG()):  # noqa: B008 (frozen, without state)
    """The derivative of a loop's end, where the condition is looked at."""

    def end(target):
        run = jmeta.inner_loop(
            lambda p: jnp.sum((p["w"] - target) ** 2),
            PARAMS,
            jmeta.optim.sgd(),
            2,
            adjoint=Implicit(solver=solver, condition=condition),
        )
        return jnp.sum(run.params["w"])

    return jax.eval_shape(jax.grad(end), 1.0)


def solve(solver: Any, matvec: Any = lambda x: 2.0 * x, b: Any = 1.0):
    return lambda: solver(matvec, b)


def pushed(adjoint):
    square = lambda w: w**2
    final = lambda lr: (
        jmeta.inner_loop(square, 1.0, jmeta.optim.sgd(lr=lr), 2, adjoint=adjoint).params
    )
    return lambda: jax.jvp(final, (0.1,), (1.0,))


SETTINGS = {
    "tol": [
        ("string", "a", TypeError, "'a'", "number"),
        ("negative", -1.0, ValueError, "-1.0", "at least 0"),
        ("nan", float("nan"), ValueError, "nan", "at least 0"),
        ("one", 1.0, ValueError, "1.0", "below 1"),
        ("bool", True, TypeError, "True", "number"),
    ],
    "maxiter": [
        ("zero", 0, ValueError, "0", "at least 1"),
        ("negative", -3, ValueError, "-3", "at least 1"),
        ("float", 2.5, TypeError, "2.5", "Python integer"),
    ],
    "damping": [
        ("negative", -0.1, ValueError, "-0.1", "at least 0"),
        ("none", None, TypeError, "None", "number"),
        ("vector", np.ones(2), ValueError, "(2,)", "single number"),
    ],
}

SOLVERS = [
    WrongCall(
        f"{solver.__name__}-{name}-{what}",
        make(solver, **{name: value}),
        *(error, name, got, use),
    )
    for solver in (CG, NormalCG, GMRES)
    for name, cases in SETTINGS.items()
    for what, value, error, got, use in cases
]

ROWS = [
    *SOLVERS,
    WrongCall(
        *("GMRES-restart-zero", make(GMRES, restart=0)),
        *(ValueError, "restart", "0", "at least 1"),
    ),
    WrongCall(
        *("GMRES-restart-bool", make(GMRES, restart=True)),
        *(TypeError, "restart", "True", "Python integer"),
    ),
    WrongCall(
        *("Neumann-terms-negative", make(Neumann, terms=-1)),
        *(ValueError, "terms", "-1", "at least 1"),
    ),
    WrongCall(
        *("Neumann-terms-zero", make(Neumann, terms=0)),
        *(ValueError, "terms", "0", "no solution"),
    ),
    WrongCall(
        *("Neumann-terms-float", make(Neumann, terms=3.0)),
        *(TypeError, "terms", "3.0", "Python integer"),
    ),
    WrongCall(
        *("Neumann-scale-zero", make(Neumann, scale=0.0)),
        *(ValueError, "scale", "0.0", "above 0"),
    ),
    WrongCall(
        *("Neumann-scale-string", make(Neumann, scale="lr")),
        *(TypeError, "scale", "'lr'", "number"),
    ),
    WrongCall(
        *("CG-call-matrix", solve(CG(), np.eye(2), jnp.ones(2))),
        *(TypeError, "matvec", "shape (2, 2)", "function"),
    ),
    WrongCall(
        *("GMRES-call-integers", solve(GMRES(), b=jnp.arange(2))),
        *(TypeError, "b", "int", "float arrays"),
    ),
    WrongCall(
        *("NormalCG-call-nothing", solve(NormalCG(), b={})),
        *(TypeError, "b", "{}", "float arrays"),
    ),
    WrongCall(
        *("Neumann-call-other-shape", solve(Neumann(), lambda x: x[:1], jnp.ones(2))),
        *(ValueError, "matvec", "(1,)", "keep the tree, shapes"),
    ),
    WrongCall(
        *("CG-call-other-tree", solve(CG(), lambda x: {"a": x}, jnp.ones(2))),
        *(ValueError, "matvec", "'a'", "keep the tree"),
    ),
    WrongCall(
        *("CG-call-string", solve(CG(), lambda x: "a", jnp.ones(2))),
        *(TypeError, "matvec", "'a'", "pytree of arrays"),
    ),
    WrongCall(
        *("CG-call-class", solve(CG(), CG, jnp.ones(2))),
        *(TypeError, "matvec", "the class CG", "linear function"),
    ),
    WrongCall(
        *("Unroll-mixed-number", make(Unroll, mixed=1)),
        *(TypeError, "mixed", "1", "True or False"),
    ),
    WrongCall(
        *("Unroll-checkpoint-word", make(Unroll, checkpoint="all")),
        *(ValueError, "checkpoint", "'all'", "'nested'"),
    ),
    WrongCall(
        *("Unroll-checkpoint-array", make(Unroll, checkpoint=jnp.ones(2))),
        *(ValueError, "checkpoint", "shape (2,)", "'step'"),
    ),
    WrongCall(
        *("Unroll-last-bool", make(Unroll, last=True)),
        *(TypeError, "last", "True", "Python integer"),
    ),
    WrongCall(
        *("Unroll-last-float", make(Unroll, last=2.0)),
        *(TypeError, "last", "2.0", "None is every step"),
    ),
    WrongCall(
        *("Unroll-last-negative", make(Unroll, last=-1)),
        *(ValueError, "last", "-1", "at least 0"),
    ),
    WrongCall(
        *("Unroll-order-three", make(Unroll, order=3)),
        *(ValueError, "order", "3", "1 or 2"),
    ),
    WrongCall(
        *("Unroll-order-bool", make(Unroll, order=True)),
        *(TypeError, "order", "True", "1 is first order"),
    ),
    WrongCall(
        *("Unroll-unroll-zero", make(Unroll, unroll=0)),
        *(ValueError, "unroll", "0", "at least 1"),
    ),
    WrongCall(
        *("Unroll-unroll-bool", make(Unroll, unroll=True)),
        *(TypeError, "unroll", "True", "Python integer"),
    ),
    WrongCall(
        *("Unroll-forward-mode", pushed(Unroll())),
        *(TypeError, "mixed=True", "jvp", "`Unroll(mixed=False)`"),
    ),
    WrongCall(
        *("ForwardMode-limit-none", make(ForwardMode, limit=None)),
        *(TypeError, "limit", "None", "numbers that may be differentiated"),
    ),
    WrongCall(
        *("ForwardMode-limit-negative", make(ForwardMode, limit=-1)),
        *(ValueError, "limit", "-1", "at least 0"),
    ),
    WrongCall(
        *("ForwardMode-limit-infinite", make(ForwardMode, limit=float("inf"))),
        *(TypeError, "limit", "inf", "Python integer"),
    ),
    WrongCall(
        *("Implicit-solver-string", make(Implicit, solver="cg")),
        *(TypeError, "solver", "'cg'", "`CG()`"),
    ),
    WrongCall(
        *("Implicit-solver-class", make(Implicit, solver=CG)),
        *(TypeError, "solver", "the class CG", "Call it: pass `CG(...)`"),
    ),
    WrongCall(
        *("Implicit-solver-none", make(Implicit, solver=None)),
        *(TypeError, "solver", "None", "Pass one of these"),
    ),
    WrongCall(
        *("Implicit-solver-adjoint", make(Implicit, solver=Unroll())),
        *(TypeError, "solver", "an Unroll", "2 arguments"),
    ),
    WrongCall(
        *("Implicit-condition-class", make(Implicit, condition=FixedPoint)),
        *(TypeError, "condition", "the class FixedPoint", "`FixedPoint(...)`"),
    ),
    WrongCall(
        *("Implicit-condition-function", make(Implicit, condition=lambda p: p)),
        *(TypeError, "condition", "the function <lambda>", "`Root(fn)`"),
    ),
    WrongCall(
        *("Implicit-condition-residual", make(Implicit, condition=OneArgument())),
        *(TypeError, "condition", "(params)", "4 arguments"),
    ),
    WrongCall(
        *("Implicit-condition-string", make(Implicit, condition="fixed point")),
        *(TypeError, "condition", "'fixed point'", "`StationaryPoint()`"),
    ),
    WrongCall(
        *("Implicit-tol-string", make(Implicit, tol="a")),
        *(TypeError, "tol", "'a'", "number"),
    ),
    WrongCall(
        *("Implicit-tol-negative", make(Implicit, tol=-1)),
        *(ValueError, "tol", "-1", "at least 0"),
    ),
    WrongCall(
        *("Root-fn-number", make(Root, fn=3)),
        *(TypeError, "fn", "3", "maps parameters"),
    ),
    WrongCall(
        *("Root-fn-no-argument", make(Root, fn=lambda: 0)),
        *(TypeError, "fn", "too many positional", "1 argument"),
    ),
    WrongCall(
        *("Root-fn-gives-string", lambda: solution(Root(lambda p: {"w": "root"}))),
        *(TypeError, "fn", "'root'", "pytree of arrays"),
    ),
    WrongCall(
        *("Implicit-solver-gives-number", lambda: solved(lambda matvec, b: 3.0)),
        *(ValueError, "solver", "PyTreeDef(*)", "a tree like the right-hand side"),
    ),
    WrongCall(
        *("Implicit-solver-other-dtype", lambda: solved(as_half)),
        *(ValueError, "solver", "dtype float16", "a tree like the right-hand side"),
    ),
    WrongCall(
        *("Root-fn-other-shape", lambda: solution(Root(lambda p: {"w": p["w"][:1]}))),
        *(ValueError, "fn", "shape (1,)", "expected shape (2,)"),
    ),
    WrongCall(
        *("Root-fn-other-tree", lambda: solution(Root(lambda p: p["w"]))),
        *(ValueError, "fn", "PyTreeDef(*)", "one number for each"),
    ),
    WrongCall(
        *("Root-fn-other-dtype", lambda: solution(Root(lambda p: {"w": p["w"] > 0}))),
        *(ValueError, "fn", "dtype bool", "expected shape (2,) and dtype float64"),
    ),
    WrongCall(
        *("proximal-center-other-tree", lambda: proximal(PARAMS, jnp.ones(2), 1.0)),
        *(ValueError, "center", "PyTreeDef(*)", "a tree like `params`"),
    ),
    WrongCall(
        *("proximal-params-none", make(proximal, params=None, center=None, weight=1)),
        *(TypeError, "params", "None", "pytree of arrays"),
    ),
    WrongCall(
        *("proximal-center-other-shape", lambda: proximal(jnp.ones(2), 1.0, 1.0)),
        *(ValueError, "center", "shape ()", "expected shape (2,)"),
    ),
    WrongCall(
        *(
            "proximal-weight-tree",
            make(proximal, params=PARAMS, center=PARAMS, weight=PARAMS),
        ),
        *(TypeError, "weight", "a dict", "number"),
    ),
]
