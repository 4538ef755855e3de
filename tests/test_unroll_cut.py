"""`last` and `order=1` against loops by hand with the cuts written out."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import Unroll
from tests.cases import PLAIN, outer, problems
from tests.helpers import F64_SAME, assert_trees_close

STEPS = 5
CUTS = [
    Unroll(last=last, checkpoint=checkpoint, mixed=mixed)
    for last, checkpoint, mixed in [
        (0, "step", True),
        (1, "step", True),
        (2, None, False),
        (3, "nested", True),
        (4, "nested", False),
        (5, "step", True),
        (9, "nested", True),
    ]
]
FIRST_ORDER = [
    Unroll(order=1),
    Unroll(order=1, checkpoint=None),
    Unroll(order=1, checkpoint="nested", mixed=False),
    Unroll(order=1, last=2),
]


def arguments():
    return problems()["quadratic"].args


def objective(args, w):
    return 0.5 * jnp.sum(args["curvature"] * (w - args["center"]) ** 2)


def through_loop(adjoint, args):
    """Settings given to the constructor: they live in the optimizer's state."""
    tx = jmeta.optim.sgd(lr=args["lr"], momentum=args["momentum"])
    run = jmeta.inner_loop(
        functools.partial(objective, args), args["params"], tx, STEPS, adjoint=adjoint
    )
    return outer(run.params) + jnp.sum(run.losses)


def by_hand(adjoint, args):
    w, buffer, losses = args["params"], jnp.zeros(3), 0.0
    cut = STEPS if adjoint.last is None else adjoint.last
    for t in range(STEPS):
        if t <= STEPS - cut and cut < STEPS:
            w, buffer, losses = jax.lax.stop_gradient((w, buffer, losses))
        loss, grad = jax.value_and_grad(functools.partial(objective, args))(w)
        if adjoint.order == 1:
            grad = jax.lax.stop_gradient(grad)
        losses += loss
        buffer = args["momentum"] * buffer + grad
        w = w - args["lr"] * buffer
    if cut == 0:
        w, losses = jax.lax.stop_gradient((w, losses))
    return outer(w) + losses


@pytest.mark.parametrize("adjoint", CUTS, ids=str)
def test_last(adjoint):
    args = arguments()
    meta_loss = functools.partial(through_loop, adjoint)
    loss, found = jax.jit(jax.value_and_grad(meta_loss))(args)
    expected = jax.grad(functools.partial(by_hand, adjoint))(args)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=1e-14)
    assert_trees_close(loss, by_hand(adjoint, args), rtol=F64_SAME)
    whole = adjoint.last >= STEPS
    assert bool(jnp.any(found["params"] != 0)) == whole
    assert bool(found["lr"] != 0) == (adjoint.last > 0)


@pytest.mark.parametrize("adjoint", FIRST_ORDER, ids=str)
def test_first_order(adjoint):
    args = arguments()
    names = ("params", "lr", "momentum")
    own = {name: args[name] for name in names}

    def grads(f):
        return jax.value_and_grad(lambda own: f(adjoint, args | own))(own)

    expected = grads(by_hand)
    assert_trees_close(jax.jit(lambda: grads(through_loop))(), expected, F64_SAME)
    exact = jax.grad(lambda own: through_loop(PLAIN, args | own))(own)
    for name in names:
        assert jnp.any(jnp.abs(exact[name] - expected[1][name]) > 1e-3)


@pytest.mark.parametrize("override", [True, False])
def test_last_keeps_settings(override):
    """A setting acts in the last steps however it is given: also as a schedule."""

    def meta_loss(lr, adjoint):
        schedule = lambda step: lr * jnp.float64(1 + step)
        tx = jmeta.optim.sgd(lr=0.1 if override else schedule)
        hyperparams = {"lr": schedule} if override else None
        run = jmeta.inner_loop(
            lambda w: w**2, 1.0, tx, 3, hyperparams=hyperparams, adjoint=adjoint
        )
        return run.params

    # w3 = w2 (1 - 6 lr), with w2 = (1 - 2 lr) (1 - 4 lr) a constant
    expected = -6 * (1 - 0.2) * (1 - 0.4)
    found = jax.jit(jax.grad(meta_loss), static_argnums=1)(0.1, Unroll(last=1))
    assert_trees_close(found, expected, rtol=F64_SAME)


def first_order_loss(last, x, d):
    """With `x` as frozen parameter, capture, batch, or slices of a batch; or `d`."""

    def loss(way, adjoint=Unroll(order=1, last=last)):  # noqa: B008
        def objective(w, *data):
            parts = {
                "captured": x,
                "frozen": w["x"],
                **dict(zip("b", data, strict=False)),
            }
            part = parts.get(way, data[0] if data else 1.0)
            return jnp.sum((w["w"] * part - 1.0) ** 2)

        return jmeta.inner_loop(
            objective,
            {"w": jnp.ones(()), "x": x if way == "frozen" else 1.0},
            jmeta.optim.sgd(0.1),
            3,
            batch=x if way == "batch" else None,
            batches=x * jnp.ones(3) if way == "batches" else None,
            perturbations={"w": d, "x": None} if way == "perturbation" else None,
            trainable=lambda path: path == ("w",),
            adjoint=adjoint,
        ).params["w"]

    return loss


WAYS = ["captured", "frozen", "batch", "batches", "perturbation"]


@pytest.mark.parametrize("last", [None, 2])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "frozen"])
def test_first_order_refuses_what_acts_through_the_gradient(way, last):
    def f(x, d):
        return first_order_loss(last, x, d)(way)

    at = (2.0, jnp.zeros(4))
    argnums = 1 if way == "perturbation" else 0
    grad = jax.grad(f, argnums=argnums)
    batched = jax.vmap(grad, in_axes=(0, None))
    several = jax.grad(
        lambda *args: jnp.sum(jax.vmap(f, (0, None))(*args)), argnums=argnums
    )
    xs = (jnp.array([2.0, 3.0]), at[1])
    calls = [(grad, at), (jax.jit(grad), at), (batched, xs), (several, xs)]
    for call, args in calls:
        with pytest.raises(ValueError, match=r"With `order=1` .* or a perturbation"):
            call(*args)
    assert jnp.isfinite(jax.jit(f)(*at))


@pytest.mark.parametrize("way", WAYS)
def test_first_order_allows_what_is_not_differentiated(way):
    def f(w, x):
        return w * first_order_loss(None, x, jnp.zeros(4))(way)

    grad = jax.jit(jax.vmap(jax.grad(f), in_axes=(None, 0)))
    xs = jnp.array([2.0, 3.0])
    expected = jax.vmap(lambda x: f(1.0, x))(xs)
    assert_trees_close(grad(1.0, xs), expected, rtol=F64_SAME)


def test_first_order_reaches_frozen_parameters_past_the_loop():
    def meta_loss(params, cut):
        def objective(params):
            body = cut(params["body"])
            return (jnp.tanh(0.7 * body) * params["head"] - 1.0) ** 2

        tx, order1 = jmeta.optim.sgd(0.1), Unroll(order=1)
        run = jmeta.inner_loop(
            objective, params, tx, 2, trainable=lambda p: p == ("head",), adjoint=order1
        )
        return jnp.tanh(0.3 * run.params["body"]) * run.params["head"]

    params = {"body": jnp.array(0.4), "head": jnp.array(0.5)}
    grad = jax.jit(jax.grad(meta_loss), static_argnums=1)
    found = grad(params, lambda body: body)
    assert_trees_close(found, grad(params, jax.lax.stop_gradient), rtol=F64_SAME)
    assert found["body"] != 0.0
