"""Replace the convolutions of a function by matrix products."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax.extend.core import primitives

from jmeta._core import validate
from jmeta._jaxpr.interpret import (
    AnyJaxpr,
    apply_equation,
    apply_with_inner,
    enterable_jaxprs,
    evaluate,
)
from jmeta.convolution import _sums
from jmeta.convolution._choice import by_shape
from jmeta.convolution._pooling import max_pool, sum_pool
from jmeta.convolution._product import Convolution, Product

Rule = Callable[..., jax.Array | None]
"""`(*operands, **params) -> output` of an operation, or None to leave it as it is."""

Rules = dict[jex.Primitive, Rule]


def matmul_convs(
    apply_fn: Callable[..., Any],
    *,
    product: Product = by_shape,
    pooling: bool = True,
    sums: bool = True,
) -> Callable[..., Any]:
    """Return the same function with its convolutions as matrix products.

    Where every task has its own weights, `jax.vmap` turns a convolution into a grouped
    one. Derivatives of a grouped convolution are very slow, most of all those of second
    order. A convolution in a compiled loop on CPU is slow too. A matrix product becomes
    a batched product under `jax.vmap`. Values and derivatives of every order are the
    same.

    The function is traced at each call. Every convolution in it is replaced, also
    inside `jax.jit`, `jax.checkpoint`, `jax.lax.scan` and `jax.lax.cond`. Max and sum
    pooling over windows that do not overlap becomes elementwise. On CPU a sum over the
    pixels of images whose channels come last, as in BatchNorm, becomes a product with
    ones, and so does a broadcast of a value to these pixels. Grouped convolutions
    (depthwise ones too), those inside a custom derivative rule, and everything else
    are left as they are.

    Args:
        apply_fn: Function of arrays in pytrees. It may capture traced values.
        product: Function `(x, w, convolution) -> outputs`, which may return None to
            leave this convolution as it is. `jmeta.convolution` has `patches`,
            `winograd` and `by_shape`, which chooses between them.
        pooling: Replace pooling too.
        sums: Replace sums over pixels too. They take a quarter of the time of a
            hypergradient through BatchNorm.

    Returns:
        A function with the arguments and results of `apply_fn`.

    Raises:
        TypeError: `apply_fn` or `product` is no function, or another argument is not
            True or False.
        ValueError: `product` returns anything but the outputs or None.

    Example:
        >>> import flax.linen as nn
        >>> model = nn.Conv(4, (3, 3))
        >>> x = jnp.ones((1, 8, 8, 2))
        >>> params = model.init(jax.random.key(0), x)
        >>> apply_fn = matmul_convs(model.apply)
        >>> bool(jnp.allclose(apply_fn(params, x), model.apply(params, x), atol=1e-5))
        True
        >>> "conv_general" in str(jax.make_jaxpr(apply_fn)(params, x))
        False
    """
    validate.strategy("apply_fn", apply_fn, "a function of arrays")
    if isinstance(apply_fn, linen.Module) and apply_fn.scope is None:
        name = type(apply_fn).__name__
        raise TypeError(
            "`apply_fn` must be a function of arrays; got the linen module"
            f" {name}, which has no variables. Pass its `.apply`."
        )
    validate.strategy("product", product, "a function", "x", "w", "convolution")
    validate.flag("pooling", pooling)
    validate.flag("sums", sums)
    rules: Rules = {
        primitives.conv_general_dilated_p: functools.partial(_convolve, product)
    }
    if pooling:
        rules[primitives.reduce_window_max_p] = functools.partial(_pool, max_pool)
        rules[primitives.reduce_window_sum_p] = functools.partial(_pool, sum_pool)
    if sums and jax.default_backend() == "cpu":
        rules |= _sums.RULES

    @functools.wraps(apply_fn)
    def rewritten(*args: Any, **kwargs: Any) -> Any:
        leaves, in_tree = jax.tree.flatten((args, kwargs))
        traced = [isinstance(leaf, jax.Array) for leaf in leaves]
        arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
        outputs = []

        def flat(*arrays: jax.Array) -> list[jax.Array]:
            it = iter(arrays)
            both = zip(leaves, traced, strict=True)
            args, kwargs = in_tree.unflatten([next(it) if t else x for x, t in both])
            out, out_tree = jax.tree.flatten(apply_fn(*args, **kwargs))
            # An output that is no array, such as a Python float, keeps its type.
            outputs[:] = [[None if _is_array(x) else x for x in out], out_tree]
            return [x for x in out if _is_array(x)]

        closed = jax.make_jaxpr(flat)(*arrays)
        it = iter(_evaluate(closed, arrays, rules))
        fixed, out_tree = outputs
        return out_tree.unflatten([next(it) if x is None else x for x in fixed])

    return rewritten


def _evaluate(jaxpr: AnyJaxpr, args: Sequence[Any], rules: Rules) -> list[Any]:
    """Evaluate a jaxpr with `rules` in place of some primitives."""

    def visit(eqn, values):
        rule = rules.get(eqn.primitive)
        if rule and 0 not in getattr(eqn.outvars[0].aval, "shape", ()):
            out = rule(*values, **eqn.params)
            if out is not None:
                return [out]
        outs = None
        if _has_target(eqn, rules):
            outs = apply_with_inner(
                eqn, values, lambda inner, xs: _evaluate(inner, xs, rules)
            )
        return apply_equation(eqn, values) if outs is None else outs

    return evaluate(jaxpr, visit, args)


def _has_target(eqn: jex.JaxprEqn, rules: Rules) -> bool:
    """Whether the jaxprs of an equation contain something to replace."""
    return any(
        (inside.primitive in rules and not _sums.has_nothing_to_spread(inside))
        or _has_target(inside, rules)
        for jaxpr in enterable_jaxprs(eqn)
        for inside in jaxpr.eqns
    )


def _convolve(
    product: Product, lhs: jax.Array, rhs: jax.Array, **params: Any
) -> jax.Array | None:
    """Compute a `conv_general_dilated` by `product`; None to leave it as it is.

    The operands are transposed to the layout of `product`, and its outputs back.
    """
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    if 0 in lhs.shape or 0 in rhs.shape:
        return None
    batch, features, *space = params["dimension_numbers"].lhs_spec
    rows, columns, *window = params["dimension_numbers"].rhs_spec
    out_batch, out_features, *out_space = params["dimension_numbers"].out_spec
    convolution = Convolution(
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        params["precision"],
        params["preferred_element_type"],
    )
    x = lhs.transpose(batch, *space, features)
    y = product(x, rhs.transpose(*window, columns, rows), convolution)
    if y is None:
        return None
    conv = functools.partial(primitives.conv_general_dilated_p.bind, **params)
    like = jax.eval_shape(conv, lhs, rhs)
    order = out_batch, *out_space, out_features
    shape = tuple(like.shape[axis] for axis in order)
    if not isinstance(y, jax.Array) or (y.shape, y.dtype) != (shape, like.dtype):
        raise ValueError(
            "`product` must give the outputs, or None to leave a convolution; got"
            f" {validate.kind(y)}, expected shape {shape} and dtype {like.dtype}."
        )
    return y.transpose(np.argsort(order).tolist())


def _pool(
    pool: Callable[..., jax.Array], x: jax.Array, **params: Any
) -> jax.Array | None:
    """Compute a pooling by `pool`; None to leave windows that overlap or are padded."""
    window = params["window_dimensions"]
    plain = (
        window == params["window_strides"]
        and not np.any(params["padding"])
        and {*params["base_dilation"], *params["window_dilation"]} == {1}
        and jnp.issubdtype(x.dtype, jnp.floating)
        and x.size > 0
    )
    return pool(x, window) if plain else None


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array)
