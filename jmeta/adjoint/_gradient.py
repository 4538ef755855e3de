"""Ways to compute the inner gradient that differ in how it is differentiated."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jmeta._core.derivative_rules import true_derivative
from jmeta._core.remat import mark_to_store, prevent_cpu_fusion
from jmeta._core.tree import is_inexact
from jmeta._core.typing import PyTree
from jmeta.adjoint._base import Gradient, Objective
from jmeta.adjoint._symbolic import differentiated


def reverse_gradient(objective: Objective) -> Gradient:
    """Make the inner gradient that reverse over reverse transposes, as JAX does.

    Args:
        objective: The inner objective.
    """

    def gradient(params: PyTree, inputs: PyTree):
        return _value_and_grad(objective, (params, objective.captured, inputs))

    return gradient


def mixed_gradient(objective: Objective, *, rolled: bool = True) -> Gradient:
    """Make the inner gradient that forward over reverse transposes.

    Reverse mode through a gradient needs products of its transposed Jacobian with a
    cotangent `v`. The Jacobian with respect to the parameters is a Hessian, so it is
    symmetric, and the product is the derivative of the joint gradient with respect to
    parameters and inputs in the direction `(v, 0)`: one `jvp`, which stores nothing of
    the graph of the gradient.

    Args:
        objective: The inner objective.
        rolled: Whether the step is compiled by itself. Steps that are compiled together
            run faster when XLA fuses them with one another.

    References:
        Kemaev et al. (2025), Scalable meta-learning via mixed-mode differentiation,
        arXiv:2505.00793.
    """

    def plain(params, captured, inputs):
        value, grads = _value_and_grad(objective, (params, captured, inputs))
        return value, mark_to_store(grads)

    def forward(*args):
        return plain(*args), args

    @true_derivative
    def backward(args, cotangents):
        params, *rest = args
        (loss_bar, extra_bar), v = cotangents
        # cheap to compute (slices, the optimizer's arithmetic) and used many times
        if rolled:
            params, v = prevent_cpu_fusion((params, v))
        leaves, treedef = jax.tree.flatten(rest)
        floats = [x for x in leaves if is_inexact(x)]

        def outputs(params, floats):
            it = iter(floats)
            full = [next(it) if is_inexact(x) else x for x in leaves]
            captured, inputs = treedef.unflatten(full)
            loss, extra = objective.pure(captured, params, inputs)
            return loss, [x for x in jax.tree.leaves(extra) if is_inexact(x)]

        def joint_gradient(params, c):
            return jax.vjp(outputs, params, floats)[1](c)

        # linear in c: its directional derivative adds the cotangents of loss and extra
        extra_bar = [x for x in jax.tree.leaves(extra_bar) if _is_cotangent(x)]
        at = (jnp.ones_like(loss_bar), [jnp.zeros_like(x) for x in extra_bar])
        _, (params_bar, floats_bar) = jax.jvp(
            joint_gradient, (params, at), (v, (loss_bar, extra_bar))
        )
        it = iter(floats_bar)
        rest_bar = [next(it) if is_inexact(x) else None for x in leaves]
        return params_bar, *treedef.unflatten(rest_bar)

    # the rule calls `plain`, so that derivatives of any order go through it
    rule = jax.custom_vjp(plain)
    rule.defvjp(forward, backward)
    return lambda params, inputs: rule(params, objective.captured, inputs)


def first_order_gradient(objective: Objective, perturbations: PyTree) -> Gradient:
    """Make the inner gradient as a constant, for first-order methods.

    It raises when a value that acts through the gradient alone is differentiated.

    Args:
        objective: The inner objective.
        perturbations: What is added to the parameters at each time, or None.
    """

    def gradient(params: PyTree, inputs: PyTree):
        captured = objective.captured
        value, grads = _value_and_grad(objective, (params, captured, inputs))
        frozen = {id(x) for x in objective.frozen}
        acting = [x for x in captured if id(x) not in frozen], inputs, perturbations
        return value, jax.lax.stop_gradient(_refuse(acting, grads))

    return gradient


def refusing_line_search(gradient: Gradient, opt_state: PyTree) -> Gradient:
    """Make the gradient raise when optax's line search is differentiated.

    That search is a `while` loop, which reverse mode cannot go through. The message of
    JAX names neither the transform nor a way out.

    Args:
        gradient: Computes the inner gradient.
        opt_state: The optimizer's state, which shows whether there is such a search.

    Returns:
        The gradient, unchanged without such a search.
    """
    is_search = lambda x: isinstance(x, optax.ScaleByZoomLinesearchState)
    if not any(map(is_search, jax.tree.leaves(opt_state, is_leaf=is_search))):
        return gradient

    def refusing(params: PyTree, inputs: PyTree):
        value, grads = gradient(params, inputs)
        return value, _refuse_search(params, grads)

    return refusing


@jax.custom_jvp
def _refuse_search(params: PyTree, grads: PyTree) -> PyTree:
    """Pass `grads` on; raise when the parameters or they are being differentiated."""
    del params
    return grads


@true_derivative
def _refuse_search_jvp(primals, tangents):
    if differentiated(tangents):
        raise ValueError(
            "`tx` has optax's line search, a loop that ends by itself, which reverse"
            " mode cannot go through. Use `jmeta.optim.lbfgs`, whose search can be"
            " differentiated, `optax.lbfgs(linesearch=None)`, or the adjoint"
            " `ForwardMode()`."
        )
    grads = primals[1]
    return grads, jax.tree.map(jnp.zeros_like, grads)


_refuse_search.defjvp(_refuse_search_jvp, symbolic_zeros=True)


def _value_and_grad(objective, args):
    def ordered(params, captured, inputs):
        return objective.pure(captured, params, inputs)

    return jax.value_and_grad(ordered, has_aux=True)(*args)


@jax.custom_jvp
def _refuse(acting: Any, grads: PyTree) -> PyTree:
    """Pass `grads` on; raise when something in `acting` is being differentiated."""
    del acting
    return grads


@true_derivative
def _refuse_jvp(primals, tangents):
    acting_dot, _ = tangents
    if differentiated(acting_dot):
        raise ValueError(
            "With `order=1` the inner gradient is a constant, so what acts through it"
            " alone has no derivative; but a value that the loss captures, the batch"
            " or a perturbation is being differentiated. Use `Unroll(order=2)`, or"
            " wrap that value in `jax.lax.stop_gradient` to leave it out."
        )
    grads = primals[1]
    return grads, jax.tree.map(jnp.zeros_like, grads)


_refuse.defjvp(_refuse_jvp, symbolic_zeros=True)


def _is_cotangent(x):
    return x.dtype != jax.dtypes.float0
