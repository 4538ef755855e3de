"""higher's interface gives the numbers of `inner_loop`."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import (
    inner_loop,
    innerloop_ctx,
)
from tests.helpers import assert_trees_close, finite_difference_grad
from tests.higher_cases import (
    SGD,
    STEPS,
    TXS,
    apply_fn,
    assert_same,
    mse,
    normal,
    problem,
)


def by_inner_loop(params, lr, batches, val, tx):
    run = inner_loop(
        apply_fn,
        params,
        tx,
        STEPS,
        loss_fn=mse,
        batches=batches,
        hyperparams={"lr": lr},
        history=True,
    )
    loss = mse(apply_fn(run.params, val[0]), val[1])
    # the parameters at time 2 too, so that the history's gradient counts
    loss += run.parameters(time=2)["w"].sum()
    return loss, (run.params, run.opt_state, run.history, run.losses)


def step_without_argument(fmodel, diffopt, batches):
    losses = []
    for x, y in zip(*batches, strict=True):
        diffopt.step(lambda x=x, y=y: mse(fmodel(x), y))
        losses.append(diffopt.losses)
    return jnp.concatenate(losses)


def step_of_parameters(fmodel, diffopt, batches):
    losses = []
    for x, y in zip(*batches, strict=True):
        diffopt.step(lambda params, x=x, y=y: mse(fmodel(x, params=params), y))
        losses.append(diffopt.losses)
    return jnp.concatenate(losses)


def run_without_argument(fmodel, diffopt, batches):
    diffopt.run(lambda batch: mse(fmodel(batch[0]), batch[1]), STEPS, batches)
    return diffopt.losses


def run_of_parameters(fmodel, diffopt, batches):
    def loss_fn(params, batch):
        return mse(apply_fn(params, batch[0]), batch[1])

    diffopt.run(loss_fn, STEPS, batches, adjoint=jmeta.Unroll(checkpoint="nested"))
    return diffopt.losses


def step_then_run(fmodel, diffopt, batches):
    x, y = jax.tree.map(lambda leaf: leaf[0], batches)
    diffopt.step(lambda: mse(fmodel(x), y))
    first = diffopt.losses
    rest = jax.tree.map(lambda leaf: leaf[1:], batches)
    diffopt.run(lambda batch: mse(fmodel(batch[0]), batch[1]), STEPS - 1, rest)
    return jnp.concatenate([first, diffopt.losses])


WAYS = [
    step_without_argument,
    step_of_parameters,
    run_without_argument,
    run_of_parameters,
    step_then_run,
]


def by_context(params, lr, batches, val, tx, way=step_without_argument, **options):
    options = {"copy_initial_weights": False, "override": {"lr": [lr]}} | options
    with innerloop_ctx((apply_fn, params), tx, **options) as (fmodel, diffopt):
        losses = way(fmodel, diffopt, batches)
        times = [fmodel.parameters(time=t) for t in range(STEPS + 1)]
        history = jax.tree.map(lambda *leaves: jnp.stack(leaves), *times)
        loss = mse(fmodel(val[0]), val[1]) + fmodel.parameters(time=2)["w"].sum()
        return loss, (fmodel.fast_params, diffopt.opt_state, history, losses)


@functools.cache
def expected(tx):
    params, batches, val = problem()
    hypergrad = jax.value_and_grad(by_inner_loop, argnums=(0, 1), has_aux=True)
    return jax.jit(lambda *args: hypergrad(*args, TXS[tx]))(params, 0.3, batches, val)


@pytest.mark.parametrize(
    ("way", "tx"),
    [(way, "sgd") for way in WAYS] + [(step_without_argument, "adam")],
)
def test_equals_inner_loop_compiled(way, tx):
    params, batches, val = problem()
    hypergrad = jax.value_and_grad(by_context, argnums=(0, 1), has_aux=True)
    got = jax.jit(lambda *args: hypergrad(*args, TXS[tx], way))(
        params, 0.3, batches, val
    )
    assert_same(got, expected(tx))
    assert abs(got[1][1]) > 1e-3  # the rate matters


@pytest.mark.parametrize("order", ["vmap of grad", "grad of vmap"])
def test_maps_over_tasks(order):
    params, _, _ = problem()
    tasks = (
        (normal(6, 2, STEPS, 5, 3), normal(7, 2, STEPS, 5, 2)),
        (normal(8, 2, 5, 3), normal(9, 2, 5, 2)),
    )

    def loss(meta_loss, params, lr, batches, val):
        return meta_loss(params, lr, batches, val, TXS["sgd"])[0]

    def gradients(meta_loss):
        of_task = functools.partial(loss, meta_loss)
        if order == "vmap of grad":
            grads = jax.vmap(jax.grad(of_task, (0, 1)), (None, None, 0, 0))
            return jax.jit(grads)(params, 0.3, *tasks)
        mapped = jax.vmap(of_task, (None, None, 0, 0))
        mean = lambda *args: mapped(*args).mean()
        return jax.jit(jax.grad(mean, (0, 1)))(params, 0.3, *tasks)

    def one_by_one():
        of_task = jax.jit(jax.grad(functools.partial(loss, by_inner_loop), (0, 1)))
        each = [
            of_task(params, 0.3, *jax.tree.map(lambda leaf, i=i: leaf[i], tasks))
            for i in range(2)
        ]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    reference = one_by_one()
    if order == "grad of vmap":
        reference = jax.tree.map(lambda leaf: leaf.mean(0), reference)
    assert_same(gradients(by_context), reference)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("copy", [True, False])
def test_what_the_gradient_reaches(copy, track):
    def meta_loss(weight, lr):
        with innerloop_ctx(
            (jnp.multiply, weight),
            SGD,
            copy_initial_weights=copy,
            override={"lr": lr},
            track_higher_grads=track,
        ) as (fmodel, diffopt):
            for x in (1.0, 2.0):
                diffopt.step(lambda x=x: (fmodel(x) - 3.0) ** 2)
            return fmodel(2.0)

    value, grads = jax.value_and_grad(meta_loss, argnums=(0, 1))(0.7, 0.1)
    exact = finite_difference_grad(lambda at: meta_loss(*at), (0.7, 0.1))
    assert_same(value, 2 * two_steps(0.7, 0.1))
    assert abs(exact[0]) > 1e-2
    assert abs(exact[1]) > 1e-2
    of_weight = exact[0] if track and not copy else 0.0
    of_lr = exact[1] if track else 0.0
    assert_trees_close(grads, (of_weight, of_lr), rtol=1e-8, atol=0)


def two_steps(w, lr):
    """The weight after a step on (w - 3)^2 and one on (2 w - 3)^2."""
    w = w - lr * 2 * (w - 3)
    return w - lr * 4 * (2 * w - 3)


def test_parameters_inside_the_loss_are_those_differentiated():
    """A penalty on `parameters()`, a pull towards `parameters(time=0)`."""

    def penalised(params, first):
        return params["w"].sum() ** 2 + ((params["b"] - first["b"]) ** 2).sum()

    params, _, (x, y) = problem()

    def with_context(params):
        with innerloop_ctx((apply_fn, params), SGD, copy_initial_weights=False) as (
            fmodel,
            diffopt,
        ):
            for _ in range(2):
                diffopt.step(
                    lambda: (
                        mse(fmodel(x), y)
                        + penalised(fmodel.fast_params, fmodel.parameters(time=0))
                    )
                )
            return fmodel(x).sum()

    def with_inner_loop(params):
        def objective(now):
            return mse(apply_fn(now, x), y) + penalised(now, params)

        return apply_fn(inner_loop(objective, params, SGD, 2).params, x).sum()

    got = jax.jit(jax.value_and_grad(with_context))(params)
    assert_same(got, jax.jit(jax.value_and_grad(with_inner_loop))(params))


def test_first_order_by_grad_callback():
    params, batches, val = problem()

    def first_order(params):
        return by_context(
            params,
            0.3,
            batches,
            val,
            TXS["sgd"],
            grad_callback=jax.lax.stop_gradient,
        )[0]

    def reference(params):
        first = jmeta.Unroll(order=1)
        run = inner_loop(
            apply_fn,
            params,
            TXS["sgd"],
            STEPS,
            loss_fn=mse,
            batches=batches,
            hyperparams={"lr": 0.3},
            adjoint=first,
            history=True,
        )
        loss = mse(apply_fn(run.params, val[0]), val[1])
        return loss + run.parameters(time=2)["w"].sum()

    got = jax.jit(jax.grad(first_order))(params)
    assert_same(got, jax.jit(jax.grad(reference))(params))
    assert jnp.abs(got["w"] - expected("sgd")[1][0]["w"]).max() > 1e-3


def test_inside_another_loss():
    """An inner loop in the loss of a step: its own model, its own optimizer."""

    def meta_loss(weight):
        with innerloop_ctx((jnp.multiply, weight), SGD, copy_initial_weights=False) as (
            outer,
            diffopt,
        ):

            def loss_fn():
                with innerloop_ctx((jnp.multiply, 1.0), SGD) as (inner, inneropt):
                    inneropt.step(lambda: (inner(1.0) - outer(1.0)) ** 2)
                    return inner.fast_params**2

            diffopt.step(loss_fn)
            return diffopt.step(loss_fn)

    # inner: 1 - 0.2 (1 - w) = 0.8 + 0.2 w; outer: w - 0.04 (0.8 + 0.2 w)
    step = lambda w: w - 0.04 * (0.8 + 0.2 * w)
    got = jax.jit(jax.value_and_grad(meta_loss))(0.7)
    assert_same(got, (step(step(0.7)), (1 - 0.04 * 0.2) ** 2))
