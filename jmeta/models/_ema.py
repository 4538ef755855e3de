"""Exponential moving averages of parameters, differentiable in their decay."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from jmeta._core import validate
from jmeta._core.numerics import safe_divide
from jmeta._core.settings import (
    Setting,
    advance_hyperparams,
    check_settings,
    hyperparams_at,
    initial_hyperparams,
    is_plain,
)
from jmeta._core.tree import allow_mixed_dtypes, cast_like, is_float, widest
from jmeta._core.typing import PyTree


class EMAState(NamedTuple):
    """State of `ema` and `EMA`.

    Attributes:
        step: Updates so far, an int32 scalar.
        average: The averaged parameters, a tree like them in at least float32.
        weight: The weight of the average in the next update, a scalar for each
            parameter. With `debias` and a constant decay it is `1 - decay**step`.
        hyperparams: The `decay` of the next update.
    """

    step: jax.Array
    average: PyTree
    weight: PyTree
    hyperparams: dict[str, Setting]


@dataclasses.dataclass(frozen=True, eq=False)
class EMA:
    """Exponential moving average of any tree, for use outside a training loop.

    The methods are pure functions of a state and can be jitted. To average the
    parameters inside a loop, chain `ema` instead.

        average <- decay * average + (1 - decay) * params

    Attributes:
        decay: Share of the average that an update keeps: a number, a scalar array, a
            schedule `step -> value` or a `PerLeaf`.
        warmup: Use `min(decay, (1 + n) / (10 + n))` at update n, counted from 1.
        debias: Average only the parameters given to `update`, not those of `init`.
        device: Device or sharding, or a tree of them, that holds the average. `update`
            moves the parameters there. None leaves all where it is. Under `jit` the
            parameters must be on these devices already.

    Raises:
        TypeError: `decay` is no setting, or a flag is no bool.
        ValueError: `decay` is a number outside [0, 1], or is 1 with `debias`; later,
            parameters differ in structure or shape from those given to `init`.

    Example:
        >>> average = EMA(0.5)
        >>> state = average.init({"w": jnp.array(0.0)})
        >>> state = average.update(state, {"w": jnp.array(4.0)})
        >>> state = average.update(state, {"w": jnp.array(4.0)})
        >>> float(average.value(state)["w"])
        3.0

    Note:
        Leaves that are not floating point, such as counters, are not averaged: the
        newest is kept.

        torch's AveragedModel copies the parameters at its first update; here `init`
        does. It averages in the dtype of the parameters, where bfloat16 loses every
        update of less than 1 in 256. Here bfloat16 is averaged in float32.
    """

    decay: Setting
    _: dataclasses.KW_ONLY
    warmup: bool = False
    debias: bool = False
    device: Any = None

    def __post_init__(self):
        decay = self.decay
        flags = {"warmup": self.warmup, "debias": self.debias}
        check_settings({"decay": decay}, flags)
        if is_plain(decay) and not (0 <= decay < 1 or (decay == 1 and not self.debias)):
            high = "below 1" if self.debias else "at most 1"
            raise ValueError(f"`decay` must be at least 0 and {high}; got {decay}.")

    def init(self, params: PyTree) -> EMAState:
        """Make a state whose average is a copy of the parameters."""
        hyperparams = initial_hyperparams({"decay": self.decay})

        def weight(path, param):
            del param
            decay = _leaf_decay(hyperparams, path)
            return jnp.full_like(decay, 0 if self.debias else 1)

        return EMAState(
            step=jnp.zeros((), jnp.int32),
            average=self._copy(params),
            weight=tree_map_with_path(weight, params),
            hyperparams=hyperparams,
        )

    def update(self, state: EMAState, params: PyTree) -> EMAState:
        """Add new parameters, a tree like those given to `init`, to the average."""
        _check_like(state, params)
        step = state.step + 1

        def average_leaf(path, param, average, weight):
            if not is_float(average):
                return param, weight
            decay = _leaf_decay(state.hyperparams, path)
            if self.warmup:
                ramp = (1 + step).astype(decay.dtype) / (10 + step).astype(decay.dtype)
                decay = jnp.where(decay <= ramp, decay, ramp)
            with allow_mixed_dtypes(param, average, weight, decay):
                kept = decay * weight
                new_weight = kept + (1 - decay)
                keep = safe_divide(kept, new_weight)
                # This form is exact for a decay of 0 and for unchanged parameters.
                new_average = param - keep * (param - average)
            return new_average.astype(average.dtype), new_weight.astype(weight.dtype)

        trees = self._to_device(params), state.average, state.weight
        pairs = tree_map_with_path(average_leaf, *trees)
        average, weight = jax.tree.transpose(
            jax.tree.structure(params), jax.tree.structure((0, 0)), pairs
        )
        settings = {"decay": self.decay}
        hyperparams = advance_hyperparams(state.hyperparams, settings, step)
        return EMAState(step, average, weight, hyperparams)

    def set(self, state: EMAState, params: PyTree) -> EMAState:
        """Replace the average by parameters, with a weight of 1."""
        _check_like(state, params)
        weight = jax.tree.map(jnp.ones_like, state.weight)
        return state._replace(average=self._copy(params), weight=weight)

    def value(self, state: EMAState) -> PyTree:
        """The averaged parameters."""
        _check_state(state)
        return state.average

    def _copy(self, params):
        def copy(param):
            dtype = jnp.result_type(param)
            if is_float(param):
                dtype = widest(dtype, jnp.float32)
            # A copy stays valid when the parameters are donated.
            return jnp.array(param, dtype)

        return self._to_device(jax.tree.map(copy, params))

    def _to_device(self, params):
        return params if self.device is None else jax.device_put(params, self.device)


def _check_state(state):
    use = "Make one with `EMA.init(params)` and pass on what `update` returns."
    validate.instance("state", state, EMAState, "an `EMAState`", use=use)


def _check_like(state, params):
    """Refuse parameters whose structure or shapes differ from those of the state."""
    _check_state(state)
    trees = state.average, params
    structures = {jax.tree.structure(tree) for tree in trees}
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in trees]
    if len(structures) > 1 or shapes[0] != shapes[1]:
        own, given = (jax.tree.map(jnp.shape, tree) for tree in trees)
        raise ValueError(
            f"`params` must be a tree like that given to `init`, of the shapes {own};"
            f" got {given}. Pass the same parameters, or make a new state with `init`."
        )


def _leaf_decay(hyperparams: dict[str, Setting], path: Any) -> Any:
    return hyperparams_at(hyperparams, path)["decay"]


def ema(
    decay: Setting, *, warmup: bool = False, debias: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Average the parameters while they are trained; chain it after the optimizer.

    The updates pass through unchanged. The average starts as the initial parameters and
    takes in the parameters after each update:

        average <- decay * average + (1 - decay) * (params + updates)

    which for SGD is `params_1 - lr * sum_i (1 - decay**(t - i)) * grad_i`. It can be
    used in the outer loss like the parameters themselves.

    Args:
        decay: Share of the average that an update keeps: a number, a scalar array, a
            schedule `step -> value` or a `PerLeaf`. It may be learned.
        warmup: Use `min(decay, (1 + n) / (10 + n))` at update n, counted from 1.
        debias: Leave the initial parameters out of the average and divide by
            `1 - decay**n`, the sum of the other weights.

    Returns:
        A transform whose state is an `EMAState`; `ema_params` reads it.

    Raises:
        ValueError: `decay` is a number outside [0, 1], or is 1 with `debias`.

    Example:
        >>> import jmeta
        >>> tx = optax.chain(jmeta.optim.sgd(lr=1.0), ema(0.5))
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> updates, state = tx.update(jnp.array(-4.0), state, params)
        >>> float(updates), float(ema_params(state))
        (4.0, 2.0)

    Note:
        `optax.ema` averages updates, not parameters. `EMA` compares with torch.
    """
    average = EMA(decay, warmup=warmup, debias=debias)

    def update(
        updates: PyTree, state: Any, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        del extra_args
        if params is None:
            raise ValueError(
                "`ema` needs the parameters; call `update(grads, state, params)`."
            )
        return updates, average.update(state, optax.apply_updates(params, updates))

    return optax.GradientTransformationExtraArgs(average.init, update)


def ema_params(opt_state: PyTree) -> PyTree:
    """Read the averaged parameters from the state of a transform with `ema` in it.

    Args:
        opt_state: State of `ema`, or of a transform that contains it by `optax.chain`,
            `optax.masked` or `optax.partition`.

    Returns:
        The average, a tree like the parameters in at least float32.

    Raises:
        ValueError: The state holds no `ema`, or several.

    Example:
        >>> ema_params((optax.EmptyState(), ema(0.5).init(jnp.array(2.0)))).item()
        2.0
    """

    def is_average(node):
        return isinstance(node, EMAState)

    leaves = jax.tree.leaves(opt_state, is_leaf=is_average)
    states = [leaf for leaf in leaves if is_average(leaf)]
    if len(states) != 1:
        raise ValueError(
            f"`opt_state` must hold the state of one `ema`; got {len(states)}. Chain"
            " one after the optimizer, after all groups of parameters."
        )
    return states[0].average


@contextlib.contextmanager
def swap_params(
    model: nnx.Module | Mapping[str, Any], averaged: PyTree
) -> Iterator[Any]:
    """Evaluate a model with averaged parameters, and restore its own afterwards.

    Args:
        model: An nnx module, whose parameters are replaced in place and restored at the
            end even if the evaluation raises; or the variables of a linen module, which
            are not changed.
        averaged: Parameters as pure dicts, such as `ema_params(opt_state)`; for an nnx
            module, also a part of them. They are cast to the model's dtypes.

    Yields:
        The module, or a copy of the variables with `averaged` under `"params"`.

    Raises:
        TypeError: `model` is neither an nnx module nor variables of a linen module.
        ValueError: `averaged` has a leaf that the model lacks or has in another shape;
            or it lacks a parameter of a linen module.

    Example:
        >>> module = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
        >>> old = module.kernel[...]
        >>> with swap_params(module, {"kernel": jnp.array([[2.0]])}):
        ...     module(jnp.array([3.0])).item()
        6.0
        >>> bool((module.kernel[...] == old).all())
        True
    """
    if isinstance(model, nnx.Module):
        old = _own_leaves(nnx.to_pure_dict(nnx.state(model)), averaged)
        nnx.update(model, cast_like(averaged, old))
        try:
            yield model
        finally:
            nnx.update(model, old)
    else:
        if not isinstance(model, Mapping) or "params" not in model:
            raise TypeError(
                "`model` must be an nnx module, or the variables of a linen module with"
                f" an entry 'params'; got {validate.kind(model)}. For plain parameters"
                " use `ema_params(opt_state)` in their place."
            )
        params = model["params"]
        missing = set(_leaves(params)) - set(_leaves(averaged))
        if missing:
            names = ", ".join(sorted(map(keystr, missing)))
            raise ValueError(f"`averaged` must have every parameter; it lacks {names}.")
        old = _own_leaves(params, averaged)
        yield {**model, "params": cast_like(averaged, old)}


def _own_leaves(own, averaged):
    """The model's own values of the leaves in `averaged`, in the same structure."""
    leaves = _leaves(own)

    def find(path, new):
        if path not in leaves:
            raise ValueError(
                f"`averaged` must be parameters of the model, which has no leaf"
                f" `{keystr(path)}`."
            )
        if jnp.shape(new) != jnp.shape(leaves[path]):
            raise ValueError(
                f"`averaged` must have the model's shapes; leaf `{keystr(path)}` has"
                f" shape {jnp.shape(new)}, the model's {jnp.shape(leaves[path])}."
            )
        return leaves[path]

    return tree_map_with_path(find, averaged)


def _leaves(tree):
    return dict(tree_flatten_with_path(tree)[0])
