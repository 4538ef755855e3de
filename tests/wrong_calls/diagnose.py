"""Wrong calls of what tells about a loop: plan, check, explain, unused parameters."""

from typing import Any

import jax
import jax.numpy as jnp

import jmeta
from jmeta import Unroll
from tests.wrong_calls.table import WrongCall

W = jnp.ones(3)


def square(x):
    return jnp.sum(x**2)


def make_gradient(adjoint):
    del adjoint
    return jax.grad(square)


def make(adjoint):
    del adjoint
    return square


def call(name, *args: Any, **kwargs: Any):
    return lambda: getattr(jmeta, name)(*args, **kwargs)


ROWS = [
    WrongCall(
        *("plan-make-number", call("plan", 3)),
        *(TypeError, "make", "3", "`lambda adjoint: meta_loss`"),
    ),
    WrongCall(
        *("plan-make-without-adjoint", call("plan", lambda: square, W)),
        *(TypeError, "make", "<lambda>", "1 argument"),
    ),
    WrongCall(
        *("plan-make-gives-array", call("plan", lambda adjoint: W, W)),
        *(TypeError, "make", "shape (3,)", "`lambda adjoint: meta_loss`"),
    ),
    WrongCall(
        *("plan-args-string", call("plan", make, "w")),
        *(TypeError, "args", "'w'", "pytree of arrays"),
    ),
    WrongCall(
        *("plan-budget-string", call("plan", make, W, budget_bytes="2GB")),
        *(TypeError, "budget_bytes", "'2GB'", "in bytes"),
    ),
    WrongCall(
        *("plan-budget-negative", call("plan", make, W, budget_bytes=-1)),
        *(ValueError, "budget_bytes", "-1", "at least 0"),
    ),
    WrongCall(
        *("plan-adjoints-one", call("plan", make, W, adjoints=Unroll())),
        *(TypeError, "adjoints", "an Unroll", "`[Unroll()]`"),
    ),
    WrongCall(
        *("plan-adjoints-class", call("plan", make, W, adjoints=[Unroll])),
        *(TypeError, "adjoints", "the class Unroll", "Call it: pass `Unroll(...)`"),
    ),
    WrongCall(
        *("plan-adjoints-string", call("plan", make, W, adjoints=["unroll"])),
        *(TypeError, "adjoints", "'unroll'", "`ForwardMode()`"),
    ),
    WrongCall(
        *("plan-adjoints-solver", call("plan", make, W, adjoints=[jmeta.CG()])),
        *(TypeError, "adjoints", "a CG", "1 argument"),
    ),
    WrongCall(
        *("plan-adjoints-none", call("plan", make, W, adjoints=[])),
        *(ValueError, "adjoints", "none", "one adjoint or more"),
    ),
    WrongCall(
        *("plan-measure-number", call("plan", make, W, measure=5)),
        *(TypeError, "measure", "5", "True or False"),
    ),
    WrongCall(
        *("plan-gradient", call("plan", make_gradient, W)),
        *(ValueError, "make(adjoint)", "float64[3]", "not its gradient"),
    ),
    WrongCall(
        *("plan-args-too-many", call("plan", make, W, W)),
        *(TypeError, "make(adjoint)", "too many", "function of 2 arguments"),
    ),
    WrongCall(
        *("plan-argnums-name", call("plan", make, W, argnums="x")),
        *(TypeError, "argnums", "'x'", "the place of one of the 1 arguments"),
    ),
    WrongCall(
        *("plan-argnums-too-large", call("plan", make, W, argnums=(0, 1))),
        *(ValueError, "argnums", "1", "below 1"),
    ),
    WrongCall(
        "plan-measure-shapes",
        call("plan", make, jax.ShapeDtypeStruct((3,), "float64"), measure=True),
        *(ValueError, "measure=True", "ShapeDtypeStruct", "Pass arrays"),
    ),
    WrongCall(
        *("check_hypergrad-make-number", call("check_hypergrad", 3, W)),
        *(TypeError, "make", "3", "`lambda adjoint: meta_loss`"),
    ),
    WrongCall(
        *("check_hypergrad-gradient", call("check_hypergrad", make_gradient, W)),
        *(ValueError, "make(adjoint)", "float64[3]", "not its gradient"),
    ),
    WrongCall(
        *("check_hypergrad-vector", call("check_hypergrad", lambda a: lambda x: x, W)),
        *(ValueError, "make(adjoint)", "float64[3]", "not its gradient"),
    ),
    WrongCall(
        "check_hypergrad-pair",
        call("check_hypergrad", lambda a: lambda x: (square(x), x), W),
        *(ValueError, "make(adjoint)", "a tuple", "floating-point scalar"),
    ),
    WrongCall(
        *("check_hypergrad-none", call("check_hypergrad", lambda a: lambda x: None, W)),
        *(ValueError, "make(adjoint)", "None", "floating-point scalar"),
    ),
    WrongCall(
        "check_hypergrad-adjoint-class",
        call("check_hypergrad", make, W, adjoint=Unroll),
        *(TypeError, "adjoint", "the class Unroll", "Call it: pass `Unroll(...)`"),
    ),
    WrongCall(
        "check_hypergrad-adjoint-none",
        call("check_hypergrad", make, W, adjoint=None),
        *(TypeError, "adjoint", "None", "`Unroll()`"),
    ),
    WrongCall(
        *("check_hypergrad-args-missing", call("check_hypergrad", make)),
        *(ValueError, "args", "[]", "floating-point argument"),
    ),
    WrongCall(
        *("check_hypergrad-args-too-many", call("check_hypergrad", make, W, W)),
        *(TypeError, "make(adjoint)", "too many", "function of 2 arguments"),
    ),
    WrongCall(
        "check_hypergrad-args-integers",
        call("check_hypergrad", make, jnp.arange(3)),
        *(ValueError, "args", "int64", "floating-point argument"),
    ),
    WrongCall(
        "check_hypergrad-args-shapes",
        call("check_hypergrad", make, jax.ShapeDtypeStruct((3,), "float64")),
        *(TypeError, "args", "a ShapeDtypeStruct", "pytree of arrays"),
    ),
    WrongCall(
        *("explain-fun-number", call("explain", 3)),
        *(TypeError, "fun", "3", "what it is called with"),
    ),
    WrongCall(
        *("explain-fun-result", call("explain", square(W), W)),
        *(TypeError, "fun", "dtype float64", "Pass the function"),
    ),
    WrongCall(
        *("explain-args-missing", call("explain", square)),
        *(TypeError, "fun", "missing a required argument", "0 arguments"),
    ),
    WrongCall(
        *("explain-args-string", call("explain", square, "x")),
        *(TypeError, "args", "'x'", "pytree of arrays"),
    ),
    WrongCall(
        *("explain-fun-gives-string", call("explain", lambda x: "x", W)),
        *(TypeError, "fun", "'x'", "return arrays alone"),
    ),
    WrongCall(
        *("unused_parameters-objective-number", call("unused_parameters", 3, W)),
        *(TypeError, "objective", "3", "`objective(params, *batch)`"),
    ),
    WrongCall(
        *("unused_parameters-swapped", call("unused_parameters", W, square)),
        *(TypeError, "objective", "shape (3,)", "function"),
    ),
    WrongCall(
        "unused_parameters-batch-missing",
        call("unused_parameters", lambda p, x: square(p), W),
        *(TypeError, "objective", "missing a required argument", "1 argument"),
    ),
    WrongCall(
        *("unused_parameters-params-string", call("unused_parameters", square, "w")),
        *(TypeError, "params", "'w'", "pytree of arrays"),
    ),
    WrongCall(
        *("unused_parameters-params-none", call("unused_parameters", square, None)),
        *(ValueError, "params", "None", "that `objective` takes first"),
    ),
    WrongCall(
        *("unused_parameters-vector", call("unused_parameters", lambda p: 2 * p, W)),
        *(ValueError, "objective", "(3,)", "scalar loss alone"),
    ),
    WrongCall(
        "unused_parameters-pair",
        call("unused_parameters", lambda p: (square(p), p), W),
        *(ValueError, "objective", "[(), (3,)]", "scalar loss alone"),
    ),
    WrongCall(
        *("unused_parameters-string", call("unused_parameters", lambda p: "loss", W)),
        *(TypeError, "objective", "'loss'", "the scalar loss"),
    ),
]
