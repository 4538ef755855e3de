"""L-BFGS."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jmeta._core import validate
from jmeta._core.settings import (
    PerLeaf,
    Setting,
    advance_hyperparams,
    check_settings,
    current_hyperparams,
    initial_hyperparams,
)
from jmeta._core.tree import widest
from jmeta._core.typing import PyTree
from jmeta.optim._finite.update_guard import mark_finite
from jmeta.optim._flat_lbfgs import LBFGSState, Limits, minimize


def lbfgs(
    lr: Setting = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS with torch's semantics, differentiable in `lr` and the parameters.

    One `update` is one `step(closure)` of torch. It runs up to `max_iter` iterations:

        y     <- change of the gradient in the last step
        s     <- last step; y and s are stored if y @ s > 1e-10
        d     <- -H @ grad, with the inverse Hessian H estimated from stored y and s
        t     <- lr; in the very first iteration min(1, 1 / sum(abs(grad))) * lr
        with a line search: t that satisfies the strong Wolfe conditions along d
        param <- param + t * d

    The iterations are a scan of fixed length. They do nothing once a stopping rule
    applies, so `update` can be compiled, batched with `vmap` and differentiated in
    both modes. `update` evaluates the loss at other parameters and must be given it:
    `update(grads, state, params, value_fn=loss)`. `inner_loop` passes it.

    Args:
        lr: Step length, or with a line search the first length that it tries; a
            number, a scalar array or a schedule `step -> value`, one value for all
            parameters. The other arguments cannot be overridden later.
        max_iter: Largest number of iterations in an update.
        max_eval: Number of evaluations of the loss in an update after which to stop.
            None is 5/4 of `max_iter`.
        tolerance_grad: Stop when no entry of the gradient is larger than this.
        tolerance_change: Stop when the slope along `d`, the step or the change of the
            loss is smaller than this.
        history_size: Number of steps stored.
        line_search_fn: `"strong_wolfe"`, or None for fixed steps.

    Returns:
        A transform whose `update` takes `value_fn`, from parameters to loss, and
        `value`, the loss at `params`, which is evaluated if it is not given.

    Raises:
        TypeError: A setting or a count is of the wrong kind.
        ValueError: A number lies outside its range, the line search is another one,
            or `update` is given no `value_fn`.

    Example:
        >>> import jax.numpy as jnp
        >>> loss = lambda x: jnp.sum((x - jnp.array([1.0, 2.0])) ** 2)
        >>> tx = lbfgs(max_iter=10, line_search_fn="strong_wolfe")
        >>> params = jnp.array([3.0, 8.0])
        >>> grads = jax.grad(loss)(params)
        >>> updates, state = tx.update(grads, tx.init(params), params, value_fn=loss)
        >>> (params + updates).round(3).tolist()
        [1.0, 2.0]

    Note:
        Derivatives are those of the steps taken. They hold constant which branch a line
        search took and when the iterations stopped. As in torch there are no groups.
        Gradients that a `grad_callback` changed are used in the first iteration only;
        the others take the gradient of `value_fn`.

        `optax.lbfgs` with its line search cannot be differentiated in reverse mode,
        since the search is a `while_loop`; this one can.

        The default tolerances stop while the gradient is still about 1e-5. To reach
        the `tol` of `jmeta.Implicit` set both to 0.

    References:
        Liu and Nocedal (1989), On the limited memory BFGS method for large scale
        optimization, Mathematical Programming 45. Schmidt (2005), minFunc.
    """
    settings = {"lr": lr}
    check_settings(settings, {}, lr=(0, math.inf))
    validate.count("max_iter", max_iter, minimum=1)
    max_eval = max_iter * 5 // 4 if max_eval is None else max_eval
    validate.count("max_eval", max_eval, minimum=1)
    validate.count("history_size", history_size, minimum=1)
    validate.number("tolerance_grad", tolerance_grad, low=0)
    validate.number("tolerance_change", tolerance_change, low=0)
    validate.one_of("line_search_fn", line_search_fn, ["strong_wolfe", None])
    limits = Limits(
        max_iter,
        max_eval,
        tolerance_grad,
        tolerance_change,
        line_search=line_search_fn is not None,
    )

    def init(params: PyTree) -> LBFGSState:
        x = _flatten(params)
        hyperparams = initial_hyperparams(settings)
        scalar = jnp.zeros((), x.dtype)
        history = jnp.zeros((history_size, x.size), x.dtype)
        return LBFGSState(
            **dict.fromkeys(("step", "func_evals", "n_iter"), jnp.zeros((), jnp.int32)),
            **dict.fromkeys(("d", "prev_flat_grad"), jnp.zeros_like(x)),
            **dict.fromkeys(("t", "prev_loss"), scalar),
            **dict.fromkeys(("old_dirs", "old_stps"), history),
            ro=jnp.zeros((history_size,), x.dtype),
            H_diag=scalar + 1,
            hyperparams=hyperparams,
        )

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        value_fn: Callable[[PyTree], jax.Array] | None = None,
        value: jax.Array | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, Any]:
        del extra_args
        if params is None or value_fn is None:
            raise ValueError(
                "`lbfgs` evaluates the loss at other parameters; call"
                " `update(grads, state, params, value_fn=loss)`."
            )
        start = _flatten(params)
        loss = jnp.asarray(value_fn(params) if value is None else value, start.dtype)
        flat_grad = _flatten(updates).astype(start.dtype)

        def evaluate(x):
            loss, grads = jax.value_and_grad(value_fn)(_unflatten(x, params))
            return loss.astype(x.dtype), _flatten(grads).astype(x.dtype)

        lr = current_hyperparams(state.hyperparams)["lr"]
        if isinstance(lr, PerLeaf):
            raise ValueError("`lr` of `lbfgs` must be one number; got a `PerLeaf`.")
        lr = lr.astype(start.dtype)
        end = minimize(evaluate, lr, state, (start, loss, flat_grad), limits)
        step = state.step + 1
        new_state = end.state._replace(
            step=step,
            hyperparams=advance_hyperparams(state.hyperparams, settings, step),
        )
        return _unflatten(end.x - start, params), new_state

    return mark_finite(optax.GradientTransformationExtraArgs(init, update))


def _flatten(tree: PyTree) -> jax.Array:
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = widest(*leaves, jnp.float32)
    return jnp.concatenate([leaf.astype(dtype) for leaf in leaves])


def _unflatten(x: jax.Array, like: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(like)
    sizes = [jnp.size(leaf) for leaf in leaves]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return treedef.unflatten(
        [
            x[end - size : end].reshape(jnp.shape(leaf)).astype(jnp.result_type(leaf))
            for leaf, size, end in zip(leaves, sizes, ends, strict=True)
        ]
    )
