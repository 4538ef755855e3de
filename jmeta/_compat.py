"""What differs between versions of JAX, each with the version and when it can go."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

SCAN_FORGETS_RULES = jax.__version_info__ < (0, 12)
"""Whether a scan that is differentiated twice loses the rules of `jax.custom_jvp`.

Until 0.12; goes with `jmeta._jaxpr.remembered`.
"""

JITS = frozenset({"jit", "pjit"})
"""`jax.jit`, by primitive; `pjit` until 0.8."""

INLINED_CALLS = frozenset({"closed_call", "eval_jaxpr"})
"""Calls that are compiled as if they were written out; `eval_jaxpr` from 0.12 on."""

REMATS = frozenset({"checkpoint", "remat2"})
"""`jax.checkpoint`; both names are in use, by version and by how it was called."""


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many constants and carried values a scan has, from its parameters.

    From 0.11 on the inputs stand in a tree of constants, carry and slices.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def scan_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """What `jax.lax.scan` was told of a scan, from its parameters.

    `_split_transpose` until 0.10.
    """
    names = "length", "reverse", "unroll", "_split_transpose"
    return {name: params[name] for name in names if name in params}


def split_constants(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """A jaxpr without its constants, and these.

    From 0.11 on there is one class for jaxprs with constants and without.
    """
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def bind(primitive: jex.Primitive, params: Mapping[str, Any], *args: Any) -> Any:
    """Apply a primitive, with the parameters that it has in an equation.

    Until 0.10 JAX gives functions beside the parameters, later ones among them.
    """
    bound = primitive.get_bind_params(dict(params))
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    return primitive.bind(*functions, *args, **params)


def varying_axes_of(aval: Any) -> frozenset[Any]:
    """The manual axes of a `jax.shard_map` that an array of this kind differs over.

    Until 0.10 the attribute is `vma`.
    """
    if hasattr(aval, "manual_axis_type"):
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(getattr(aval, "vma", ()))
