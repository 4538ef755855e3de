"""A wrong use of `make_functional` raises and says what to do."""

import jax.numpy as jnp
import pytest
from flax import linen as nn, nnx

from jmeta import make_functional
from tests.functional_cases import (
    F64,
    FUNCTION_PARAMS,
    ROWS,
    Case,
    LinenMLP,
    NnxMLP,
    X,
    function,
    linear,
    linen_row,
)


class NnxLazy(nnx.Module):
    def __init__(self):
        self.linear = linear()

    def __call__(self, x):
        self.mean = nnx.BatchStat(x.mean())
        return self.linear(x)


class LinenLosses(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("losses", "norm", jnp.sum(x))
        return nn.Dense(2, param_dtype=F64)(x)


LINEN = ROWS["linen_mlp"]()
ERRORS = {
    "class": (lambda: make_functional(NnxMLP), TypeError, r"got the class NnxMLP"),
    "linen_class": (lambda: make_functional(LinenMLP), TypeError, r"`LinenMLP\(...\)`"),
    "linen_alone": (
        lambda: make_functional(LINEN.model),
        ValueError,
        r"got LinenMLP alone.*variables = model\.init\(key, inputs\)",
    ),
    "linen_bound": (
        lambda: make_functional(LINEN.model.bind(LINEN.variables)),
        ValueError,
        r"module, variables = model\.unbind\(\)",
    ),
    "no_params": (
        lambda: make_functional(LINEN.model, LINEN.variables["params"]),
        ValueError,
        r"entry 'params'; got \['encoder', 'head'\]",
    ),
    "variables_no_dict": (
        lambda: make_functional(LINEN.model, 3.0),
        ValueError,
        r"entry 'params'; got 3.0",
    ),
    "nnx_with_variables": (
        lambda: make_functional(NnxMLP(), {}),
        ValueError,
        r"`variables` must be left out for an nnx module",
    ),
    "wrt_of_linen": (
        lambda: make_functional(LINEN.model, LINEN.variables, wrt=nnx.LoRAParam),
        ValueError,
        r"`wrt` selects parameters .* got the class LoRAParam for a LinenMLP",
    ),
    "wrt_selects_none": (
        lambda: make_functional(NnxMLP(), wrt=nnx.LoRAParam),
        ValueError,
        r"`wrt` must select a parameter of NnxMLP; got .*LoRAParam",
    ),
    "function_alone": (
        lambda: make_functional(function),
        ValueError,
        r"A function needs its parameters.*got <function function",
    ),
    "method_unbound": (
        lambda: make_functional(NnxMLP.encode),
        ValueError,
        r"got <function NnxMLP.encode",
    ),
    "function_with_method": (
        lambda: make_functional(function, FUNCTION_PARAMS, method="encode"),
        ValueError,
        r"`method` selects a module's method",
    ),
    "number": (lambda: make_functional(3.0), TypeError, r"got 3\.0"),
    "other_params": (
        lambda: make_functional(NnxMLP())[0]({"head": {"bias": X}}, X),
        ValueError,
        r"`params` must be a tree.*Missing: .*\['encoder'\]\['bias'\]",
    ),
    "nnx_state": (
        lambda: make_functional(NnxMLP())[0](nnx.state(NnxMLP(), nnx.Param), X),
        ValueError,
        r"pass `nnx\.to_pure_dict\(state\)`",
    ),
    "nnx_makes_variables": (
        lambda: make_functional(NnxLazy())[0](*make_functional(NnxLazy())[1:], X),
        ValueError,
        r"A call must keep the variables.*Unknown: .*mean",
    ),
    "linen_sows_into_state": (
        lambda: (lambda row: Case(row).call(*Case(row).arguments()))(
            linen_row(LinenLosses())
        ),
        ValueError,
        r"sow into intermediates only.*Unknown: .*losses",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_a_wrong_call_says_what_to_do(call, error, message):
    with pytest.raises(error, match=message):
        call()
