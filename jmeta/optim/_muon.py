"""Muon."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_flatten_with_path
from jax.typing import DTypeLike

from jmeta._core import validate
from jmeta._core.numerics import safe_divide, safe_sqrt
from jmeta._core.settings import Setting, check_settings, pair
from jmeta._core.tree import path_strings, widest
from jmeta._core.typing import PyTree
from jmeta.optim._base import per_leaf, scalar_settings


class MuonState(NamedTuple):
    """State of `muon`, under torch's names.

    Attributes:
        step: Updates so far, an int32 scalar.
        momentum_buffer: Running mean of gradients, a tree like the parameters.
        hyperparams: The next update's `lr, weight_decay, momentum, ns_coefficients,
            eps`.
    """

    step: jax.Array
    momentum_buffer: PyTree
    hyperparams: dict[str, Setting]


def muon(
    lr: Setting = 1e-3,
    weight_decay: Setting = 0.1,
    momentum: Setting = 0.95,
    nesterov: bool = True,
    ns_coefficients: Sequence[Setting] = (3.4445, -4.7750, 2.0315),
    eps: Setting = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | Callable[[tuple[int, int]], float] | None = None,
    *,
    ns_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Muon with torch's semantics, differentiable in every setting.

    It is for the matrices of a network's hidden layers. A Newton-Schulz iteration makes
    each step nearly orthogonal.

        momentum_buffer <- momentum * momentum_buffer + (1 - momentum) * grad
        direction       <- momentum_buffer
        with nesterov:     (1 - momentum) * grad + momentum * momentum_buffer
        x               <- direction / max(norm(direction), eps)
        ns_steps times:
            gram <- x @ x.T
            x    <- a * x + (b * gram + c * gram @ gram) @ x
        param           <- param - lr * weight_decay * param - lr * factor * x

    Every parameter must be a matrix. Give the others an optimizer of their own:

        tx = optim.param_groups(
            {"matrices": muon(lr=0.02), "others": adamw(lr=3e-4)},
            labels=lambda path: "matrices" if path[-1] == "kernel" else "others",
        )

    Args:
        lr: Step size; a number, a scalar array, a schedule `step -> value` or a
            `PerLeaf`. Every other numeric setting takes these forms too, but
            `ns_coefficients` and `eps` may not differ within a parameter.
        weight_decay: Share of each parameter that an update removes, as a multiple of
            `lr`. It does not enter the gradient.
        momentum: Decay rate of the buffer.
        nesterov: Look one step of momentum ahead.
        ns_coefficients: `a, b, c` of the iteration, a tuple or a list of three.
        eps: Lower bound of the norm that the direction is divided by.
        ns_steps: Number of iterations, from 0 to 99. Like the arguments below it cannot
            be overridden later.
        adjust_lr_fn: How `factor` follows from a matrix's shape (rows, columns). None
            and `"original"` give `sqrt(max(1, rows / columns))`, `"match_rms_adamw"`
            gives `0.2 * sqrt(max(rows, columns))`; a function is called with the shape.
        ns_dtype: Precision of the iteration. None is that of the parameters, at least
            float32; torch's is `jnp.bfloat16`, which changes a step by about 1 %.

    Returns:
        A transform whose state lists the numeric settings under `hyperparams`.

    Raises:
        TypeError: A setting has none of these forms, or a flag is no bool.
        ValueError: A number lies outside torch's range, or, at `init`, a parameter is
            no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = muon(lr=0.5, weight_decay=0.0, ns_coefficients=(1.5, -0.5, 0.0))
        >>> params = jnp.eye(2)
        >>> grads = jnp.array([[0.0, 2.0], [2.0, 0.0]])
        >>> updates, state = tx.update(grads, tx.init(params), params)
        >>> updates.round(2).tolist()
        [[-0.0, -0.5], [-0.5, -0.0]]

    Note:
        torch runs the iteration in bfloat16 (see `ns_dtype`). torch's weights are
        (out, in) and Flax's kernels are (in, out), so `"original"` takes the other
        ratio: `adjust_lr_fn=lambda shape: max(1, shape[1] / shape[0]) ** 0.5` is
        torch's for a kernel.

        At a direction of 0 the slope of `x` is about `a**ns_steps / eps`: finite, and
        huge with the default `eps`.

    References:
        Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks,
        https://kellerjordan.github.io/posts/muon. Liu et al. (2025), Muon is scalable
        for LLM training, arXiv:2502.16982, for `"match_rms_adamw"`.
    """
    settings = {
        "lr": lr,
        "weight_decay": weight_decay,
        "momentum": momentum,
        "ns_coefficients": pair("ns_coefficients", ns_coefficients, size=3),
        "eps": eps,
    }
    inf = float("inf")
    check_settings(
        settings,
        {"nesterov": nesterov},
        ("ns_coefficients",),
        lr=(0, inf),
        weight_decay=(0, inf),
        momentum=(0, inf),
        eps=(0, inf),
    )
    validate.count("ns_steps", ns_steps, use="torch takes fewer than 100.")
    if ns_steps >= 100:
        raise ValueError(f"`ns_steps` must be less than 100; got {ns_steps}.")
    if not callable(adjust_lr_fn):
        validate.one_of("adjust_lr_fn", adjust_lr_fn, [None, *_FACTORS])
    factor = (
        adjust_lr_fn if callable(adjust_lr_fn) else _FACTORS[adjust_lr_fn or "original"]
    )
    _check_dtype(ns_dtype)

    # This rule follows `_single_tensor_muon` in torch/optim/_muon.py.
    def rule(hp, step, grad, param, momentum_buffer):
        del step
        scalar_settings("muon", hp, "ns_coefficients", "eps")
        lr, momentum = hp["lr"], hp["momentum"]
        dtype = jnp.result_type(lr, param)
        grad, param = grad.astype(dtype), param.astype(dtype)
        buffer = momentum_buffer + (1 - momentum) * (grad - momentum_buffer)
        direction = grad + momentum * (buffer - grad) if nesterov else buffer
        x = _orthogonalized(
            direction.astype(ns_dtype or dtype),
            hp["ns_coefficients"],
            hp["eps"],
            ns_steps,
        )
        step_size = lr * factor(param.shape)
        decay = lr * hp["weight_decay"] * param
        return -decay - step_size * x.astype(dtype), {"momentum_buffer": buffer}

    slots = {"momentum_buffer": lambda hp, param: jnp.zeros_like(param)}
    tx = per_leaf(MuonState, slots, rule, settings)

    def init(params: PyTree) -> Any:
        for path, param in tree_flatten_with_path(params)[0]:
            if jnp.ndim(param) != 2:
                raise ValueError(
                    f"Every parameter of `muon` must be a matrix; the one at"
                    f" {path_strings(path)} has shape {jnp.shape(param)}. Give the"
                    ' others their own optimizer: `optim.param_groups({"matrices":'
                    ' muon(), "others": adamw()}, labels=lambda path: "matrices" if'
                    ' path[-1] == "kernel" else "others")`.'
                )
        return tx.init(params)

    return tx._replace(init=init)


_FACTORS = {
    "original": lambda shape: math.sqrt(max(1, shape[0] / shape[1])),
    "match_rms_adamw": lambda shape: 0.2 * math.sqrt(max(shape)),
}


def _orthogonalized(x, coefficients, eps, steps):
    """Torch's _zeropower_via_newtonschulz, in the precision of `x`."""
    # torch's addmm in bfloat16 adds up in float32 and rounds once; so does this.
    sums = widest(x.dtype, jnp.float32)
    a, b, c = (value.astype(sums) for value in coefficients)

    def matmul(x, y):
        return jnp.matmul(x, y, precision="highest", preferred_element_type=sums)

    wide = x.shape[0] <= x.shape[1]
    norm = safe_sqrt(jnp.sum(x.astype(sums) ** 2)).astype(x.dtype)
    x = safe_divide(x if wide else x.T, jnp.maximum(norm, eps.astype(x.dtype)))
    for _ in range(steps):
        gram = matmul(x, x.T).astype(x.dtype)
        change = b * gram.astype(sums) + c * matmul(gram, gram)
        x = (a * x.astype(sums) + matmul(change.astype(x.dtype), x)).astype(x.dtype)
    return x if wide else x.T


def _check_dtype(dtype):
    try:
        is_float = dtype is None or jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        is_float = False
    if not is_float:
        raise TypeError(
            "`ns_dtype` must be a floating point dtype, such as `jnp.bfloat16`, or"
            f" None; got {validate.kind(dtype)}."
        )
