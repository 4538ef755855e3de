"""Whether a hypergradient is right, from three ways to compute it."""

import enum
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
from jmeta.diagnose._differences import Estimate, directional_derivative
from jmeta.diagnose._explain import Cut, explain
from jmeta.diagnose._meta_loss import NotAScalar, check_make, checked

PLAIN = Unroll(mixed=False, checkpoint=None)
"""What JAX does by itself, through which every mode of differentiation goes."""

DIRECTIONS = 2


class Verdict(enum.Enum):
    """What `check_hypergrad` finds of a leaf."""

    OK = "ok"
    NOISY = "noisy"
    MISMATCH = "mismatch"
    STRUCTURALLY_ZERO = "structurally zero"
    NOT_FINITE = "not finite"


class LeafCheck(NamedTuple):
    """The derivative along one direction in a leaf, where the ways differ most.

    Attributes:
        name: The leaf's path in the arguments, such as `args[0]['lr']`.
        verdict: What it amounts to.
        reverse: Derivative by the adjoint that is checked.
        forward: Derivative by forward mode; None where the loss does not allow it.
        difference: Derivative by central differences.
        error: Estimated error of the difference.
        step: The first inner step at which it stopped being finite, else None; a
            training of a single step is compiled without a loop and has None too.
        reason: What is known of the cause; empty when ok.
    """

    name: str
    verdict: Verdict
    reverse: float
    forward: float | None
    difference: float
    error: float
    step: int | None
    reason: str

    def __str__(self) -> str:
        forward = "-" if self.forward is None else f"{self.forward:.6g}"
        line = (
            f"{self.name}: {self.verdict.value}; reverse {self.reverse:.6g}, forward"
            f" {forward}, differences {self.difference:.6g} +- {self.error:.1g}"
        )
        return f"{line}; {self.reason}" if self.reason else line


class HypergradCheck(NamedTuple):
    """A verdict for each leaf; print it for a line each.

    Attributes:
        leaves: The floating-point leaves of the arguments, in order.
    """

    leaves: tuple[LeafCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every leaf is."""
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
    along random directions. The two modes of differentiation share what was cut off by
    mistake, the differences do not; their step goes through sizes until they settle.
    The verdicts:

        ok                 all agree
        noisy              the differences are too rough to tell, but contradict nothing
        mismatch           they do not agree
        structurally zero  the leaf cannot reach the loss
        not finite         a NaN or an infinity, with the inner step that it came from

    In float32 differences are good to two digits: with `jax_enable_x64` set the
    arguments are made float64, and to six.

    Args:
        make: `adjoint -> meta_loss`, the scalar function itself and not its gradient;
            it hands `adjoint` on to `inner_loop`. `plan` takes the same.
        *args: What the meta-loss is called with.
        adjoint: The one that is checked. Forward mode takes the plain unrolled loop.

    Returns:
        A row for each floating-point leaf, and whether all are `.ok`.

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
        The hypergradient of each step shows where training stands or falls: pass `lr`
        as an array of shape `[steps]` in `hyperparams`, or zeros as `perturbations`,
        differentiate by it, and draw it with `jmeta.plot.hypergradients`.
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
    floats = [_widest(leaves[i]) for i in moving]

    def loss_of(adjoint):
        meta_loss = checked(make(adjoint), *args)

        def loss(floats):
            full = list(leaves)
            for i, x in zip(moving, floats, strict=True):
                full[i] = x
            return meta_loss(*treedef.unflatten(full))

        return loss

    functions = _Functions.of(loss_of(adjoint), loss_of(PLAIN))
    names = [f"args{keystr(path)}" for path, _ in tree_leaves_with_path(args)]
    try:
        routes = explain(functions.plain, floats).inputs
    except NotAScalar as error:
        raise ValueError(str(error)) from None
    value, grads = functions.value_and_grad(floats)
    if not np.isfinite(value):
        origin = find_origin(jax.make_jaxpr(functions.plain)(floats), floats, 0)
    else:
        origin = None
    generator = np.random.default_rng(0)
    rows = []
    for k, i in enumerate(moving):
        along = [_direction(generator, floats[k]) for _ in range(DIRECTIONS)]
        along = along[: max(1, min(DIRECTIONS, floats[k].size))]
        found = [_derivatives(functions, floats, k, d, grads[k], value) for d in along]
        worst = max(found, key=_Derivatives.disagreement)
        if not worst.finite(value):
            origin_k = origin or _origin(functions, floats, k, worst)
            rows.append(worst.row(names[i], Verdict.NOT_FINITE, _where(origin_k)))
        else:
            rows.append(worst.row(names[i], *_judge(worst, routes[k])))
    return HypergradCheck(tuple(rows))


class _Functions(NamedTuple):
    """The meta-loss of the floating-point leaves, and its derivatives, compiled."""

    plain: Callable[[Any], Any]
    value: Callable[[Any], Any]
    value_and_grad: Callable[[Any], Any]
    forward: Callable[[Any, Any], Any]

    @classmethod
    def of(cls, loss, plain):
        def forward(floats, direction):
            return jax.jvp(plain, (floats,), (direction,))[1]

        value_and_grad = jax.jit(jax.value_and_grad(loss))
        return cls(plain, jax.jit(plain), value_and_grad, jax.jit(forward))


class _Derivatives(NamedTuple):
    """Three derivatives along one direction of a leaf."""

    reverse: float
    forward: float | None
    difference: Estimate
    scale: float
    direction: list[jax.Array]

    def disagreement(self) -> float:
        others = [self.difference.value]
        others += [] if self.forward is None else [self.forward]
        gaps = [abs(self.reverse - other) for other in others]
        return float("inf") if np.isnan(gaps).any() else max(gaps)

    def finite(self, value) -> bool:
        numbers = [float(value), self.reverse]
        numbers += [] if self.forward is None else [self.forward]
        return bool(np.isfinite(numbers).all())

    def row(self, name, verdict, why) -> LeafCheck:
        reason, step = why
        return LeafCheck(
            name,
            verdict,
            self.reverse,
            self.forward,
            self.difference.value,
            self.difference.error,
            step,
            reason,
        )


def _derivatives(functions, floats, k, direction, grad, value) -> _Derivatives:
    tangent = [jnp.zeros_like(x) for x in floats]
    tangent[k] = direction
    try:
        forward = float(functions.forward(floats, tangent))
    except TypeError as error:
        # a custom_vjp in the loss itself, or a loop whose adjoint `make` has fixed
        if "custom_vjp" not in str(error):
            raise
        forward = None

    def at(distance):
        moved = list(floats)
        moved[k] = floats[k] + jnp.asarray(distance, floats[k].dtype) * direction
        return functions.value(moved)

    size = float(jnp.linalg.norm(floats[k]))
    precision = float(jnp.finfo(jnp.result_type(value)).eps)
    return _Derivatives(
        reverse=float(jnp.vdot(grad, direction)),
        forward=forward,
        difference=directional_derivative(at, size or 1.0, abs(value) * precision),
        scale=float(jnp.linalg.norm(grad)),
        direction=tangent,
    )


def _judge(found: _Derivatives, route) -> tuple[Verdict, tuple[str, None]]:
    """The verdict on finite derivatives, and what is known of the cause."""
    difference, error = found.difference
    rtol = 1e-6 if found.direction[0].dtype == jnp.float64 else 1e-2
    known = [found.reverse] if found.forward is None else [found.reverse, found.forward]
    scale = max(found.scale, *map(abs, known))
    cuts = "; ".join(map(_cut_text, route.cuts))
    allowed = rtol * max(scale, abs(difference))
    moves = np.isfinite(difference) and abs(difference) > 10 * error
    if not route.reaches and not (moves and abs(difference) > 0):
        return Verdict.STRUCTURALLY_ZERO, (cuts or "the loss does not use it", None)
    modes_agree = max(known) - min(known) <= rtol * scale
    gap = max(abs(number - difference) for number in known)
    if modes_agree and gap <= allowed:
        return Verdict.OK, ("", None)
    if modes_agree and not gap > max(allowed, 10 * error):
        return Verdict.NOISY, ("the differences do not settle", None)
    if not modes_agree:
        return Verdict.MISMATCH, (_whose_fault(found), None)
    reason = "part of the derivative is missing or added, as in a first-order gradient"
    return Verdict.MISMATCH, (f"{reason}; {cuts}" if cuts else reason, None)


def _whose_fault(found):
    difference = found.difference.value
    gaps = {"reverse": found.reverse, "forward": found.forward}
    wrong = max(gaps, key=lambda mode: abs(gaps[mode] - difference))
    return f"{wrong} mode differs: an approximate adjoint or a custom rule"


def _cut_text(cut: Cut) -> str:
    return f"cut by {cut}"


def _origin(functions, floats, k, found) -> Origin | None:
    """Where a derivative stops being finite; forward mode goes as training does."""
    if found.forward is not None and not np.isfinite(found.forward):
        closed = jax.make_jaxpr(functions.forward)(floats, found.direction)
        return find_origin(closed, [*floats, *found.direction], 0)
    closed = jax.make_jaxpr(jax.grad(functions.plain))(floats)
    return find_origin(closed, floats, k)


def _where(origin: Origin | None) -> tuple[str, int | None]:
    if origin is None:
        return "its origin was not found", None
    step = origin.steps[0] if origin.steps else None
    when = "outside the loop" if step is None else f"at inner step {step}"
    cause = f"from `{origin.primitive}` {when} ({origin.place})"
    if in_update(origin.equation):
        cause += ", in the transform's update: wrap it in `jmeta.optim.finite`"
    return cause, step


def _direction(generator, like):
    """A random unit direction; of a scalar, the positive one."""
    if like.size == 1:
        return jnp.ones_like(like)
    d = generator.normal(size=like.shape)
    return jnp.asarray(d / np.linalg.norm(d), like.dtype)


def _widest(leaf):
    # float64 where it is enabled, else float32
    return jnp.asarray(leaf, widest(leaf, float))
