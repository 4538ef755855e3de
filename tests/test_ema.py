import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jmeta import PerLeaf, inner_loop, optim
from jmeta.models._ema import EMA, EMAState, ema, ema_params, swap_params
from tests.helpers import (
    F32,
    F64_DIFFERENCE,
    F64_SAME,
    F64_TORCH,
    assert_trees_close,
    finite_difference_grad,
)
from tests.reference.read import case, cases

PROBLEM = case("problems", "mlp")
PARAMS = {name: np.asarray(p) for name, p in PROBLEM["params"].items()}
KINDS = {"plain": {}, "warmup": {"warmup": True}, "debias": {"debias": True}}


def loss_at(params, x, y):
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    outputs = hidden @ params["2.weight"].T + params["2.bias"][None]
    return ((outputs - y) ** 2).mean()


def inner(params):
    return loss_at(params, PROBLEM["x"], PROBLEM["y"])


@functools.cache
def trained(kind, steps=30):
    """Outer loss at the average after SGD, with its gradients and every average."""

    def outer(decay, lr, params):
        tx = optax.chain(optim.sgd(lr), ema(decay, **KINDS[kind]))

        def step(carry, _):
            params, state = carry
            grads = jax.grad(inner)(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params, ema_params(state), grads)

        carry = params, tx.init(params)
        (_, state), path = jax.lax.scan(step, carry, length=steps)
        loss = loss_at(ema_params(state), PROBLEM["x_val"], PROBLEM["y_val"])
        return loss, (ema_params(state), *path)

    return jax.jit(jax.value_and_grad(outer, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.parametrize("row", cases("averages"), ids=lambda row: row["name"])
def test_averages_and_their_derivatives_are_torchs(row):
    kind, lr = row["kind"], row["kwargs"]["lr"]
    assert row["steps"] == 30
    (loss, (final, path, averages, _)), (d_decay, d_lr, d_params) = trained(kind)(
        row["decay"], lr, PARAMS
    )
    after = {name: p[1:] for name, p in row["params"].items()}
    assert_trees_close(path, after, rtol=F64_TORCH, atol=F64_SAME)
    assert_trees_close(final, row["average"], rtol=F64_TORCH, atol=F64_SAME)
    shadows = {name: p[1:] for name, p in row["shadow"].items()}
    if kind == "debias":
        # theirs is divided when it is read, ours is kept divided
        weights = 1 - row["decay"] ** np.arange(1, 31)
        shadows = {n: (p.T / weights).T for n, p in shadows.items()}
    assert_trees_close(averages, shadows, rtol=F64_TORCH, atol=F64_SAME)
    assert_trees_close(loss, row["outer"], rtol=F64_TORCH)
    assert_trees_close(
        (d_decay, d_lr, d_params),
        (row["d_decay"], row["d_lr"], row["d_params"]),
        rtol=F64_TORCH,
        atol=F64_SAME,
    )
    distance = np.abs(final["2.weight"] - after["2.weight"][-1]).max()
    assert distance > (1e-6 if row["decay"] < 0.9 else 1e-4)


def test_average_of_descent_has_its_closed_form():
    decay, lr, t = 0.9, 0.1, 30
    (_, (final, *_, grads)), _ = trained("plain")(decay, lr, PARAMS)
    # v_t = theta_1 - lr sum_i (1 - decay^(t - i)) g_i, with i counted from 0
    share = 1 - decay ** (t - np.arange(t))
    expected = {
        name: PARAMS[name] - lr * np.tensordot(share, grad, 1)
        for name, grad in grads.items()
    }
    assert_trees_close(final, expected, rtol=F64_TORCH, atol=F64_SAME)


@pytest.mark.parametrize("kind", KINDS)
def test_decay_is_learned_from_zero_and_to_second_order(kind):
    targets = np.array([[0.3, -1.2], [0.8, 0.5], [-0.7, 1.1], [1.9, 0.4]])

    @jax.jit
    def outer(decay):
        average = EMA(decay, **KINDS[kind])
        state = average.init(jnp.array([0.2, -0.4]))
        for params in targets:
            state = average.update(state, params)
        return (average.value(state) ** 3).sum()

    for decay in (0.0, 0.15, 0.8):
        got = jax.grad(outer)(decay), jax.hessian(outer)(decay)
        expected = (
            finite_difference_grad(outer, decay),
            finite_difference_grad(jax.jit(jax.grad(outer)), decay),
        )
        assert_trees_close(got, expected, F64_DIFFERENCE, atol=F64_DIFFERENCE)
    assert got[0] != 0 or kind == "warmup"


def test_decay_is_overridden_by_name_and_does_not_stick():
    tx = optax.chain(optim.sgd(0.1), ema(0.9))

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def outer(decays):
        run = inner_loop(
            inner, PARAMS, tx, 3, hyperparams={"decay": decays}, history=True
        )
        average = ema_params(run.opt_state)
        own_decay = run.opt_state[1].hyperparams["decay"]
        return inner(average), (average, own_decay, run.history)

    decays = jnp.array([0.3, 0.8, 0.5])
    d_decays, (got, own_decay, history) = outer(decays)
    expected = PARAMS
    for t, decay in enumerate(decays):
        theta = {name: p[t + 1] for name, p in history.items()}
        expected = {n: decay * expected[n] + (1 - decay) * theta[n] for n in theta}
    assert_trees_close(got, expected, rtol=F64_TORCH, atol=F64_SAME)
    assert own_decay == 0.9
    assert (jnp.abs(d_decays) > 1e-6).all()


def test_decay_takes_a_schedule_and_a_value_for_each_parameter():
    scheduled = EMA(lambda step: 1 - 1 / (step + 2))
    state = scheduled.init({"a": jnp.array(0.5)})
    for value in (1.5, 4.0):
        state = scheduled.update(state, {"a": jnp.array(value)})
    assert_trees_close(state.average["a"], 2.0, rtol=F32)  # the mean so far
    each = EMA(PerLeaf({"a": 0.5, "b": jnp.array([0.25, 0.75])}), debias=True)
    state = each.init({"a": jnp.array(9.0), "b": jnp.zeros(2)})
    state = each.update(state, {"a": jnp.array(3.0), "b": jnp.ones(2)})
    state = each.update(state, {"a": jnp.array(6.0), "b": jnp.array([6.0, 8.0])})
    assert_trees_close(
        state.average,
        {"a": np.array(5.0), "b": np.array([5.0, 5.0])},
        rtol=F64_SAME,
    )


def test_set_begins_anew_at_full_weight():
    average = EMA(0.5, debias=True)
    state = average.update(average.init(jnp.array(7.0)), jnp.array(1.0))
    state = average.set(state, jnp.array(2.0))
    assert average.value(average.update(state, jnp.array(4.0))) == 3.0


def test_average_is_kept_in_float32_and_counters_are_the_newest():
    average = EMA(0.999)
    start = {"w": jnp.ones(2, jnp.bfloat16), "count": jnp.array(0)}
    state = average.init(start)
    moved = {"w": jnp.full(2, 2.0, jnp.bfloat16), "count": jnp.array(3)}
    for _ in range(4):
        state = average.update(state, moved)
    assert state.average["w"].dtype == jnp.float32
    assert state.average["count"] == 3
    assert state.average["count"].dtype == start["count"].dtype
    expected = np.full(2, 2 - 0.999**4)
    assert_trees_close(state.average["w"], expected, rtol=F32)


def test_transform_leaves_updates_alone_and_survives_donation():
    tx = optax.chain(optim.sgd(0.1), ema(0.9))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = tx.update(params, state, params, foreign=1)
        return optax.apply_updates(params, updates), state

    params = jnp.array([1.0, -2.0])
    params, state = step(params, tx.init(params))
    assert_trees_close(params, np.array([0.9, -1.8]), rtol=F64_SAME)
    assert_trees_close(ema_params(state), np.array([0.99, -1.98]), rtol=F64_SAME)


def test_average_is_read_from_partitioned_states():
    tx = optax.partition(
        {"own": optax.chain(optim.sgd(0.1), ema(0.5)), "rest": optim.adam()},
        {"a": "own", "b": "rest"},
    )
    state = tx.init({"a": jnp.array(3.0), "b": jnp.array(1.0)})
    assert ema_params(state)["a"] == 3.0


def test_state_vmaps_over_decays():
    def final(decay):
        average = EMA(decay)
        return average.update(average.init(jnp.array(1.0)), jnp.array(3.0))

    states = jax.vmap(final)(jnp.array([0.0, 0.25, 1.0]))
    assert isinstance(states, EMAState)
    assert states.average.tolist() == [3.0, 2.5, 1.0]


def test_average_is_kept_on_another_device_or_sharding():
    params = {"w": jax.device_put(jnp.arange(4.0), jax.devices()[0])}
    other = jax.devices()[2]
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
    for place, devices in (
        (other, {other}),
        (NamedSharding(mesh, PartitionSpec("x")), set(mesh.devices.flat)),
    ):
        average = EMA(0.5, device=place)
        state = average.init(params)
        state = average.update(state, {"w": params["w"] + 2})
        assert state.average["w"].devices() == devices
        assert state.average["w"].tolist() == [1.0, 2.0, 3.0, 4.0]
        state = average.set(state, params)
        assert state.average["w"].devices() == devices
    assert params["w"].devices() == {jax.devices()[0]}


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.body = nnx.Linear(3, 2, rngs=rngs)
        self.head = nnx.Linear(2, 1, param_dtype=jnp.bfloat16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def test_module_evaluates_with_the_average_and_gets_its_parameters_back():
    model = Net()
    old = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    averaged = jax.tree.map(lambda p: np.asarray(p, np.float32) + 1, old)
    with swap_params(model, averaged) as same:
        assert same is model
        assert model.head.kernel.dtype == jnp.bfloat16
        now = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        expected = jax.tree.map(lambda a, o: a.astype(o.dtype), averaged, old)
        assert_trees_close(now, expected, rtol=0)
    assert_trees_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), old, rtol=0)

    def fail():
        with swap_params(model, {"body": averaged["body"]}):
            assert (model.body.kernel[...] == averaged["body"]["kernel"]).all()
            raise RuntimeError("in evaluation")

    with pytest.raises(RuntimeError, match="in evaluation"):
        fail()
    assert_trees_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), old, rtol=0)


@pytest.mark.standard_promotion("Flax's weights are float32")
def test_variables_are_copied_with_the_average():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=True)(nn.Dense(2)(x))

    model = Net()
    x = np.array([[0.5, -1.0, 2.0]])
    variables = model.init(jax.random.key(0), x)
    averaged = jax.tree.map(lambda p: 2 * p + 1, variables["params"])
    with swap_params(variables, averaged) as swapped:
        assert set(swapped) == set(variables)
        got = model.apply(swapped, x)
    plain = np.asarray(model.apply(variables, x))
    assert np.abs(np.asarray(got) - plain).max() > 0.1
    expected = model.apply({**variables, "params": averaged}, x)
    assert_trees_close(got, expected, rtol=0)


def swap(model, averaged):
    with swap_params(model, averaged):
        raise AssertionError("nothing may be evaluated")


VARIABLES = {"params": {"w": jnp.ones(2), "b": jnp.ones(1)}}
WRONG = {
    "decay": (lambda: ema(1.5), "`decay` must be at least 0 and at most 1; got 1.5"),
    "debiased": (lambda: EMA(1.0, debias=True), "and below 1; got 1.0"),
    "no_params": (
        lambda: ema(0.5).update(jnp.ones(1), ema(0.5).init(jnp.ones(1))),
        "`ema` needs the parameters",
    ),
    "no_ema": (
        lambda: ema_params(optim.sgd().init(jnp.ones(1))),
        "the state of one `ema`; got 0",
    ),
    "two_emas": (
        lambda: ema_params(optax.chain(ema(0.5), ema(0.9)).init(jnp.ones(1))),
        "the state of one `ema`; got 2",
    ),
    "unknown_leaf": (
        lambda: swap(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), {"weight": jnp.ones((2, 1))}),
        "which has no leaf",
    ),
    "shape": (
        lambda: swap(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), {"kernel": jnp.ones((1, 2))}),
        r"has shape \(1, 2\), the model's \(2, 1\)",
    ),
    "missing_leaf": (
        lambda: swap(VARIABLES, {"w": jnp.ones(2)}),
        r"it lacks \['b'\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_calls_raise(call, message):
    with pytest.raises(ValueError, match=message):
        call()
