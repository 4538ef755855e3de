"""Questions about JAX's equations that a transformation of jaxprs has to ask."""

from collections.abc import Mapping
from typing import Any

import jax.extend.core as jex


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many constants and carried values a scan has, from its parameters."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # since jax 0.11 the inputs stand in a tree of constants, carry and slices
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def has_foreign_rule(jaxpr: jex.Jaxpr) -> bool:
    """Whether a reverse-mode rule stands in a jaxpr that is not one of jmeta's own.

    Such a rule may give something else than the derivative (gradient reversal,
    clipping on the way back), which forward mode does not see. jmeta's own marks its
    gradient with `keep`.
    """
    for eqn in jaxpr.eqns:
        inner = [_open(sub) for sub in jex.jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "custom_vjp_call" and not any(
            sub.primitive.name == "name" for body in inner for sub in body.eqns
        ):
            return True
        if any(has_foreign_rule(body) for body in inner):
            return True
    return False


def _open(jaxpr):
    return jaxpr.jaxpr if isinstance(jaxpr, jex.ClosedJaxpr) else jaxpr
