"""The model with fast parameters: times, state, submodules, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jmeta
from jmeta import inner_loop, innerloop_ctx, monkeypatch
from tests.helpers import assert_trees_close
from tests.higher_cases import (
    SGD,
    STATEFUL_LINE,
    TXS,
    apply_fn,
    assert_same,
    line,
    mse,
    problem,
    towards,
)

flax_mixes = pytest.mark.standard_promotion("Flax's weights and statistics are float32")


def test_times():
    fmodel, diffopt = line(1.0)
    new = diffopt.step(towards(fmodel, 2.0))
    assert_same((new, fmodel.fast_params), (1.2, 1.2))
    fmodel.fast_params = jnp.asarray(5.0)
    diffopt.run(towards(fmodel, 0.0), 2)
    times = [float(fmodel.parameters(time=t)) for t in (0, 1, 2, 3, 4, -1, -2)]
    assert_same(times, [1.0, 1.2, 5.0, 4.0, 3.2, 3.2, 4.0])
    assert_same((fmodel.parameters(), fmodel.init_fast_params), (3.2, 1.0))
    assert_same(diffopt.losses, jnp.array([25.0, 16.0]))
    assert int(diffopt.opt_state.step) == 3


def test_calls_with_parameters_leave_the_history():
    fmodel, _ = line(2.0)
    assert_same((fmodel(3.0), fmodel(3.0, params=5.0)), (6.0, 15.0))
    assert_same((fmodel.fast_params, fmodel.parameters(time=-1)), (2.0, 2.0))
    with pytest.raises(IndexError, match="from 0"):
        fmodel.parameters(time=1)


def test_run_of_no_steps():
    fmodel, diffopt = line(2.0)
    assert_same(diffopt.run(towards(fmodel, 0.0), 0), jnp.asarray(2.0))
    assert diffopt.losses.shape == (0,)
    assert int(diffopt.opt_state.step) == 0


def test_step_from_other_parameters():
    fmodel, diffopt = line(1.0)
    diffopt.step(towards(fmodel, 2.0), params=6.0)
    assert_same((fmodel.fast_params, fmodel.init_fast_params), (5.2, 1.0))


def test_the_loss_is_traced_once_a_step():
    fmodel, diffopt = line()
    calls = []

    def loss_fn():
        calls.append(0)
        return fmodel(1.0) ** 2

    for _ in range(2):
        diffopt.step(loss_fn)
    assert len(calls) == 2
    diffopt.run(loss_fn, 4)
    assert len(calls) == 3


def test_nothing_changes_when_a_loss_raises():
    fmodel, diffopt = innerloop_ctx(STATEFUL_LINE, SGD).__enter__()

    def loss_fn():
        fmodel(2.0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diffopt.step(loss_fn)
    assert_same((fmodel.fast_params, fmodel.state), (1.0, 0.0))
    assert int(diffopt.opt_state.step) == 0
    diffopt.step(lambda: fmodel(2.0) ** 2)
    assert_same((fmodel.fast_params, fmodel.state), (0.2, 2.0))


def test_state_is_threaded_through_the_calls_of_a_step():
    fmodel, diffopt = innerloop_ctx(STATEFUL_LINE, SGD).__enter__()
    for _ in range(2):
        diffopt.step(lambda: fmodel(1.0) ** 2 + fmodel(2.0) + fmodel(0.5, params=7.0))
    assert_same(fmodel.state, 7.0)
    diffopt.run(lambda x: fmodel(x) ** 2, 3, jnp.array([1.0, 2.0, 3.0]))
    assert_same(fmodel.state, 13.0)
    fmodel(100.0)
    assert_same(fmodel.state, 13.0)
    _, fmodel.state = fmodel.apply_fn(fmodel.fast_params, fmodel.state, 100.0)
    assert_same(fmodel.state, 113.0)


def nnx_batch_norm():
    layers = [nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(1))]
    return nnx.Sequential(*layers)


class LinenBatchNorm(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Dense(2)(x)
        return linen.BatchNorm(use_running_average=False)(x)


def linen_batch_norm():
    module = LinenBatchNorm()
    return module, module.init(jax.random.key(0), jnp.ones((5, 3), jnp.float32))


@flax_mixes
@pytest.mark.parametrize("make", [nnx_batch_norm, linen_batch_norm])
def test_batch_norm(make):
    model = make()
    before = nnx.state(model) if isinstance(model, nnx.Module) else model[1]
    before = jax.tree.map(jnp.copy, before)
    xs, ys = jax.tree.map(lambda leaf: leaf[:2], problem()[1])
    # nnx.BatchNorm warns about float64
    xs, ys = xs.astype(jnp.float32), ys.astype(jnp.float32)

    def with_context(lr):
        with innerloop_ctx(model, SGD, override={"lr": [lr]}) as (fmodel, diffopt):
            for x, y in zip(xs, ys, strict=True):
                diffopt.step(lambda x=x, y=y: mse(fmodel(x), y))
            return mse(fmodel(xs[0]), ys[0]), (fmodel.fast_params, fmodel.state)

    def with_inner_loop(lr):
        parts = model if isinstance(model, tuple) else (model,)
        apply_fn, params, state = jmeta.make_functional(*parts)

        def objective(params, state, batch):
            outputs, state = apply_fn(params, state, batch[0])
            return mse(outputs, batch[1]), state

        run = inner_loop(
            objective,
            params,
            SGD,
            2,
            batches=(xs, ys),
            state=state,
            hyperparams={"lr": lr},
        )
        outputs, _ = apply_fn(run.params, run.state, xs[0])
        return mse(outputs, ys[0]), (run.params, run.state)

    got = jax.jit(jax.value_and_grad(with_context, has_aux=True))(0.1)
    want = jax.jit(jax.value_and_grad(with_inner_loop, has_aux=True))(0.1)
    # the layers compute in float32
    assert_trees_close(got, want, rtol=1e-5, atol=1e-6)
    after = nnx.state(model) if isinstance(model, nnx.Module) else model[1]
    assert_trees_close(after, before, 0.0)  # the model is as it was
    moved = jnp.abs(jax.tree.leaves(got[0][1][1])[0])
    assert moved.max() > 1e-3


MODELS = {
    "nnx": lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0)),
    "linen": lambda: (
        linen.Dense(2),
        linen.Dense(2).init(jax.random.key(0), jnp.ones((1, 3))),
    ),
    "function": lambda: (apply_fn, problem()[0]),
    "function with state": lambda: (
        lambda params, state, x: (apply_fn(params, x), state + 1),
        problem()[0],
        jnp.zeros(()),
    ),
}


@flax_mixes
@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    model = MODELS[name]()
    fmodel, diffopt = innerloop_ctx(model, SGD).__enter__()
    x, y = problem()[2]
    if not isinstance(model, tuple):
        assert_same(fmodel(x), model(x))
    losses = []
    for _ in range(3):
        diffopt.step(lambda: mse(fmodel(x), y))
        losses.append(float(diffopt.losses[0]))
    assert losses[0] > losses[1] > losses[2]


class Net(nnx.Module):
    def __init__(self):
        self.encoder = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4, 2, rngs=nnx.Rngs(1))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.head(self.dropout(self.encoder(x)))


@flax_mixes
def test_submodules_single_weights_and_keys(key):
    model = Net()
    fmodel, diffopt = innerloop_ctx(model, SGD).__enter__()
    x, y = problem()[2]
    encode, _ = jmeta.make_functional(model.encoder)
    assert_same(encode(fmodel.fast_params["encoder"], x), model.encoder(x))

    # a loss on a submodule's outputs moves that submodule alone
    old = fmodel.fast_params
    new = diffopt.step(lambda: (encode(fmodel.fast_params["encoder"], x) ** 2).mean())
    assert_same(new["head"], old["head"])
    assert jnp.abs(new["encoder"]["kernel"] - old["encoder"]["kernel"]).max() > 1e-3

    kernel = jnp.zeros((4, 2))
    fmodel.fast_params = {**new, "head": {**new["head"], "kernel": kernel}}
    assert_same(fmodel(x, key=key), jnp.zeros((5, 2)))
    fmodel.fast_params = new
    assert_same(fmodel(x, key=key), fmodel(x, key=key))
    assert jnp.abs(fmodel(x, key=key) - fmodel(x, key=jax.random.key(1))).max() > 1e-3
    diffopt.step(lambda: mse(fmodel(x, key=key), y))


def test_without_track_higher_grads_only_the_newest_are_kept():
    fmodel, diffopt = line(1.0, track_higher_grads=False)
    for _ in range(2):
        diffopt.step(towards(fmodel, 2.0))
    diffopt.run(towards(fmodel, 2.0), 2)
    fmodel.fast_params = fmodel.fast_params + 1.0
    assert_same(fmodel.parameters(), 3.0 - 0.8**4)
    assert_same(fmodel.parameters(time=-1), fmodel.fast_params)
    assert not fmodel.track_higher_grads
    for read in (lambda: fmodel.parameters(time=0), lambda: fmodel.init_fast_params):
        with pytest.raises(ValueError, match="only the newest parameters"):
            read()


def test_device():
    device = jax.devices()[1]
    fmodel, diffopt = line(1.0, device=device, tx=TXS["adam"])
    leaves = jax.tree.leaves((fmodel.fast_params, diffopt.opt_state))
    assert {leaf.device for leaf in leaves} == {device}
    assert diffopt.step(towards(fmodel, 2.0)).device == device
    patched = monkeypatch(STATEFUL_LINE, device=device)
    assert patched.state.device == patched.fast_params.device == device


def test_no_tracer_is_left_behind():
    with jax.checking_leaks():
        fmodel, diffopt = innerloop_ctx(STATEFUL_LINE, SGD).__enter__()
        diffopt.step(lambda: fmodel(2.0) ** 2)
        diffopt.run(lambda: fmodel(2.0) ** 2, 2)
        kept = fmodel.parameters(time=2), fmodel.state, diffopt.opt_state
        jax.tree.map(np.asarray, kept)  # a tracer has no value
