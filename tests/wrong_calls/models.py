"""Wrong calls of `make_functional`."""

from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen as nn, nnx

from jmeta import make_functional
from tests.wrong_calls.table import WrongCall

KEY = jax.random.key(0)
X = jnp.ones((4, 2))
LINEAR = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
MLP = eqx.nn.MLP(2, 2, 3, 1, key=KEY)
DENSE = nn.Dense(2)
TRANSFORMED = hk.transform(lambda x: hk.Linear(2)(x))
with jax.numpy_dtype_promotion("standard"):  # theirs mix dtypes
    VARIABLES, PARAMS = DENSE.init(KEY, X), TRANSFORMED.init(KEY, X)
STATEFUL = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True))


def function(params, x):
    return x @ params


def keyed(made: Any, key: Any = KEY) -> Any:
    return made[0](made[1], X, key=key)


def torch_module(base: type = object) -> Any:
    """An instance of what looks like a class of torch, which is not installed here."""
    module = type("Module", (base,), {"__module__": "torch.nn.modules.module"})
    return type("Net", (module,), {"__call__": lambda self, x: x})()


class Silent(eqx.Module):
    """A module that cannot be called."""

    weight: jax.Array


BATCH_NORM = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode="batch")
ROWS = [
    WrongCall(
        *("make_functional-number", lambda: make_functional(3.0)),
        *(TypeError, "model", "3.0", "a function `f(params, ...)`"),
    ),
    WrongCall(
        *("make_functional-none", lambda: make_functional(None)),
        *(TypeError, "model", "None", "a function `f(params, ...)`"),
    ),
    WrongCall(
        *("make_functional-swapped", lambda: make_functional(PARAMS, function)),
        *(TypeError, "model", "a dict", "The model comes first"),
    ),
    WrongCall(
        *("make_functional-class", lambda: make_functional(nnx.Linear)),
        *(TypeError, "model", "the class Linear", "Make one, `Linear(...)`"),
    ),
    WrongCall(
        *("make_functional-equinox-class", lambda: make_functional(eqx.nn.MLP)),
        *(TypeError, "model", "the class MLP", "Make one, `MLP(...)`"),
    ),
    WrongCall(
        *("make_functional-torch", lambda: make_functional(torch_module())),
        *(TypeError, "model", "a Net", "jmeta.from_torch"),
    ),
    WrongCall(
        "make_functional-torch-class",
        lambda: make_functional(type(torch_module()), PARAMS),
        *(TypeError, "model", "the class Net", "jmeta.from_torch"),
    ),
    WrongCall(
        *("make_functional-nnx-variables", lambda: make_functional(LINEAR, PARAMS)),
        *(ValueError, "variables", "a dict", "left out"),
    ),
    WrongCall(
        *("make_functional-wrt", lambda: make_functional(LINEAR, wrt=nnx.LoRAParam)),
        *(ValueError, "wrt", "LoRAParam", "must select a parameter"),
    ),
    WrongCall(
        "make_functional-wrt-function",
        lambda: make_functional(function, X, wrt=nnx.LoRAParam),
        *(ValueError, "wrt", "the class LoRAParam", "Leave it out"),
    ),
    WrongCall(
        *("make_functional-state", lambda: make_functional(LINEAR, state="no")),  # pyright: ignore[reportArgumentType]
        *(TypeError, "state", "'no'", "True or False"),
    ),
    WrongCall(
        *("make_functional-method", lambda: make_functional(LINEAR, method=3)),  # pyright: ignore[reportArgumentType]
        *(TypeError, "method", "3", "a method's name"),
    ),
    WrongCall(
        *("make_functional-method-name", lambda: make_functional(MLP, method="encode")),
        *(ValueError, "method", "'encode'", "a method of MLP"),
    ),
    WrongCall(
        "make_functional-nnx-method-name",
        lambda: make_functional(LINEAR, method="encode"),
        *(ValueError, "method", "'encode'", "a method of Linear"),
    ),
    WrongCall(
        "make_functional-linen-method-name",
        lambda: make_functional(DENSE, VARIABLES, method="encode"),
        *(ValueError, "method", "'encode'", "a method of Dense"),
    ),
    WrongCall(
        *("make_functional-linen-alone", lambda: make_functional(DENSE)),
        *(ValueError, "variables", "Dense alone", "model.init(key, inputs)"),
    ),
    WrongCall(
        "make_functional-linen-params",
        lambda: make_functional(DENSE, VARIABLES["params"]),
        *(ValueError, "variables", "'kernel'", "entry 'params'"),
    ),
    WrongCall(
        *("make_functional-function-alone", lambda: make_functional(function)),
        *(ValueError, "variables", "function", "make_functional(fn, params)"),
    ),
    WrongCall(
        *("make_functional-two-functions", lambda: make_functional(function, jax.jit)),
        *(TypeError, "variables", "the function jit", "its parameters"),
    ),
    WrongCall(
        "make_functional-function-method",
        lambda: make_functional(function, X, method="encode"),
        *(ValueError, "method", "'encode'", "Leave it out"),
    ),
    WrongCall(
        *("make_functional-equinox-params", lambda: make_functional(MLP, PARAMS)),
        *(ValueError, "variables", "a dict", "left out"),
    ),
    WrongCall(
        *("make_functional-equinox-stateful", lambda: make_functional(BATCH_NORM[0])),
        *(ValueError, "variables", "None", "eqx.nn.make_with_state"),
    ),
    WrongCall(
        "make_functional-equinox-swapped",
        lambda: make_functional(BATCH_NORM[1], BATCH_NORM[0]),
        *(TypeError, "model", "a State", "The model comes first"),
    ),
    WrongCall(
        *("make_functional-equinox-pair", lambda: make_functional(BATCH_NORM)),
        *(TypeError, "model", "a tuple", "make_functional(*model)"),
    ),
    WrongCall(
        *("make_functional-equinox-silent", lambda: make_functional(Silent(X))),
        *(TypeError, "model", "a Silent", "Pass `method=`"),
    ),
    WrongCall(
        "make_functional-equinox-integers",
        lambda: make_functional(eqx.nn.Lambda(jnp.tanh)),
        *(ValueError, "model", "Lambda", "floats"),
    ),
    WrongCall(
        *("make_functional-equinox-wrt", lambda: make_functional(MLP, wrt="bias")),
        *(TypeError, "wrt", "'bias'", "a function of a leaf"),
    ),
    WrongCall(
        *("make_functional-haiku-alone", lambda: make_functional(TRANSFORMED)),
        *(ValueError, "variables", "None", "transformed.init(key, x)"),
    ),
    WrongCall(
        "make_functional-haiku-pair",
        lambda: make_functional(TRANSFORMED, (PARAMS, {})),
        *(ValueError, "variables", "a tuple", "transformed.init(key, x)"),
    ),
    WrongCall(
        *("make_functional-haiku-no-state", lambda: make_functional(STATEFUL, PARAMS)),
        *(ValueError, "variables", "a dict", "(params, state)"),
    ),
    WrongCall(
        *("make_functional-haiku-class", lambda: make_functional(hk.Linear, PARAMS)),
        *(TypeError, "model", "the class Linear", "hk.transform(lambda x:"),
    ),
    WrongCall(
        "make_functional-haiku-method",
        lambda: make_functional(TRANSFORMED, PARAMS, method="encode"),
        *(ValueError, "method", "'encode'", "Transform a function"),
    ),
    WrongCall(
        *("make_functional-haiku-apply", lambda: make_functional(*TRANSFORMED)),
        *(TypeError, "variables", "function", "its parameters"),
    ),
    WrongCall(
        "apply_fn-other-params",
        lambda: make_functional(LINEAR)[0]({"kernel": X}, X),
        *(ValueError, "params", "bias", "`make_functional` returned"),
    ),
    WrongCall(
        "apply_fn-no-key",
        lambda: make_functional(hk.transform(lambda x: hk.next_rng_key()), {})[0](
            {}, X
        ),
        *(ValueError, "apply_fn(..., key=key)", "random numbers", "pass `apply_fn"),
    ),
    WrongCall(
        "apply_fn-key-integer",
        lambda: keyed(make_functional(LINEAR), 0),
        *(TypeError, "key", "got 0", "jax.random.key(0)"),
    ),
    WrongCall(
        "apply_fn-equinox-key-not-taken",
        lambda: keyed(make_functional(MLP, method=lambda model, x: jax.vmap(model)(x))),
        *(TypeError, "key", "key<fry>", "method=lambda module, x, key"),
    ),
]
