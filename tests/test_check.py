"""`check_hypergrad` passes what is right and names what is wrong."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import PerLeaf, Unroll, check_hypergrad
from jmeta.diagnose import Verdict

STEPS = 5
cut = jax.lax.stop_gradient

generator = np.random.default_rng(0)
W = jnp.asarray(generator.normal(size=3))
X = jnp.asarray(generator.normal(size=(6, 3)))
Y = jnp.asarray(generator.normal(size=6))


def mse(w, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ w) - y) ** 2)


def problem(loss=mse, tx=jmeta.optim.sgd, names=("lr",), outer=None, **options):
    """`make` of a meta-loss of the initial parameters and settings by name."""

    def make(adjoint):
        def meta_loss(w, settings):
            hyperparams = {name: settings[name] for name in names}
            run = jmeta.inner_loop(
                functools.partial(loss, settings) if loss is not mse else mse,
                w,
                tx(),
                STEPS,
                batch=(X, Y),
                hyperparams=hyperparams,
                **{"adjoint": adjoint, **options},
            )
            return mse(run.params, (X[:4], Y[:4] + 1)) if outer is None else outer(run)

        return meta_loss

    return make


def learned_loss(settings, w, batch):
    x, y = batch
    h = jnp.tanh(x @ w) - y
    return jnp.mean(settings["a"] * h**2 + settings["b"] * jnp.cos(h))


def weighted(settings, w, batch):
    x, y = batch
    return jnp.mean(jax.nn.sigmoid(settings["weights"]) * (x @ w - y) ** 2)


def decayed(settings, w, batch):
    return mse(w, batch) + jnp.exp(settings["log_decay"]) * jnp.sum(w**2)


optim = jmeta.optim
RIGHT = {
    "sgd": (problem(), {"lr": 0.2}),
    "momentum": (problem(names=("lr", "momentum")), {"lr": 0.2, "momentum": 0.9}),
    "momentum 0": (problem(names=("lr", "momentum")), {"lr": 0.2, "momentum": 0.0}),
    "adam": (
        problem(tx=optim.adam, names=("lr", "betas")),
        {"lr": 0.1, "betas": (0.9, 0.99)},
    ),
    "rmsprop": (
        problem(tx=optim.rmsprop, names=("lr", "alpha")),
        {"lr": 0.1, "alpha": 0.9},
    ),
    "lr per step": (problem(), {"lr": jnp.linspace(0.3, 0.1, STEPS)}),
    "lr per leaf": (
        problem(
            loss=lambda settings, w, batch: mse(w, batch),
            tx=lambda: optim.sgd(),
            names=(),
        ),
        None,
    ),
    "learned loss": (
        problem(learned_loss, names=()),
        {"a": jnp.array(0.7), "b": jnp.array(0.3)},
    ),
    "data weights": (problem(weighted, names=()), {"weights": 0.3 * Y}),
    "learned decay": (problem(decayed, names=()), {"log_decay": jnp.array(-1.0)}),
    "optax": (
        problem(
            tx=lambda: optax.chain(
                optax.clip_by_global_norm(0.5),
                optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
            ),
            names=("learning_rate",),
        ),
        {"learning_rate": 0.1},
    ),
    "nested": (problem(adjoint=Unroll(mixed=False, checkpoint="nested")), {"lr": 0.2}),
}


def rates_per_leaf(adjoint):
    def meta_loss(w, settings):
        run = jmeta.inner_loop(
            mse,
            w,
            optim.sgd(),
            STEPS,
            batch=(X, Y),
            hyperparams={"lr": PerLeaf(settings["lr"])},
            adjoint=adjoint,
        )
        return mse(run.params, (X[:4], Y[:4] + 1))

    return meta_loss


RIGHT["lr per leaf"] = (rates_per_leaf, {"lr": jnp.array([0.1, 0.2, 0.3])})


def marked(name):
    mixes = pytest.mark.standard_promotion("optax's Adam mixes dtypes")
    return pytest.param(name, marks=mixes if name == "optax" else ())


@pytest.mark.parametrize("name", [*map(marked, RIGHT)])
def test_right_ones_are_ok(name):
    make, settings = RIGHT[name]
    found = check_hypergrad(make, W, settings)
    assert found.ok, str(found)
    assert len(found.leaves) == 1 + len(jax.tree.leaves(settings))
    for leaf in found.leaves:
        assert leaf.reverse != 0
        assert leaf.forward is not None
        assert leaf.error < 1e-6 * max(1, abs(leaf.reverse))
        assert (leaf.step, leaf.reason) == (None, "")


def by_name(found):
    return {
        leaf.name.split("'")[1] if "'" in leaf.name else "w": leaf
        for leaf in found.leaves
    }


def test_what_cannot_reach_is_structurally_zero():
    settings = {"lr": 0.2, "idle": 1.0, "stair": 0.5}

    def loss(settings, w, batch):
        return mse(w, batch) * (1 + settings["stair"].astype(int).astype(float))

    found = by_name(check_hypergrad(problem(loss), W, settings))
    assert found["lr"].verdict is found["w"].verdict is Verdict.OK
    assert found["idle"].verdict is found["stair"].verdict is Verdict.STRUCTURALLY_ZERO
    assert found["idle"].reason == "the loss does not use it"
    assert re.match(
        r"cut by integer \(test_check.py:\d+ in loss\)", found["stair"].reason
    )


def test_a_stop_gradient_in_the_wrong_place():
    """Of a value that is cut off wholly, and of one that is cut off in part."""
    settings = {"lr": 0.2, "whole": jnp.array(0.7), "part": jnp.array(0.4)}

    def loss(settings, w, batch):
        scale = cut(settings["whole"]) + settings["part"] * cut(settings["part"])
        return mse(w, batch) * scale

    found = by_name(check_hypergrad(problem(loss), W, settings))
    for name in ("whole", "part"):
        assert found[name].verdict is Verdict.MISMATCH
        assert re.search(r"cut by stop_gradient \(test_check.py", found[name].reason)
    assert found["whole"].reverse == 0 != found["whole"].difference
    assert found["part"].reverse == pytest.approx(found["part"].difference / 2)
    assert found["lr"].verdict is found["w"].verdict is Verdict.OK


FIRST_ORDER = {
    "callback": problem(grad_callback=cut),
    "inner gradient": problem(
        # its derivative is the gradient's, the gradient itself does not move with w
        lambda settings, w, batch: jnp.vdot(cut(jax.grad(mse)(w, batch)), w)
    ),
    "order=1": problem(adjoint=Unroll(order=1)),
}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_a_first_order_gradient_is_no_second_order_one(name):
    found = by_name(check_hypergrad(FIRST_ORDER[name], W, {"lr": 0.5}))
    assert found["w"].verdict is found["lr"].verdict is Verdict.MISMATCH
    assert "first-order" in found["w"].reason
    # where the body of a loop no longer knows its caller, it is jmeta's line
    place = {"callback": "jmeta/_loop/step.py", "inner gradient": "test_check.py"}.get(
        name
    )
    assert f"cut by stop_gradient ({place}" in found["w"].reason or name == "order=1"


def test_an_adjoint_that_truncates():
    """Reverse mode is to blame, which forward mode and differences show."""
    found = check_hypergrad(problem(), W, {"lr": 0.2}, adjoint=Unroll(last=2))
    for leaf in found.leaves:
        assert leaf.verdict is Verdict.MISMATCH
        assert "reverse mode differs" in leaf.reason
        assert leaf.forward == pytest.approx(leaf.difference)


def countdown(step, at):
    """A loss whose root is taken of exactly 0 when `w` has gone down to `at`."""

    def loss(settings, w, batch):
        return jnp.sum(w) + settings["scale"] * step(w, at)

    return loss


def root(w, at):
    """Its inner gradient is infinite times 0 where w == at."""
    return 0.0 * jnp.sum(jnp.sqrt(jnp.abs(w - at)))


def safe_root(w, at):
    """Its inner gradient is 0 there, by a rule whose derivative is not finite."""
    return smooth(jnp.sum(jnp.square(w - at)))


@jax.custom_jvp
def smooth(x):
    return x


@smooth.defjvp
def _smooth_rule(primals, tangents):
    (x,), (dx,) = primals, tangents
    return x, dx * (1 + 0.0 * jnp.sqrt(x))


@pytest.mark.parametrize("step", [0, 2, 4])
def test_a_nan_from_a_root_at_zero(step):
    """Gradient 1 and rate 0.5 take w from 0 to -step / 2, exactly."""
    make = problem(countdown(root, -0.5 * step), outer=lambda run: jnp.sum(run.params))
    found = check_hypergrad(make, jnp.zeros(3), {"lr": 0.5, "scale": jnp.array(0.5)})
    for leaf in found.leaves:
        assert leaf.verdict is Verdict.NOT_FINITE
        assert leaf.step == step
        assert f"at inner step {step} (test_check.py" in leaf.reason
        assert "in root" in leaf.reason


@pytest.mark.parametrize("step", [1, 3])
def test_a_nan_in_the_derivative_alone(step):
    """The training is finite; the second derivative of the root is not."""
    make = problem(
        countdown(safe_root, -0.5 * step), outer=lambda run: jnp.sum(run.params)
    )
    args = jnp.zeros(3), {"lr": 0.5, "scale": jnp.array(0.0)}
    assert jnp.isfinite(make(Unroll())(*args))
    found = by_name(check_hypergrad(make, *args))
    assert found["w"].verdict is Verdict.NOT_FINITE
    assert found["w"].step == step
    assert "in safe_root" in found["w"].reason


def test_a_nan_outside_the_loop():
    make = problem(outer=lambda run: jnp.sqrt(0.0 * jnp.sum(run.params)))
    (leaf, _) = check_hypergrad(make, W, {"lr": 0.5}).leaves
    assert (leaf.verdict, leaf.step) == (Verdict.NOT_FINITE, None)
    assert "outside the loop (test_check.py" in leaf.reason


def test_differences_that_do_not_settle_are_noisy():
    """Where the loss is rough at every step size, they contradict nothing."""

    def make(adjoint):
        # what is added is a number of 0.1 with no derivative
        return lambda x: x + 0.1 * jnp.sin(cut(1e13 * x))

    (leaf,) = check_hypergrad(make, 0.0123).leaves
    assert leaf.verdict is Verdict.NOISY
    assert leaf.error > 0.1


def test_a_loss_that_forward_mode_cannot_pass():
    found = check_hypergrad(problem(adjoint=Unroll()), W, {"lr": 0.2})
    assert found.ok
    assert all(leaf.forward is None for leaf in found.leaves)
    assert "forward -," in str(found)


def test_float32():
    with jax.enable_x64(False):

        def make(adjoint):
            def meta_loss(w, lr):
                tx = optim.sgd(lr=lr)
                loss = lambda w: jnp.sum(jnp.sin(w))
                return jnp.sum(
                    jmeta.inner_loop(loss, w, tx, 3, adjoint=adjoint).params ** 2
                )

            return meta_loss

        found = check_hypergrad(make, jnp.array([0.3, -0.7]), 0.2)
        assert found.ok, str(found)


def test_integers_are_left_out():
    make = lambda adjoint: lambda x, n: x**2 * n
    (leaf,) = check_hypergrad(make, 3.0, 2).leaves
    assert (leaf.name, leaf.reverse) == ("args[0]", 12.0)
