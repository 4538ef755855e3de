"""Find where in a computation the first NaN or infinity arises."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from jmeta._compat import scan_counts
from jmeta._core.tree import is_inexact
from jmeta._jaxpr.interpret import AnyJaxpr, apply_equation, called_jaxpr, evaluate
from jmeta._jaxpr.primitives import source_line


class Origin(NamedTuple):
    """The operation that computed a bad number from good ones.

    Attributes:
        steps: Index of the step in each loop around the operation, outermost first.
        primitive: Name of the operation in a jaxpr.
        place: The user's line, such as `file.py:12 in function`; empty if unknown.
        equation: The operation's equation.
    """

    steps: tuple[int, ...]
    primitive: str
    place: str
    equation: jex.JaxprEqn


def find_origin(
    closed: jex.ClosedJaxpr, args: Sequence[Any], output: int
) -> Origin | None:
    """Run a jaxpr operation by operation and go back from a bad output to its origin.

    Only bad numbers that lead to the output count: a NaN that a `where` masks does not.
    Where the output is a NaN, infinities are fine, since masks and maxima use them. The
    steps of a loop are searched in the order in which they run.

    Args:
        closed: The jaxpr to run.
        args: Its inputs, flat.
        output: Index of the output that is not finite.

    Returns:
        The origin; None when the output is finite or an input was bad already.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> step = lambda x, _: (jnp.sqrt(x) - 0.5, None)
        >>> loop = lambda x: jax.lax.scan(step, x, None, 5)[0]
        >>> find_origin(jax.make_jaxpr(loop)(0.3), [jnp.array(0.3)], 0)[:2]
        ((2,), 'sqrt')
    """
    for is_bad in (_has_nan, _has_infinity):
        value = _run(closed, args)[output]
        if is_bad(value.array):
            return _search(value, is_bad)
    return None


class _Value(NamedTuple):
    """An array with its history.

    Attributes:
        array: The array itself.
        maker: The equation that computed it; None for an input or a constant.
        output: Which of the equation's outputs it is.
        inputs: The equation's inputs with their own histories.
    """

    array: Any
    maker: jex.JaxprEqn | None = None
    output: int = 0
    inputs: Sequence["_Value"] = ()


def _run(jaxpr: AnyJaxpr, args: Sequence[Any]) -> list[_Value]:
    def visit(eqn, inputs):
        outputs = apply_equation(eqn, [value.array for value in inputs])
        return [_Value(x, eqn, k, inputs) for k, x in enumerate(outputs)]

    return evaluate(jaxpr, visit, [*map(_Value, args)], _Value)


def _has_nan(x: Any) -> bool:
    return is_inexact(x) and bool(jnp.isnan(x).any())


def _has_infinity(x: Any) -> bool:
    return is_inexact(x) and bool(jnp.isinf(x).any())


def _search(value: _Value, is_bad: Callable[[Any], bool]) -> Origin | None:
    while (eqn := value.maker) is not None:
        bad = [before for before in value.inputs if is_bad(before.array)]
        if not bad:
            inputs = [before.array for before in value.inputs]
            return _inside(eqn, inputs, value.output, is_bad) or Origin(
                (), eqn.primitive.name, source_line(eqn), eqn
            )
        value = bad[0]
    return None


def _inside(eqn, inputs, output, is_bad) -> Origin | None:
    """Search in the jaxpr that an equation runs, if it runs one."""
    if eqn.primitive.name == "scan":
        return _in_scan(eqn, inputs, output, is_bad)
    inner = called_jaxpr(eqn)
    if eqn.primitive.name == "cond":
        inner, inputs = eqn.params["branches"][int(inputs[0])], inputs[1:]
    if inner is None:
        return None
    return _in_jaxpr(inner, inputs, output, is_bad)


def _in_jaxpr(jaxpr, inputs, output, is_bad):
    return _search(_run(jaxpr, inputs)[output], is_bad)


def _in_scan(eqn, inputs, output, is_bad):
    body = eqn.params["jaxpr"]
    num_consts, num_carry = scan_counts(eqn.params)
    consts = inputs[:num_consts]
    carry = inputs[num_consts : num_consts + num_carry]
    xs = inputs[num_consts + num_carry :]
    # compiled, since all steps but one are only run to find that one
    run_body = jax.jit(jex.jaxpr_as_fun(body))
    order = range(eqn.params["length"])
    for i in reversed(order) if eqn.params["reverse"] else order:
        step_inputs = [*consts, *carry, *(x[i] for x in xs)]
        outs = run_body(*step_inputs)
        bad = [k for k in {*range(num_carry), output} if is_bad(outs[k])]
        if bad:
            inner = _in_jaxpr(body, step_inputs, bad[0], is_bad)
            if inner is None:
                return Origin((i,), eqn.primitive.name, source_line(eqn), eqn)
            return inner._replace(steps=(i, *inner.steps))
        carry = outs[:num_carry]
    return None
