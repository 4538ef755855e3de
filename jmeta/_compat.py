"""Differences between versions of JAX, each with the versions that it is for.

The oldest that is supported stands in `pyproject.toml`: when it passes the version that
an entry names, the entry goes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

SCAN_FORGETS_RULES = jax.__version_info__ < (0, 12)
"""Whether a scan that is differentiated twice loses the rules of `jax.custom_jvp`.

True before JAX 0.12. When that is the oldest supported, remove it together with
`jmeta._jaxpr.remembered` and its uses in `_loop/objective.py` and `_loop/step.py`, the
primitive `remembered_call` in `_jaxpr/`, and the row of the README that warns of it.
"""

INLINED_CALLS = frozenset({"closed_call", "eval_jaxpr"})
"""Names of calls that JAX compiles inline; `eval_jaxpr` exists from JAX 0.12 on."""


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Count the constants and the carried values of a scan.

    From JAX 0.11 on the parameters hold no counts but a tree of the inputs.

    Args:
        params: The parameters of a `scan` equation.

    Returns:
        The number of constants and the number of carried values.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def scan_options(params: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the options that `jax.lax.scan` was called with.

    `_split_transpose` exists before JAX 0.11 only.

    Args:
        params: The parameters of a `scan` equation.

    Returns:
        Keyword arguments for a new call of `jax.lax.scan`.
    """
    names = "length", "reverse", "unroll", "_split_transpose"
    return {name: params[name] for name in names if name in params}


def split_constants(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """Split a jaxpr into one without constants and the constants.

    From JAX 0.11 on one class stands for jaxprs with and without constants.

    Args:
        jaxpr: A jaxpr, with constants or without.

    Returns:
        The jaxpr without constants, and its constants (none if it had none).
    """
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def bind(primitive: jex.Primitive, params: Mapping[str, Any], *args: Any) -> Any:
    """Apply a primitive with the parameters that it has in an equation.

    Before JAX 0.11 `get_bind_params` returns functions beside the parameters; from
    0.11 on they are among the parameters.

    Args:
        primitive: The primitive to apply.
        params: The parameters of its equation.
        *args: The operands, arrays.

    Returns:
        What the primitive gives: an array, or a list of arrays.
    """
    bound = primitive.get_bind_params(dict(params))
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    return primitive.bind(*functions, *args, **params)


def varying_axes_of(aval: Any) -> frozenset[Any]:
    """Return the manual axes of a `jax.shard_map` that an array differs over.

    Before JAX 0.11 the abstract value holds them in its attribute `vma`.

    Args:
        aval: The array's abstract value.

    Returns:
        Names of axes; none outside `jax.shard_map`.
    """
    if hasattr(aval, "manual_axis_type"):
        return frozenset(aval.manual_axis_type.varying)
    return frozenset(getattr(aval, "vma", ()))
