"""Differentiate a loop by reverse mode through its steps."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp

from jmeta._core import validate
from jmeta._core.remat import STORE_MARKED
from jmeta._core.typing import PyTree
from jmeta._jaxpr.notes import with_note
from jmeta.adjoint import _active
from jmeta.adjoint._base import Gradient, Loop, Objective, Outcome, Step, scan
from jmeta.adjoint._gradient import (
    first_order_gradient,
    mixed_gradient,
    refusing_line_search,
    reverse_gradient,
)

_ORDER = "1 is first order, 2 exact."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unroll:
    """Reverse mode through the unrolled loop: exact, for any number of inputs.

    This is backpropagation through training, as `higher` does it, with far less memory:
    a step is recomputed when the derivative comes back through it. The default stores
    the carry (parameters and optimizer state) and the inner gradient of every step.
    `checkpoint="nested"` stores about `2 * sqrt(steps)` of them, for one more forward
    pass. `mixed=False` with `checkpoint=None` is what JAX does by itself.

    Args:
        mixed: Whether to transpose the inner gradient by a forward-over-reverse
            Hessian-vector product. Reverse mode of any order goes through this, and
            forward mode of a reverse one: `jax.hessian`, `jax.jvp` of `jax.grad`.
            Forward mode of the loop itself (`jax.jvp`, `jax.jacfwd`, `jax.grad` of
            `jax.jvp`, what `jax.linearize` returns) cannot; use `ForwardMode` or
            `mixed=False` for it.
            Under `jax.jit` it is JAX's own TypeError that says so, when it compiles.
            It needs true derivatives. A loss with a rule that neither JAX nor jmeta
            defines (`jax.custom_jvp`, `jax.custom_vjp`, an approximate solve) is
            transposed by reverse over reverse all the same; `plan` and `explain` say so
            and name the rule.
        checkpoint: What is stored: None everything, `"step"` the carry (with `mixed`
            the inner gradient too), `"nested"` the carry at the borders of
            `sqrt(steps)` blocks.
        last: Number of steps at the end that carry a derivative, None for all; steps
            that `active` leaves out count too. The derivative with respect to the
            initial parameters is 0 when `last < steps`.
        order: 2, or 1 for a first-order method (FOMAML), where the inner gradient is a
            constant. With 1, differentiating a value that acts only through the inner
            gradient, such as one that the loss captures, raises.
        unroll: Steps in one iteration of the compiled loop, as for `jax.lax.scan`.

    Raises:
        TypeError: A setting of another type, or forward mode through `mixed`.
        ValueError: A setting outside the values above.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> def meta_loss(lr, adjoint):
        ...     tx = jmeta.optim.sgd(lr=lr)
        ...     square = lambda w: w**2
        ...     return jmeta.inner_loop(square, 1.0, tx, 2, adjoint=adjoint).params
        >>> [float(jax.grad(meta_loss)(0.25, Unroll(last=n))) for n in (None, 1, 0)]
        [-2.0, -1.0, 0.0]

    References:
        Kemaev et al. (2025), Scalable meta-learning via mixed-mode differentiation,
        arXiv:2505.00793, for `mixed`. Chen et al. (2016), Training deep nets with
        sublinear memory cost, arXiv:1604.06174, for `checkpoint`. Finn et al. (2017),
        Model-agnostic meta-learning, arXiv:1703.03400, for `order=1`.
    """

    mixed: bool = True
    checkpoint: Literal["step", "nested"] | None = "step"
    last: int | None = None
    order: Literal[1, 2] = 2
    unroll: int = 1

    def __post_init__(self):
        validate.flag("mixed", self.mixed)
        validate.one_of("checkpoint", self.checkpoint, (None, "step", "nested"))
        if self.last is not None:
            validate.count("last", self.last, use="None is every step.")
        validate.count("order", self.order, minimum=1, use=_ORDER)
        validate.one_of("order", self.order, (1, 2))
        validate.count("unroll", self.unroll, minimum=1)
        for name in ("last", "order", "unroll"):  # JAX asks for Python's own
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, int(value))

    def __call__(self, loop: Loop) -> Outcome:
        """Run the loop so that reverse mode goes back through its steps."""
        try:
            return self._run(loop)
        except (TypeError, NotImplementedError) as error:
            # these words are in JAX's messages about forward mode of a `custom_vjp`
            words = "custom_vjp", "custom_lin"
            mixed = self.mixed and self.order == 2
            if not (mixed and any(word in str(error) for word in words)):
                raise
            raise TypeError(
                "`mixed=True` has no forward mode: neither `jax.jvp`, `jax.jacfwd` nor"
                f" `jax.linearize` goes through it; got JAX's `{error}`. Use"
                " `ForwardMode()` or `Unroll(mixed=False)`; for second derivatives take"
                " `jax.hessian`, or forward mode of `jax.grad`."
            ) from error

    def _run(self, loop: Loop) -> Outcome:
        cut = 0 if self.last is None else max(loop.steps - self.last, 0)
        if not cut:
            gradient = self._gradient(loop.objective, loop.perturbations)
            gradient = refusing_line_search(gradient, loop.carry.opt_state)
            scan = functools.partial(self._scan, steps=loop.steps)
            return Outcome(*_active.run_active_steps(loop, gradient, scan))
        early = jax.tree.map(lambda x: x[:cut], loop.xs)
        late = jax.tree.map(lambda x: x[cut:], loop.xs)
        early_loop = loop._replace(xs=early, steps=cut)
        carry, early_ys = self._without_derivative(early_loop)
        if cut == loop.steps:
            return Outcome(carry, early_ys)
        rest = loop._replace(carry=carry, xs=late, steps=loop.steps - cut)
        carry, late_ys = dataclasses.replace(self, last=None)._run(rest)[:2]
        ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), early_ys, late_ys)
        return Outcome(carry, ys)

    def _gradient(self, objective: Objective, perturbations: PyTree) -> Gradient:
        if self.order == 1:
            return first_order_gradient(objective, perturbations)
        if not self.mixed:
            return reverse_gradient(objective)
        # Forward over reverse takes the Jacobian of the gradient to be symmetric, which
        # it is if every rule in the loss is the true derivative. Which one is not,
        # `jmeta._jaxpr.rule_origin` decides, and `foreign_rules` names it.
        if objective.foreign_rules:
            rules = ", ".join(objective.foreign_rules)
            note = f"reverse over reverse, because of the derivative rule of {rules}"
            return with_note(reverse_gradient(objective), note)
        return mixed_gradient(objective, rolled=self.unroll == 1)

    def _without_derivative(self, loop):
        """Run steps that carry no derivative, whatever they capture."""

        def scan(step, carry, xs):
            def cut_step(carry, x):
                carry, y = step(carry, x)
                return loop.without_derivative(carry), jax.lax.stop_gradient(y)

            return jax.lax.scan(cut_step, carry, xs, length=loop.steps)

        start = loop._replace(carry=loop.without_derivative(loop.carry))
        return _active.run_active_steps(start, reverse_gradient(loop.objective), scan)

    def _scan(self, step: Step, carry, xs, steps: int):
        if self.checkpoint is None:
            return scan(step, carry, xs, steps, self.unroll)
        # The mixed gradient marks itself to be stored, so that only the optimizer's
        # arithmetic is recomputed; of the plain one nothing is marked.
        step = jax.checkpoint(
            step, policy=STORE_MARKED, prevent_cse=self._prevent_cse(steps)
        )
        if self.checkpoint == "step" or steps < 4:
            return scan(step, carry, xs, steps, self.unroll)
        return self._nested(step, carry, xs, steps)

    def _nested(self, step: Step, carry, xs, steps: int):
        """Scan blocks of about sqrt(steps) steps, each of which is recomputed."""
        inner = math.isqrt(steps)
        outer = steps // inner
        odd = steps - outer * inner
        head = jax.tree.map(lambda x: x[:odd], xs)
        blocks = jax.tree.map(lambda x: x[odd:].reshape(outer, inner, *x.shape[1:]), xs)

        @functools.partial(jax.checkpoint, prevent_cse=False)
        def block(carry, xs):
            return scan(step, carry, xs, inner, self.unroll)

        head_ys = None
        if odd:
            carry, head_ys = scan(step, carry, head, odd, self.unroll)
        carry, ys = jax.lax.scan(block, carry, blocks, length=outer)
        merge = lambda y: y.reshape(outer * inner, *y.shape[2:])
        ys = jax.tree.map(merge, ys)
        if odd:
            ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head_ys, ys)
        return carry, ys

    def _prevent_cse(self, steps: int) -> bool:
        # the body of a compiled loop cannot be merged with its own recomputation
        return steps == 1 or self.unroll > 1
