"""The corners of higher, one after the other; see the table in README.md."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.flatten_util import ravel_pytree

import jmeta
from jmeta import inner_loop, make_functional, unused_parameters
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    F64_TORCH,
    assert_trees_close,
    central_difference,
)
from tests.optimizer_cases import (
    flags,
    floats,
    mlp_loss,
    transform,
)
from tests.reference.read import case, cases

ROWS = {row["name"]: row for row in cases("corner_cases")}


def of_kind(kind: str) -> list[str]:
    return [name for name, row in ROWS.items() if row["kind"] == kind]


def sgd_and_adam(kind: str) -> list[Any]:
    """The cases of a kind; AdamW's, which compile anew, only on demand."""
    return [
        pytest.param(name, marks=pytest.mark.slow if "adamw" in name else ())
        for name in of_kind(kind)
    ]


def outer_of_unused(params: Any) -> jax.Array:
    return mlp_loss(params, "_val") + jnp.sum(params["unused"] ** 2)


def evaluate(row: Any, params: Any, outer: Any, **options: Any) -> Any:
    """Final parameters, outer loss and its derivatives, of parameters in a tree."""
    tx = transform(row["optimizer"], flags(row["kwargs"]))

    def loss(settings, params):
        run = inner_loop(
            mlp_loss, params, tx, row["steps"], hyperparams=settings, **options
        )
        return outer(run.params), run

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return gradient(floats(row["settings"]), dict(params))


def assert_recorded(got: Any, row: Any) -> None:
    (value, run), (d_settings, d_params) = got
    atol = 1e-11 * abs(row["outer"])
    assert_trees_close(run.params, row["final"], rtol=F64_TORCH)
    assert_trees_close(value, row["outer"], rtol=F64_TORCH)
    expected = floats(row["d_settings"])
    assert_trees_close(d_settings, expected, rtol=F64_DIFFERENCE, atol=atol)
    assert_trees_close(d_params, row["d_params"], rtol=F64_DIFFERENCE, atol=atol)


@pytest.mark.parametrize("name", sgd_and_adam("unused"))
def test_unused_parameters_are_skipped(name):
    row, params = ROWS[name], case("problems", "mlp_unused")["params"]
    unused = unused_parameters(mlp_loss, params)
    assert unused == {("unused",)}
    got = evaluate(
        row, params, outer_of_unused, trainable=lambda path: path not in unused
    )
    assert_recorded(got, row)
    # with zeros for a gradient they are decayed, in torch as here
    decayed = evaluate(row, params, outer_of_unused)[0][1].params
    expected = row["final_with_zero_gradient"]
    assert_trees_close(decayed, expected, rtol=F64_TORCH)
    assert np.abs(decayed["unused"] - params["unused"]).max() > 1e-4


@pytest.mark.parametrize("name", sgd_and_adam("frozen"))
def test_frozen_parameters_stay(name):
    row, params = ROWS[name], case("problems", "mlp")["params"]
    outer = functools.partial(mlp_loss, split="_val")
    got = evaluate(
        row, params, outer, trainable=lambda path: path[0] not in row["frozen"]
    )
    assert_recorded(got, row)
    for leaf in row["frozen"]:
        assert_trees_close(got[0][1].params[leaf], params[leaf], rtol=0.0)


class Tied(nnx.Module):
    def __init__(self):
        self.encode = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(0))
        self.decode = nnx.Linear(3, 3, use_bias=False, rngs=nnx.Rngs(1))
        self.decode.kernel = self.encode.kernel

    def __call__(self, x):
        return self.decode(jnp.tanh(self.encode(x)))


X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
ADAM = jmeta.optim.adam(lr=0.05, eps=1e-3, weight_decay=0.1)


def test_shared_parameters_are_one():
    apply_fn, params = make_functional(Tied())
    (kernel,) = jax.tree.leaves(params)
    kernel = jnp.asarray(kernel, float)

    def by_module(kernel):
        start = jax.tree.map(lambda _: kernel, params)
        loss = lambda p: jnp.mean((apply_fn(p, X) - X) ** 2)
        run = inner_loop(loss, start, ADAM, 4)
        return jnp.sum(jax.tree.leaves(run.params)[0] ** 3)

    def by_hand(kernel):
        loss = lambda w: jnp.mean((jnp.tanh(X @ w) @ w - X) ** 2)
        return jnp.sum(inner_loop(loss, kernel, ADAM, 4).params ** 3)

    got, expected = (
        jax.jit(jax.value_and_grad(f))(kernel) for f in (by_module, by_hand)
    )
    assert_trees_close(got, expected, rtol=F64_SAME)
    assert np.abs(expected[1]).max() > 1e-3


def lstm_cell(p, x, state):
    hidden, cell = state
    gates = x @ p["weight_ih"].T + hidden @ p["weight_hh"].T
    i, f, g, o = jnp.split(gates + (p["bias_ih"] + p["bias_hh"])[None], 4, axis=-1)
    cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def gru_cell(p, x, state):
    hidden, _ = state
    ri, zi, ni = jnp.split(x @ p["weight_ih"].T + p["bias_ih"][None], 3, axis=-1)
    rh, zh, nh = jnp.split(hidden @ p["weight_hh"].T + p["bias_hh"][None], 3, axis=-1)
    r, z = jax.nn.sigmoid(ri + rh), jax.nn.sigmoid(zi + zh)
    return (1 - z) * jnp.tanh(ni + r * nh) + z * hidden, state[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("cell", [lstm_cell, gru_cell], ids=lambda cell: cell.__name__)
def test_recurrent_cells(cell, optimizer):
    row = case("models", f"{cell.__name__}/{optimizer}")
    start, tree = ravel_pytree(dict(row["params"]))
    tx = transform(row["optimizer"])

    def outputs(w, x):
        p = tree(w)
        weights = {k.removeprefix("cell."): v for k, v in p.items()}
        state = (jnp.zeros((len(x), 5)),) * 2
        for t in range(x.shape[1]):
            state = cell(weights, x[:, t], state)
        return state[0] @ p["out.weight"].T + p["out.bias"][None]

    loss = lambda w, split: jnp.mean(
        (outputs(w, row[f"x{split}"]) - row[f"y{split}"]) ** 2
    )

    def outer(settings, w):
        run = inner_loop(
            lambda w: loss(w, ""), w, tx, row["steps"], hyperparams=settings
        )
        return loss(run.params, "_val"), run.params

    (value, final), (d_settings, d_params) = jax.jit(
        jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)
    )(floats(row["settings"]), start)
    atol = 1e-11 * row["outer"]
    assert_trees_close(value, row["outer"], rtol=F64_TORCH)
    assert_trees_close(tree(final), row["final"], rtol=F64_TORCH)
    expected = floats(row["d_settings"])
    assert_trees_close(d_settings, expected, rtol=F64_DIFFERENCE, atol=atol)
    assert_trees_close(tree(d_params), row["d_params"], rtol=F64_DIFFERENCE, atol=atol)


@pytest.mark.standard_promotion("Flax's weights are float32")
def test_weight_norm_follows_the_parameters():
    """higher drops the hook that recomputes the weight, and trains a stale one."""
    module = linen.WeightNorm(linen.Dense(2))
    variables = module.init(jax.random.key(0), X)
    apply_fn, params = make_functional(module, variables)
    params = jax.tree.map(lambda p: p.astype(float), params)
    target = jnp.ones((5, 2))
    loss = lambda p: jnp.mean((apply_fn(p, X) - target) ** 2)
    tx = jmeta.optim.sgd(lr=0.2, momentum=0.5)

    def outer(p):
        trained = inner_loop(loss, p, tx, 3).params
        return loss(trained), trained

    (value, trained), grads = jax.jit(jax.value_and_grad(outer, has_aux=True))(params)
    # kernel (in, out), normalised along the inputs
    flat = {path[-1].key: leaf for path, leaf in jax.tree.leaves_with_path(trained)}
    scale, kernel, bias = (
        next(v for k, v in flat.items() if name in k)
        for name in ("scale", "kernel", "bias")
    )
    weight = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True) * scale[None]
    by_hand = jnp.mean((X @ weight + bias[None] - target) ** 2)
    assert_trees_close(value, by_hand, rtol=1e-9)  # linen adds an epsilon
    assert value < 0.9 * loss(params)
    direction = jax.tree.map(
        lambda p: jnp.cos(jnp.arange(p.size) * 1.0).reshape(p.shape), params
    )
    slope = sum(
        jnp.vdot(g, d)
        for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
    )
    expected = central_difference(jax.jit(lambda p: outer(p)[0]), params, direction)
    assert_trees_close(slope, expected, rtol=F64_DIFFERENCE)
