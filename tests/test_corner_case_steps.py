"""The corners of higher that are about single steps; see the table in README.md."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jmeta
from jmeta import inner_loop, innerloop_ctx, make_functional
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    F64_TORCH,
    assert_trees_close,
    central_difference,
)
from tests.optimizer_cases import (
    assert_hypergradients,
    floats,
    hypergradient,
    problem,
    ravel,
    transform,
)
from tests.reference.read import case, cases

ROWS = {row["name"]: row for row in cases("corner_cases")}
SGD = jmeta.optim.sgd(lr=0.1, momentum=0.5)


def of_kind(kind: str) -> list[str]:
    return [name for name, row in ROWS.items() if row["kind"] == kind]


@pytest.mark.parametrize("name", of_kind("clip"))
def test_clipping_active_and_inactive(name):
    row = ROWS[name]
    run = hypergradient("mlp", row["optimizer"], clip=True)
    result = run(row["steps"], row["settings"], max_norm=row["max_norm"])
    assert_hypergradients(result, row)
    active = row["unclipped_norms"] > row["max_norm"]
    expected = {"active": {True}, "inactive": {False}, "mixed": {True, False}}
    assert set(active.tolist()) == expected[name.split("/")[1]]


@pytest.mark.parametrize("name", of_kind("per_step"))
def test_overrides_of_single_steps_do_not_stick(name):
    row = ROWS[name]
    task, tx = problem("mlp"), transform(row["optimizer"])
    own, at_step = floats(row["settings"]), row["settings_per_step"]
    names = sorted({k for step in at_step for k in step})
    arrays = {
        k: jnp.array([float(step.get(k, own[k])) for step in at_step]) for k in names
    }

    def outer(settings, params):
        run = inner_loop(
            task.inner,
            params,
            tx,
            row["steps"],
            hyperparams=settings,
            opt_state=tx.init(params)._replace(hyperparams=own_state),
        )
        return task.outer(run.params), run

    own_state = jax.tree.map(jnp.asarray, own)
    gradient = jax.jit(jax.value_and_grad(outer, argnums=(0, 1), has_aux=True))
    (value, run), (d_settings, d_params) = gradient(own | arrays, task.start)
    atol = 1e-11 * row["outer"]
    close = lambda a, b: assert_trees_close(a, b, rtol=F64_DIFFERENCE, atol=atol)
    assert_trees_close(value, row["outer"], rtol=F64_TORCH)
    assert_trees_close(run.params, ravel(row["final"]), rtol=F64_TORCH)
    close(d_params, ravel(row["d_params"]))
    # the transform's own values are as before
    assert_trees_close(run.opt_state.hyperparams, own, rtol=0.0)
    for k, recorded in floats(row["d_settings"]).items():
        if k not in names:
            close(d_settings[k], recorded)
            continue
        # a step without an override has the derivative of the own value
        free = [t for t, step in enumerate(at_step) if k not in step]
        close(sum(d_settings[k][t] for t in free), recorded)
        for t, derivatives in enumerate(row["d_settings_per_step"]):
            # None where torch jumps
            if derivatives.get(k) is not None:
                close(d_settings[k][t], jnp.asarray(derivatives[k]))


def test_branching_keeps_the_step_counter():
    """Nine steps are four and five; afresh, the bias correction is another."""
    task = problem("mlp")
    tx = jmeta.optim.adam(lr=0.03, betas=(0.8, 0.95), eps=1e-2)

    @jax.jit
    def both(betas):
        override = {"betas": betas}
        whole = inner_loop(task.inner, task.start, tx, 9, hyperparams=override)
        first = inner_loop(task.inner, task.start, tx, 4, hyperparams=override)
        branch = lambda state: inner_loop(
            task.inner, first.params, tx, 5, hyperparams=override, opt_state=state
        )
        return whole, branch(first.opt_state), branch(None)

    whole, branched, afresh = both((0.7, 0.9))
    assert_trees_close(branched.params, whole.params, rtol=F64_SAME)
    assert_trees_close(branched.opt_state, whole.opt_state, rtol=F64_SAME)
    assert branched.opt_state.step == 9
    assert np.abs(afresh.params - whole.params).max() > 1e-3


def test_generated_initial_weights():
    """The gradient goes on into the network that made them: recorded . Jacobian."""
    row = case("hypergradients", "sgd_momentum/mlp/T5")
    task, tx = problem("mlp"), transform("SGD")
    mixing = jnp.asarray(np.random.default_rng(1).normal(size=(task.start.size, 3)))

    def outer(code):
        generated = task.start + jnp.sin(mixing @ code)
        settings = floats(row["settings"])
        run = inner_loop(task.inner, generated, tx, 5, hyperparams=settings)
        return task.outer(run.params)

    value, grad = jax.jit(jax.value_and_grad(outer))(jnp.zeros(3))
    assert_trees_close(value, row["outer"], rtol=F64_TORCH)
    expected = ravel(row["d_params"]) @ mixing
    assert_trees_close(grad, expected, rtol=F64_DIFFERENCE)


def batch_norm(params, state, x):
    """torch's BatchNorm in train mode; its running variance is unbiased."""
    mean, var = x.mean(0), x.var(0)
    state = {
        "mean": 0.9 * state["mean"] + 0.1 * mean,
        "var": 0.9 * state["var"] + 0.1 * var * len(x) / (len(x) - 1),
    }
    return params["scale"] * (x - mean[None]) / jnp.sqrt(var + 1e-5)[None], state


def test_buffers_are_updated_and_carry_no_gradient():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, 3)))
    start = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
    weights = {"in": jnp.eye(3) + 0.1, "scale": jnp.array(1.3)}

    def apply_fn(params, state, x):
        return batch_norm(params, state, jnp.tanh(x @ params["in"]))

    def outer(params, cut):
        run = inner_loop(
            apply_fn,
            params,
            SGD,
            3,
            loss_fn=lambda outputs, y: jnp.mean((outputs - y) ** 2),
            batch=(x, x**2),
            state=start,
        )
        # evaluated with the running statistics
        mean, var = jax.tree.map(cut, (run.state["mean"], run.state["var"]))
        hidden = jnp.tanh(x @ run.params["in"])
        outputs = run.params["scale"] * (hidden - mean[None]) / jnp.sqrt(var)[None]
        return jnp.mean((outputs - x**2) ** 2), run

    gradient = jax.jit(jax.value_and_grad(outer, has_aux=True), static_argnums=1)
    (_, run), grads = gradient(weights, lambda s: s)
    constants = gradient(weights, jax.lax.stop_gradient)[1]
    assert_trees_close(grads, constants, rtol=0.0)
    # the buffers by hand, at the parameters of each step
    state, params, opt_state = start, weights, SGD.init(weights)
    for _ in range(3):
        loss = lambda p, s=state: jnp.mean((apply_fn(p, s, x)[0] - x**2) ** 2)
        grad = jax.grad(loss)(params)
        state = apply_fn(params, state, x)[1]
        updates, opt_state = SGD.update(grad, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
    assert_trees_close(run.state, state, rtol=F64_TORCH)
    assert_trees_close(start["var"], jnp.ones(3), rtol=0.0)


class Net(nnx.Module):
    def __init__(self):
        self.encoder = nnx.Linear(3, 4, param_dtype=float, rngs=nnx.Rngs(0))
        self.head = nnx.Linear(4, 2, param_dtype=float, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.head(self.encoder(x))


X = jnp.asarray(np.random.default_rng(3).normal(size=(5, 3)))


def open_context(**options: Any) -> Any:
    model = Net()
    return model, *innerloop_ctx(model, SGD, **options).__enter__()


def test_submodule_calls():
    """A loss on the submodule alone moves it and nothing else."""
    model, fmodel, diffopt = open_context(copy_initial_weights=False)
    encode, _ = make_functional(model.encoder)
    before = fmodel.fast_params
    diffopt.step(lambda: jnp.mean(encode(fmodel.fast_params["encoder"], X) ** 2))
    after = fmodel.fast_params
    assert_trees_close(after["head"], before["head"], rtol=0.0)
    moved = after["encoder"]["kernel"] - before["encoder"]["kernel"]
    assert np.abs(moved).max() > 1e-3
    expected = X @ after["encoder"]["kernel"] + after["encoder"]["bias"][None]
    assert_trees_close(encode(after["encoder"], X), expected, rtol=F64_SAME)


def test_direct_replacement_of_one_fast_weight():
    """It takes part in the next steps, and is differentiated."""

    def outer(kernel):
        _, fmodel, diffopt = open_context()
        loss = lambda: jnp.mean((fmodel(X) - 1.0) ** 2)
        diffopt.step(loss)
        fast = fmodel.fast_params
        fmodel.fast_params = {**fast, "head": {**fast["head"], "kernel": kernel}}
        diffopt.step(loss)
        # times: initial, after a step, replaced, after another step
        return jnp.mean(fmodel(X) ** 2), fmodel.parameters(time=2)["head"]["kernel"]

    kernel = jnp.asarray(np.random.default_rng(4).normal(size=(4, 2)))
    (_, kept), grad = jax.jit(jax.value_and_grad(outer, has_aux=True))(kernel)
    assert_trees_close(kept, kernel, rtol=0.0)
    direction = jnp.cos(jnp.arange(8.0)).reshape(4, 2)
    value = jax.jit(lambda kernel: outer(kernel)[0])
    expected = central_difference(value, kernel, direction)
    assert_trees_close(jnp.vdot(grad, direction), expected, rtol=F64_DIFFERENCE)


def test_without_track_higher_grads():
    """The same numbers, and no gradient through the steps."""

    def outer(lr, track):
        _, fmodel, diffopt = open_context(
            track_higher_grads=track, override={"lr": [lr]}
        )
        for _ in range(2):
            diffopt.step(lambda: jnp.mean((fmodel(X) - 1.0) ** 2))
        return jnp.mean(fmodel(X) ** 2)

    gradient = jax.jit(jax.value_and_grad(outer), static_argnums=1)
    tracked, slope = gradient(0.2, True)
    untracked, none = gradient(0.2, False)
    assert_trees_close(untracked, tracked, rtol=F64_SAME)
    assert abs(slope) > 1e-3
    assert none == 0
