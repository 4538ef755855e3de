"""Forward mode gives reverse mode's numbers, under every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import ForwardMode, PerLeaf, PerStep
from tests.cases import PLAIN, mlp, mlp_params
from tests.helpers import (
    F64_DIFFERENCE,
    F64_SAME,
    assert_trees_close,
    central_difference,
    finite_difference_grad,
)

# entries that cancel are only as small as rounding lets them be
ROUNDING = 1e-13

CURVATURE, CENTER = jnp.array([0.5, 1.2, 0.8]), jnp.array([0.3, -1.0, 0.6])
STEPS = 4


def toy(adjoint, lr, momentum):
    """Curved in the settings; the derivative also comes from losses and buffer."""
    objective = lambda w: jnp.sum(jnp.cosh(CURVATURE * (w - CENTER)))
    run = jmeta.inner_loop(
        objective, jnp.ones(3), jmeta.optim.sgd(), STEPS, history=True,
        hyperparams={"lr": lr, "momentum": momentum}, adjoint=adjoint,
    )  # fmt: skip
    kept = jnp.sum(run.losses**2) + jnp.sum(run.history[2] ** 3)
    return kept + jnp.sum(run.params * run.opt_state.momentum_buffer)


AT = (0.3, 0.4)


def batched(adjoint, fun):
    """`fun` of the toy, at three settings at once."""
    return lambda lr, momentum: jax.vmap(
        fun(functools.partial(toy, adjoint)), (0, None)
    )(jnp.array([0.5, 1.0, 2.0]) * lr, momentum)


def conditional(adjoint, lr, momentum):
    trained = lambda lr: toy(adjoint, lr, momentum)
    return jax.lax.cond(lr > 0.1, trained, lambda lr: lr, lr)


def scanned(adjoint, lr, momentum):
    """A loop of loops: each takes the rate that the one before gave."""

    def body(lr, x):
        new = 0.3 * jnp.tanh(0.1 * toy(adjoint, lr, momentum * x))
        return new, new

    lr, rates = jax.lax.scan(body, lr, jnp.array([1.0, 0.5]))
    return lr + jnp.sum(rates**2)


def mapped(adjoint, lr, momentum):
    rates = lr * jnp.array([0.5, 1.0])
    return jnp.sum(jax.lax.map(lambda lr: toy(adjoint, lr, momentum), rates))


def both(derivative):
    """A derivative with respect to the two settings."""
    return lambda fun: derivative(fun, argnums=(0, 1))


FUNCTIONS = {
    "grad": lambda a: both(jax.grad)(functools.partial(toy, a)),
    "jacfwd": lambda a: both(jax.jacfwd)(functools.partial(toy, a)),
    "jvp": lambda a: lambda *at: jax.jvp(functools.partial(toy, a), at, (0.7, -1.3)),
    "hessian": lambda a: both(jax.hessian)(functools.partial(toy, a)),
    "grad of grad": lambda a: both(jax.jacrev)(jax.grad(functools.partial(toy, a))),
    "jit": lambda a: both(jax.grad)(jax.jit(functools.partial(toy, a))),
    "checkpoint": lambda a: both(jax.grad)(jax.checkpoint(functools.partial(toy, a))),
    "vmap of grad": lambda a: batched(a, both(jax.grad)),
    "vmap of jvp": lambda a: batched(
        a, lambda f: lambda *at: jax.jvp(f, at, (0.7, -1.3))[1]
    ),
    "grad of vmap": lambda a: both(jax.grad)(
        lambda *at: jnp.sum(batched(a, lambda f: f)(*at) ** 2)
    ),
    "map": lambda a: both(jax.grad)(functools.partial(mapped, a)),
    "scan": lambda a: both(jax.grad)(functools.partial(scanned, a)),
    "cond": lambda a: both(jax.grad)(functools.partial(conditional, a)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transformations(name):
    found = jax.jit(FUNCTIONS[name](ForwardMode()))(*AT)
    expected = jax.jit(FUNCTIONS[name](PLAIN))(*AT)
    assert all(jnp.all(x != 0) for x in jax.tree.leaves(expected))
    assert_trees_close(found, expected, rtol=F64_SAME, atol=ROUNDING)


def test_eager_and_by_differences():
    found = jax.grad(toy, argnums=(1, 2))(ForwardMode(), *AT)
    fun = jax.jit(lambda at: toy(PLAIN, *at))
    assert_trees_close(found, finite_difference_grad(fun, AT), rtol=F64_DIFFERENCE)


def network(adjoint, x):
    """Everything that a loop can have, and derivatives that come in everywhere."""
    rng = np.random.default_rng(0)
    batches = jnp.asarray(rng.normal(size=(STEPS, 5, 3))), jnp.arange(STEPS * 5)
    batches = batches[0], batches[1].reshape(STEPS, 5) % 2

    def apply_fn(params, state, inputs, *, key):
        keep = jax.random.bernoulli(key, 0.7, (5, 1)).astype(float)
        outputs = mlp(params, x["scale"] * inputs * keep) * (1 + 0.1 * state["count"])
        return outputs, {"count": state["count"] + 1, "seen": state["seen"] + 5}

    def loss_fn(outputs, labels):
        rows = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], 1)
        hits = jnp.sum(outputs.argmax(-1) == labels)
        return -jnp.mean(rows), {"hits": hits, "rows": rows}

    params = mlp_params()
    params["w2"] = params["w2"] * x["frozen"]
    run = jmeta.inner_loop(
        apply_fn, params, jmeta.optim.adam(eps=1e-3), STEPS, loss_fn=loss_fn,
        batches=batches, key=jax.random.key(3), has_aux=True,
        state={"count": 0.0, "seen": 0}, history=True, adjoint=adjoint,
        trainable=lambda path: path != ("w2",),
        hyperparams={
            "lr": lambda t: x["base"] * x["decay"] ** jnp.float64(t),
            "betas": (x["beta"], 0.99),
            "weight_decay": x["per_step"],
        },
    )  # fmt: skip
    out = sum(jnp.sum(p**3) for p in jax.tree.leaves(run.params))
    out += jnp.sum(run.aux["rows"] ** 2) + jnp.sum(run.history["b1"] ** 2)
    moments = [m for m in jax.tree.leaves(run.opt_state) if m.dtype == jnp.float64]
    return out + sum(jnp.sum(m) for m in moments), (run.aux["hits"], run.state)


def inputs():
    return {
        "scale": jnp.asarray(1.1),
        "frozen": jnp.asarray(0.9),
        "base": jnp.asarray(0.1),
        "decay": jnp.asarray(0.8),
        "beta": jnp.asarray(0.6),
        "per_step": jnp.array([0.1, 0.2, 0.3, 0.0]),
    }


def test_a_loop_with_everything():
    fun = lambda a: jax.jit(
        jax.value_and_grad(functools.partial(network, a), has_aux=True)
    )
    found, expected = fun(ForwardMode())(inputs()), fun(PLAIN)(inputs())
    assert_trees_close(found, expected, rtol=F64_SAME, atol=1e-12)
    direction = jax.tree.map(lambda x: jnp.cos(x + 1), inputs())
    along = sum(jnp.vdot(expected[1][k], direction[k]) for k in direction)
    value = jax.jit(lambda x: network(PLAIN, x)[0])
    slope = central_difference(value, inputs(), direction)
    assert_trees_close(along, slope, rtol=F64_DIFFERENCE)


def counted(name):
    """A function of arrays, and how many numbers it makes the loop carry."""
    rates, tree = jnp.full(STEPS, 0.1), {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    objective = lambda p: jnp.sum(jnp.cosh(p["a"])) + jnp.sum(p["b"] ** 2)

    def loop(hyperparams, params=tree, batch=None, objective=objective, tx=None):
        tx = tx or jmeta.optim.sgd()
        run = lambda limit: jmeta.inner_loop(
            objective, params, tx, STEPS, hyperparams=hyperparams, batch=batch,
            adjoint=ForwardMode(limit=limit),
        )  # fmt: skip
        return lambda limit: jnp.sum(run(limit).params["a"] ** 2)

    match name:
        case "scalar":
            return lambda lr: loop({"lr": lr}), 0.1, "1 in captured"
        case "per step":
            return lambda lr: loop({"lr": lr}), rates, f"{STEPS} in per_step"
        case "PerLeaf":
            return lambda lr: loop({"lr": PerLeaf(lr)}), tree, "8 in captured"
        case "PerStep":
            each = {"a": rates, "b": rates}
            return (
                lambda lr: loop({"lr": PerStep(PerLeaf(lr))}),
                each,
                f"{2 * STEPS} in per_step",
            )
        case "callable":
            knots = jnp.array([0.1, 0.2, 0.3])
            schedule = lambda k: lambda t: k[jnp.minimum(t, 2)]
            return lambda k: loop({"lr": schedule(k)}), knots, "3 in captured"
        case "params":
            return lambda p: loop({"lr": 0.1}, p), tree, "8 in params"
        case "constructor":
            tx = jmeta.optim.sgd
            return lambda lr: loop({}, tx=tx(lr=lr)), 0.1, "1 in opt_state"
        case "batch":
            learned = lambda p, c: jnp.sum(jnp.cosh(p["a"] - c)) + jnp.sum(p["b"])
            return (
                lambda c: loop({"lr": 0.1}, batch=c, objective=learned),
                jnp.ones((2, 3)),
                "6 in captured",
            )
        case "complex":
            learned = lambda z: lambda p: jnp.sum(jnp.abs(z * p["a"] - 1) ** 2)
            return (
                lambda z: loop({}, objective=learned(jax.lax.complex(*z))),
                (jnp.asarray(1.0), jnp.asarray(0.3)),
                "2 in captured",
            )
        case _:
            both = lambda x: loop({"lr": x["lr"]}, x["params"])
            at = {"lr": rates, "params": tree}
            return both, at, rf"8 in params, {STEPS} in per_step"


COUNTED = [
    "scalar", "per step", "PerLeaf", "PerStep", "callable", "params", "constructor",
    "batch", "complex", "several",
]  # fmt: skip


@pytest.mark.standard_promotion("mixes real and complex numbers")
@pytest.mark.parametrize("name", COUNTED)
def test_the_limit_counts_what_is_differentiated(name):
    fun, at, parts = counted(name)
    total = sum(int(n) for n in parts.split() if n.isdigit())
    grad = lambda limit: jax.grad(lambda x: fun(x)(limit))
    jax.eval_shape(grad(total), at)
    message = rf"got {total} \({parts}\), more than `limit`={total - 1}. Use `Unroll"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(grad(total - 1), at)
    # undifferentiated numbers are free, and each of several tasks counts for itself
    jax.eval_shape(lambda x: fun(x)(0), at)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), at)
    jax.eval_shape(jax.vmap(grad(total)), two)
    jax.eval_shape(
        jax.grad(lambda x: jnp.sum(jax.vmap(lambda x: fun(x)(total))(x))), two
    )


@pytest.mark.standard_promotion("mixes real and complex numbers")
def test_complex_values_carry_derivatives():
    def meta_loss(adjoint, re, im):
        c = jax.lax.complex(re, im)
        objective = lambda w: (jnp.abs(w * c - (1 + 2j)) ** 2, w * c)
        run = jmeta.inner_loop(
            objective, 0.5, jmeta.optim.sgd(0.1), 3, has_aux=True, adjoint=adjoint
        )
        return run.params + jnp.sum(run.aux.imag)

    grad = jax.jit(jax.grad(meta_loss, argnums=(1, 2)), static_argnums=0)
    at = jnp.asarray(1.0), jnp.asarray(0.3)
    assert_trees_close(grad(ForwardMode(), *at), grad(PLAIN, *at), rtol=F64_SAME)


def test_memory_does_not_grow_with_steps():
    params = mlp_params(hidden=16)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 3)))

    def temporaries(steps):
        def meta_loss(lr, momentum):
            run = jmeta.inner_loop(
                lambda p, x: jnp.mean(mlp(p, x) ** 4), params, jmeta.optim.sgd(),
                steps, batch=x, hyperparams={"lr": lr, "momentum": momentum},
                adjoint=ForwardMode(),
            )  # fmt: skip
            return jnp.mean(mlp(run.params, x) ** 2)

        grad = jax.jit(jax.grad(meta_loss, argnums=(0, 1)))
        analysis = grad.lower(0.1, 0.5).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    short, long = temporaries(16), temporaries(4096)
    # the losses and their two tangents are the only arrays with an axis of steps
    assert long - short <= 4 * 8 * (4096 - 16)
