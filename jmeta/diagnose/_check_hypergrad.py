"""Check a hypergradient by computing it in three ways."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._core.tree import is_float, widest
from jmeta._jaxpr.notes import in_update
from jmeta._jaxpr.origin import Origin, find_origin
from jmeta.adjoint import Adjoint, Unroll
from jmeta.diagnose._differences import directional_derivative
from jmeta.diagnose._explain import explain
from jmeta.diagnose._meta_loss import NotAScalar, check_make, checked_meta_loss
from jmeta.diagnose._verdict import Derivatives, LeafCheck, Verdict, judge

PLAIN_UNROLL = Unroll(mixed=False, checkpoint=None)
"""The loop as JAX differentiates it by itself, in forward mode too."""

DIRECTIONS_PER_LEAF = 2
"""Random directions along which a leaf is checked; one where it is a scalar."""


class HypergradCheck(NamedTuple):
    """A verdict for each floating-point leaf; printing it gives a line for each.

    Attributes:
        leaves: The floating-point leaves of the arguments, in order.
    """

    leaves: tuple[LeafCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every leaf has the verdict ok."""
        return all(leaf.verdict is Verdict.OK for leaf in self.leaves)

    def __str__(self) -> str:
        return "\n".join(map(str, self.leaves))


def check_hypergrad(
    make: Callable[[Any], Callable[..., jax.Array]],
    *args: Any,
    adjoint: Adjoint = Unroll(),  # noqa: B008 (frozen, without state)
) -> HypergradCheck:
    """Compare reverse mode, forward mode and central differences of a meta-loss.

    Takes the derivative with respect to every floating-point leaf of the arguments
    along random directions. A path that was cut off by mistake is missing from both
    modes of differentiation, but not from the differences. Many step sizes are tried
    for these, and the one at which they settle is used. The verdicts:

        ok                 all agree
        noisy              the differences are too rough to tell, but contradict nothing
        mismatch           they do not agree
        structurally zero  the leaf cannot reach the loss
        not finite         a NaN or an infinity, with the inner step that it came from

    In float32 the differences are good to two digits. With `jax_enable_x64` set the
    arguments are made float64, and the differences are good to six.

    Args:
        make: `adjoint -> meta_loss`, the scalar function itself and not its gradient;
            it hands `adjoint` on to `inner_loop`. `plan` takes the same function.
        *args: Pytrees of arrays with which the meta-loss is called.
        adjoint: The adjoint that reverse mode uses and that is checked. Forward mode
            and the differences use the plain unrolled loop.

    Returns:
        A row for each floating-point leaf; `.ok` says whether all of them are right.

    Raises:
        TypeError: An argument of the wrong kind, or `make(adjoint)` is no function.
        ValueError: The meta-loss gives no floating-point scalar, or no argument is a
            float.

    Example:
        >>> import jax, jmeta
        >>> def make(adjoint):
        ...     def meta_loss(lr, idle):
        ...         tx, square = jmeta.optim.sgd(lr=lr), lambda w: w**2
        ...         return jmeta.inner_loop(square, 1.0, tx, 3, adjoint=adjoint).params
        ...
        ...     return meta_loss
        >>> [
        ...     leaf.verdict.value
        ...     for leaf in jmeta.check_hypergrad(make, 0.3, 1.0).leaves
        ... ]
        ['ok', 'structurally zero']

    Note:
        The hypergradient of each step shows which steps matter: pass `lr` as an array
        of shape `[steps]` in `hyperparams`, or zeros as `perturbations`, differentiate
        by it, and draw the gradient with `jmeta.plot.hypergradients`.
    """
    check_make(make)
    validate.adjoint("adjoint", adjoint)
    if args:
        validate.arrays("args", args)
    leaves, treedef = jax.tree.flatten(args)
    moving = [i for i, leaf in enumerate(leaves) if is_float(leaf)]
    if not moving:
        raise ValueError(
            "There must be a floating-point argument in `args` to differentiate by; got"
            f" leaves of dtypes {[str(jnp.result_type(leaf)) for leaf in leaves]}."
        )
    floats = [_in_widest_float(leaves[i]) for i in moving]

    def loss_of(adjoint):
        meta_loss = checked_meta_loss(make(adjoint), *args)

        def loss(floats):
            full = list(leaves)
            for i, x in zip(moving, floats, strict=True):
                full[i] = x
            return meta_loss(*treedef.unflatten(full))

        return loss

    functions = _Functions.compiled(loss_of(adjoint), loss_of(PLAIN_UNROLL))
    names = [f"args{keystr(path)}" for path, _ in tree_leaves_with_path(args)]
    try:
        routes = explain(functions.plain, floats).inputs
    except NotAScalar as error:
        raise ValueError(str(error)) from None
    value, grads = functions.value_and_grad(floats)
    # A loss that is not finite spoils every leaf's derivative, from the same origin.
    loss_origin = None
    if not np.isfinite(value):
        loss_origin = find_origin(jax.make_jaxpr(functions.plain)(floats), floats, 0)
    generator = np.random.default_rng(0)
    rows = []
    for k, i in enumerate(moving):
        count = max(1, min(DIRECTIONS_PER_LEAF, floats[k].size))
        directions = [_unit_direction(generator, floats[k]) for _ in range(count)]
        found = [
            _derivatives(functions, floats, k, direction, grads[k], value)
            for direction in directions
        ]
        worst = max(found, key=Derivatives.disagreement)
        if np.isfinite([float(value), *worst.by_mode().values()]).all():
            row = worst.leaf_check(names[i], *judge(worst, routes[k]))
        else:
            origin = loss_origin or _derivative_origin(functions, floats, k, worst)
            reason, step = _describe_origin(origin)
            row = worst.leaf_check(names[i], Verdict.NOT_FINITE, reason, step)
        rows.append(row)
    return HypergradCheck(tuple(rows))


class _Functions(NamedTuple):
    """The meta-loss as a function of the floating-point leaves, and its derivatives.

    Attributes:
        plain: The loss through the plain unrolled loop, not compiled.
        value: The loss through the plain unrolled loop, compiled.
        value_and_grad: Loss and gradient by the adjoint that is checked, compiled.
        forward: The plain loss's derivative along a direction, compiled.
    """

    plain: Callable[[Any], Any]
    value: Callable[[Any], Any]
    value_and_grad: Callable[[Any], Any]
    forward: Callable[[Any, Any], Any]

    @classmethod
    def compiled(cls, loss, plain):
        def forward(floats, direction):
            return jax.jvp(plain, (floats,), (direction,))[1]

        value_and_grad = jax.jit(jax.value_and_grad(loss))
        return cls(plain, jax.jit(plain), value_and_grad, jax.jit(forward))


def _derivatives(functions, floats, k, direction, grad, value) -> Derivatives:
    """The derivatives of the loss along a direction of leaf k."""
    tangent = [jnp.zeros_like(x) for x in floats]
    tangent[k] = direction
    try:
        forward = float(functions.forward(floats, tangent))
    except TypeError as error:
        # JAX refuses forward mode through a `custom_vjp`: one in the loss itself, or
        # that of a loop whose adjoint `make` has fixed.
        if "custom_vjp" not in str(error):
            raise
        forward = None

    def at(distance):
        moved = list(floats)
        moved[k] = floats[k] + jnp.asarray(distance, floats[k].dtype) * direction
        return functions.value(moved)

    size = float(jnp.linalg.norm(floats[k]))
    precision = float(jnp.finfo(jnp.result_type(value)).eps)
    return Derivatives(
        reverse=float(jnp.vdot(grad, direction)),
        forward=forward,
        difference=directional_derivative(at, size or 1.0, abs(value) * precision),
        scale=float(jnp.linalg.norm(grad)),
        direction=tangent,
    )


def _derivative_origin(functions, floats, k, found) -> Origin | None:
    """Where the derivative by leaf k stops being finite, None where it is not found."""
    # Forward mode goes through the steps in the order of training, so the first step
    # that it finds is the one where training went wrong.
    if found.forward is not None and not np.isfinite(found.forward):
        closed = jax.make_jaxpr(functions.forward)(floats, found.direction)
        return find_origin(closed, [*floats, *found.direction], 0)
    closed = jax.make_jaxpr(jax.grad(functions.plain))(floats)
    return find_origin(closed, floats, k)


def _describe_origin(origin: Origin | None) -> tuple[str, int | None]:
    """The cause in words, and the inner step where it arose."""
    if origin is None:
        return "its origin was not found", None
    step = origin.steps[0] if origin.steps else None
    when = "outside the loop" if step is None else f"at inner step {step}"
    cause = f"from `{origin.primitive}` {when} ({origin.place})"
    if in_update(origin.equation):
        cause += ", in the transform's update: wrap it in `jmeta.optim.finite`"
    return cause, step


def _unit_direction(generator, like):
    """A random direction of norm 1; for a scalar the positive one."""
    if like.size == 1:
        return jnp.ones_like(like)
    direction = generator.normal(size=like.shape)
    return jnp.asarray(direction / np.linalg.norm(direction), like.dtype)


def _in_widest_float(leaf):
    """The leaf in float64 where that is enabled, else in float32."""
    return jnp.asarray(leaf, widest(leaf, float))
