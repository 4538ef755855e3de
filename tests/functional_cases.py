"""Models of every kind, and what Flax itself computes with them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn, nnx

from jmeta import make_functional
from tests.helpers import F32, F64_SAME, assert_trees_close

F64 = jnp.float64


class LinenMLP(nn.Module):
    def setup(self):
        self.encoder = nn.Dense(4, param_dtype=F64)
        self.head = nn.Dense(2, param_dtype=F64)

    def encode(self, x):
        return jnp.tanh(self.encoder(x))

    def __call__(self, x, scale=1.0):
        return scale * self.head(self.encode(x))


class LinenBatchNormDropout(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(6, use_bias=False, param_dtype=F64)(x)
        x = nn.BatchNorm(not train, momentum=0.5, param_dtype=F64)(x)
        self.sow("intermediates", "normalised", x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.Dropout(0.5, rng_collection="other", deterministic=not train)(x)
        return nn.Dense(2, param_dtype=F64)(x)


class LinenTied(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(5, 3, param_dtype=F64)
        return embed.attend(jnp.tanh(embed(tokens)))


class NnxMLP(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.encoder = nnx.Linear(3, 4, rngs=rngs, param_dtype=F64)
        self.head = nnx.Linear(4, 2, rngs=rngs, param_dtype=F64)
        self.offset = jnp.arange(2.0)[None]

    def encode(self, x):
        return jnp.tanh(self.encoder(x))

    def __call__(self, x, scale=1.0):
        return scale * self.head(self.encode(x)) + self.offset


class NnxBatchNormDropout(nnx.Module):
    def __init__(self):
        # flax warns where its BatchNorm is fed float64
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 6, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.5, rngs=rngs)
        self.dropout1 = nnx.Dropout(0.5, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x))
        return self.second(self.dropout2(self.dropout1(x)))


class NnxTied(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 3, rngs=rngs, param_dtype=F64)
        self.second = nnx.Linear(3, 3, rngs=rngs, param_dtype=F64)
        self.second.kernel = self.first.kernel

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class NnxList(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List(
            nnx.Linear(3, 3, rngs=rngs, param_dtype=F64) for _ in range(2)
        )

    def __call__(self, x):
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def function(params, x, key=None):
    noise = 0.0 if key is None else jax.random.normal(key, x.shape)
    return jnp.tanh((x + noise) @ params["w"]) + params["b"]


X = jax.random.normal(jax.random.key(1), (7, 3))


class Row(NamedTuple):
    """A model, and what it is called with beside its parameters."""

    model: Any
    variables: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012  # never changed
    inputs: jax.Array = X
    keyed: bool = False
    unused: tuple[str, ...] = ()
    tolerance: float = F64_SAME


def random_like(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    # positive, for variances among them
    return jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.3, 1.3, x.shape), x.dtype), tree
    )


def linen_row(module: nn.Module, x: jax.Array = X, **kwargs: Any) -> Row:
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(module.init, keys, x)
    variables = random_like(shapes, 2)
    return Row(module, jax.tree.map(F64, variables), inputs=x, **kwargs)


def nnx_row(module: nnx.Module, **kwargs: Any) -> Row:
    for kind in (nnx.Param, nnx.BatchStat):
        values = nnx.to_pure_dict(nnx.state(module, kind))
        nnx.update(module, random_like(values, 2))
    return Row(module, **kwargs)


def evaluating(module: nnx.Module) -> nnx.Module:
    module.eval()
    return module


def linear() -> nnx.Linear:
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=F64)


def lstm() -> nnx.LSTMCell:
    return nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0), param_dtype=F64)


TOKENS = jnp.array([[0, 4, 2, 1, 3], [3, 3, 1, 0, 4]])
SEQUENCES = jax.random.normal(jax.random.key(3), (2, 5, 3))
IN_FLOAT32 = X.astype(jnp.float32)
FUNCTION_PARAMS = random_like({"w": jnp.ones((3, 2)), "b": jnp.ones((7, 2))}, 2)

ROWS: dict[str, Callable[[], Row]] = {
    "linen_mlp": lambda: linen_row(LinenMLP()),
    "linen_method": lambda: linen_row(
        LinenMLP(), options={"method": "encode"}, unused=("head",)
    ),
    "linen_batchnorm_dropout": lambda: linen_row(LinenBatchNormDropout(), keyed=True),
    "linen_tied": lambda: linen_row(LinenTied(), TOKENS),
    "linen_lstm": lambda: linen_row(nn.RNN(nn.LSTMCell(4, param_dtype=F64)), SEQUENCES),
    "nnx_mlp": lambda: nnx_row(NnxMLP()),
    "nnx_method": lambda: nnx_row(
        NnxMLP(), options={"method": "encode"}, unused=("head",)
    ),
    "nnx_head": lambda: nnx_row(NnxMLP(), options={"wrt": nnx.PathContains("head")}),
    "nnx_batchnorm_dropout": lambda: nnx_row(
        NnxBatchNormDropout(), inputs=IN_FLOAT32, keyed=True, tolerance=F32
    ),
    "nnx_batchnorm_eval": lambda: nnx_row(
        evaluating(NnxBatchNormDropout()), inputs=IN_FLOAT32, tolerance=F32
    ),
    "nnx_tied": lambda: nnx_row(NnxTied()),
    "nnx_list": lambda: nnx_row(NnxList()),
    "nnx_lora": lambda: nnx_row(
        nnx.LoRA(3, 2, 2, base_module=linear(), rngs=nnx.Rngs(1), param_dtype=F64),
        options={"wrt": nnx.LoRAParam},
    ),
    "nnx_lstm": lambda: nnx_row(nnx.RNN(lstm(), rngs=nnx.Rngs(1)), inputs=SEQUENCES),
    "function": lambda: Row(function, FUNCTION_PARAMS),
    "function_keyed": lambda: Row(function, FUNCTION_PARAMS, keyed=True),
}


class Case:
    """A row's model made functional, called in one way with state and without."""

    def __init__(self, row: Row):
        self.row = row
        made = make_functional(row.model, row.variables, **row.options)
        self.apply_fn, self.params = made[:2]
        self.state = made[2] if len(made) == 3 else None
        self.key = jax.random.key(4) if row.keyed else None
        self.jitted = jax.jit(self.ours)

    def call(self, params, state, x, key):
        keyed = {} if key is None else {"key": key}
        if state is None:
            return self.apply_fn(params, x, **keyed), None
        return self.apply_fn(params, state, x, **keyed)

    def ours(self, params, state, x, key):
        """Gradient, outputs, new state."""

        def loss(params):
            outputs, new_state = self.call(params, state, x, key)
            return weighted_sum(outputs), (outputs, new_state)

        grads, (outputs, new_state) = jax.grad(loss, has_aux=True)(params)
        return grads, outputs, new_state

    @functools.cached_property
    def theirs(self):
        return jax.jit(functools.partial(by_flax, self.row))(*self.arguments())

    def arguments(self):
        return self.params, self.state, self.row.inputs, self.key

    def close(self, actual, expected):
        atol = self.row.tolerance if self.row.tolerance == F32 else 1e-15
        assert_trees_close(actual, expected, self.row.tolerance, atol)


def weighted_sum(outputs):
    places = jnp.arange(outputs.size, dtype=outputs.dtype)
    return jnp.sum(outputs * jnp.cos(places.reshape(outputs.shape)))


def by_flax(row: Row, params: Any, state: Any, x: jax.Array, key: Any) -> Any:
    """Gradient, outputs and new state by the library that the model comes from."""
    if isinstance(row.model, nnx.Module):
        return by_nnx(row, updated(row.model, params, state, key), x)

    def loss(params):
        if not isinstance(row.model, nn.Module):
            outputs, new_state = row.model(params, x, key), {}
        else:
            keys = (
                {"dropout": key, "other": jax.random.fold_in(key, 1)}
                if row.keyed
                else {}
            )
            outputs, new_state = row.model.apply(
                {"params": params, **(state or {})},
                x,
                rngs=keys,
                mutable=["batch_stats"],
                method=row.options.get("method"),
            )
        return weighted_sum(outputs), (outputs, dict(new_state) or None)

    grads, (outputs, new_state) = jax.grad(loss, has_aux=True)(params)
    return grads, outputs, new_state


def by_nnx(row: Row, module: nnx.Module, x: jax.Array) -> Any:
    wrt = row.options.get("wrt", nnx.Param)
    if not isinstance(wrt, type):
        wrt = nnx.All(nnx.Param, wrt)
    method = getattr(type(module), row.options.get("method", "__call__"))

    def loss(module):
        outputs = method(module, x)
        return weighted_sum(outputs), outputs

    of_wrt = nnx.DiffState(0, wrt)
    grads, outputs = nnx.grad(loss, argnums=of_wrt, has_aux=True)(module)
    new_state = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
    return nnx.to_pure_dict(grads), outputs, new_state or None


def updated(model: nnx.Module, params: Any, state: Any, key: Any) -> nnx.Module:
    module = nnx.clone(model)
    nnx.update(module, params)
    if state is not None:
        nnx.update(module, state)
    streams = nnx.state(module, nnx.RngKey)
    if key is not None:
        leaves, treedef = jax.tree.flatten(streams)
        keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
        nnx.update(module, treedef.unflatten(keys))
        nnx.update(
            module, jax.tree.map(jnp.zeros_like, nnx.state(module, nnx.RngCount))
        )
    return module


def contents(row: Row) -> Any:
    """Everything that the model given in holds, as numpy arrays."""
    if isinstance(row.model, nnx.Module):
        graphdef, held = nnx.split(row.model)
        held = nnx.to_pure_dict(held)
    else:
        graphdef, held = repr(row.model), row.variables

    def as_numpy(x):
        typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if typed else x)

    return graphdef, jax.tree.map(as_numpy, held)
