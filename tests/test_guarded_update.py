"""Optax's transforms in a loop: derivatives are finite and right at gradients of 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jmeta
from jmeta import ForwardMode, Implicit, Unroll
from jmeta._jaxpr.primitives import inner_jaxprs
from jmeta.adjoint import FixedPoint
from jmeta.diagnose import Verdict
from jmeta.higher import apply_trainable_opt_params
from jmeta.optim._finite import update_guard
from tests.helpers import F64_SAME, F64_TORCH, assert_trees_close

pytestmark = pytest.mark.standard_promotion("optax mixes dtypes")

STEPS = 4
TOKENS = np.array([[0, 2, 5, 2], [5, 0, 0, 2]])
"""Words 1, 3 and 4 do not occur: the gradient of their embeddings is exactly 0."""


def language_model(params):
    """Loss of the next word from the mean of those before."""
    x = params["embedding"][TOKENS[:, :-1]].mean(1)
    scores = jnp.tanh(x) @ params["head"]
    picked = jnp.take_along_axis(jax.nn.log_softmax(scores), TOKENS[:, -1:], 1)
    return -picked.mean()


def weights():
    rng = np.random.default_rng(0)
    shapes = {"embedding": (6, 2), "head": (2, 6)}
    return {name: jnp.asarray(rng.normal(size=s)) for name, s in shapes.items()}


# one transform of optax's and jmeta's each, by the same settings
PAIRS = {
    "adam": (
        lambda s: optax.adam(s["lr"], s["b1"], s["b2"], s["eps"]),
        lambda s: jmeta.optim.adam(s["lr"], (s["b1"], s["b2"]), s["eps"]),
    ),
    "adamw": (
        lambda s: optax.adamw(
            s["lr"], s["b1"], s["b2"], s["eps"], weight_decay=s["decay"]
        ),
        lambda s: jmeta.optim.adamw(
            s["lr"], (s["b1"], s["b2"]), s["eps"], weight_decay=s["decay"]
        ),
    ),
    "rmsprop": (
        lambda s: optax.rmsprop(s["lr"], s["b2"], s["eps"], eps_in_sqrt=False),
        lambda s: jmeta.optim.rmsprop(s["lr"], alpha=s["b2"], eps=s["eps"]),
    ),
}


def settings(b1=0.8):
    values = {"lr": 0.1, "b1": b1, "b2": 0.9, "eps": 1e-3, "decay": 0.2}
    return jax.tree.map(jnp.asarray, values)


def meta_loss(make, args, adjoint=Unroll()):  # noqa: B008 (frozen, without state)
    params, chosen = args
    tx = make(chosen)
    run = jmeta.inner_loop(language_model, params, tx, STEPS, adjoint=adjoint)
    spread = sum(jnp.sum((p - 0.3) ** 2) for p in jax.tree.leaves(run.params))
    return language_model(run.params) + spread


ADJOINTS = {
    "default": Unroll(),
    "nested": Unroll(checkpoint="nested"),
    "plain": Unroll(mixed=False, checkpoint=None),
    "forward": ForwardMode(),
}


@pytest.mark.parametrize(
    ("name", "adjoint"),
    [*(("adamw", a) for a in ADJOINTS), ("rmsprop", "default")],
)
def test_hypergradients_are_those_of_our_own(name, adjoint):
    args = weights(), settings()
    found, expected = (
        jax.jit(
            jax.value_and_grad(lambda a, m=make: meta_loss(m, a, ADJOINTS[adjoint]))
        )(args)
        for make in PAIRS[name]
    )
    assert not jax.grad(language_model)(args[0])["embedding"][
        jnp.array([1, 3, 4])
    ].any()
    assert_trees_close(found, expected, rtol=F64_TORCH, atol=1e-14)


@pytest.mark.parametrize("b1", [0.8, 0.0])
def test_second_derivatives_are_those_of_our_own(b1):
    def product(make):
        def slope(args):
            chosen = settings(args["b1"]) | {"lr": args["lr"]}
            loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 0.0]) * (w - 0.5) ** 2)
            run = jmeta.inner_loop(
                loss, args["w"], make(chosen), 2, adjoint=ADJOINTS["plain"]
            )
            return jnp.sum(jnp.sin(run.params))

        args = {"lr": jnp.array(0.1), "b1": jnp.array(b1), "w": jnp.array([2.0, 1.0])}
        direction = jax.tree.map(lambda x: 1 + jnp.cos(x), args)
        return jax.jit(lambda a: jax.jvp(jax.grad(slope), (a,), (direction,))[1])(args)

    ours, optaxs = map(product, reversed(PAIRS["adam"]))
    assert_trees_close(optaxs, ours, rtol=F64_TORCH, atol=1e-14)


def test_mapped_and_differentiated_in_either_order():
    make = PAIRS["adam"][0]
    chosen = settings()
    rates = jnp.array([0.1, 0.2])

    def loss(lr):
        seen = jnp.array([1.0, 0.0])
        cubic = lambda w: jnp.sum(seen * (w**3 + w))
        tx = make(chosen | {"lr": lr})
        return jmeta.inner_loop(cubic, jnp.ones(2), tx, 2).params.sum()

    each = jnp.stack([jax.jit(jax.grad(loss))(lr) for lr in rates])
    inside = jax.jit(jax.vmap(jax.grad(loss)))(rates)
    outside = jax.jit(jax.grad(lambda rates: jax.vmap(loss)(rates).sum()))(rates)
    assert_trees_close(inside, each, rtol=F64_SAME)
    assert_trees_close(outside, each, rtol=F64_SAME)


def test_at_the_solution_itself():
    """The gradient there is 0, and so is its norm."""
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(1.0))
    adjoint = Implicit(condition=FixedPoint())

    def solution(center):
        start = jax.lax.stop_gradient(center) + 1.0
        loss = lambda w: 0.5 * jnp.sum((w - center) ** 2)
        return jmeta.inner_loop(loss, start, tx, 2, adjoint=adjoint).params

    center = jnp.array([1.0, -2.0])
    assert_trees_close(jax.jacrev(solution)(center), jnp.eye(2), rtol=F64_SAME)


@pytest.mark.parametrize("name", ["adamw", "clipped", "lamb"])
def test_values_are_the_same_to_the_last_bit(name):
    make = {
        "adamw": PAIRS["adamw"][0],
        "clipped": lambda s: optax.MultiSteps(
            optax.chain(optax.clip_by_global_norm(0.1), optax.adam(s["lr"])), 2
        ).gradient_transformation(),
        "lamb": lambda s: optax.lamb(s["lr"]),
    }[name]
    args = weights(), jnp.array(0.1)

    def run(tx_of, args):
        params, lr = args
        tx = tx_of(settings() | {"lr": lr})
        return jmeta.inner_loop(language_model, params, tx, STEPS)[:2]

    def differentiated(args):
        result, _ = jax.vjp(lambda args: run(make, args), args)
        return result

    plain = jax.jit(lambda args: run(lambda s: alone(make(s)), args))(args)
    found = jax.jit(lambda args: run(make, args))(args)
    assert all(map(np.array_equal, *map(jax.tree.leaves, (found, plain))))
    assert_trees_close(jax.jit(differentiated)(args), plain, rtol=F64_SAME, atol=1e-15)


def alone(tx):
    """Not guarded, since it is taken for one of ours."""
    return update_guard.mark_finite(optax.with_extra_args_support(tx))


def test_complex_numbers_in_an_update():
    turned = lambda g: -0.1 * jnp.real(jnp.sqrt(g**2) * (2.0 + 1.0j))
    tx = optax.stateless(lambda grads, params: jax.tree.map(turned, grads))

    def end(w):
        return jmeta.inner_loop(lambda w: jnp.sum(w**2), w, tx, 1).params.sum()

    # w - 0.2 |2 w|, at 0 with slope 0 of the root
    assert_trees_close(
        jax.grad(end)(jnp.array([1.0, 0.0])), jnp.array([0.6, 1.0]), 1e-12
    )


OURS = {
    name: getattr(jmeta.optim, name)
    for name in ("adam", "lbfgs", "rprop", "sgd", "sparse_adam")
} | {
    "finite": lambda: jmeta.optim.finite(optax.adam(0.1)),
    "param_groups": lambda: jmeta.optim.param_groups(
        {"head": jmeta.optim.adam(), "embedding": optax.set_to_zero()},
        labels=lambda path: path[0],
    ),
    "other settings": lambda: apply_trainable_opt_params(
        jmeta.optim.adam(), {"lr": [0.5]}
    ),
}
THEIRS = {
    "optax": lambda: optax.adam(0.1),
    "chain": lambda: optax.chain(optax.clip(1.0), jmeta.optim.adam()),
    "param_groups": lambda: jmeta.optim.param_groups(
        {"head": jmeta.optim.adam(), "embedding": optax.adam(0.1)},
        labels=lambda path: path[0],
    ),
    "other settings": lambda: apply_trainable_opt_params(
        optax.inject_hyperparams(optax.adam)(0.1), {"learning_rate": [0.5]}
    ),
}


def traced(make, monkeypatch):
    """The loop's jaxpr, and how many updates in it were traced to be guarded."""
    calls = []
    guarded = update_guard.guarded
    monkeypatch.setattr(
        update_guard, "guarded", lambda *args: calls.append(1) or guarded(*args)
    )
    loop = lambda params: jmeta.inner_loop(language_model, params, make(), 2).params
    return jax.make_jaxpr(loop)(weights()), len(calls)


@pytest.mark.parametrize("name", OURS)
def test_our_own_are_left_alone(name, monkeypatch):
    closed, count = traced(OURS[name], monkeypatch)
    assert count == 0
    assert "optax_update" not in scopes(closed.jaxpr)


@pytest.mark.parametrize("name", THEIRS)
def test_others_are_guarded(name, monkeypatch):
    closed, count = traced(THEIRS[name], monkeypatch)
    assert count > 0
    assert "optax_update" in scopes(closed.jaxpr)


def scopes(jaxpr):
    inner = (inner_jaxprs(eqn.params) for eqn in jaxpr.eqns)
    deeper = [scopes(sub) for subs in inner for sub in subs]
    return "".join([*(str(eqn.source_info.name_stack) for eqn in jaxpr.eqns), *deeper])


def test_without_a_singular_operation_nothing_is_put_around():
    loop = lambda params, tx: jmeta.inner_loop(language_model, params, tx, 2).params
    ours, optaxs = (
        str(jax.make_jaxpr(lambda p, tx=tx: loop(p, tx))(weights()))
        for tx in (alone(optax.sgd(0.1, momentum=0.5)), optax.sgd(0.1, momentum=0.5))
    )
    assert optaxs.count("custom_jvp_call") == ours.count("custom_jvp_call")


RADAM = {
    "alone": optax.radam,
    "chain": lambda lr: optax.chain(optax.clip(1.0), optax.radam(lr)),
    "inject_hyperparams": lambda lr: optax.inject_hyperparams(optax.radam)(lr),
    "MultiSteps": lambda lr: optax.MultiSteps(
        optax.radam(lr), 2
    ).gradient_transformation(),
}


def trained(make, adjoint=Unroll()):  # noqa: B008 (frozen, without state)
    loss = lambda w: jnp.sum(w**2)
    # the third step is the first that takes the root of a negative number
    return lambda lr: jmeta.inner_loop(
        loss, jnp.ones(2), make(lr), 4, adjoint=adjoint
    ).params.sum()


@pytest.mark.parametrize("name", RADAM)
def test_explain_names_what_is_not_covered(name):
    (note,) = jmeta.explain(jax.grad(trained(RADAM[name])), 0.1).notes
    assert "radam" in note
    assert "jmeta.optim.finite" in note
    assert note in str(jmeta.explain(trained(RADAM[name]), 0.1))


@pytest.mark.parametrize(
    "make", [optax.adam, lambda lr: jmeta.optim.finite(optax.radam(lr))]
)
def test_explain_has_nothing_to_note(make):
    assert jmeta.explain(trained(make), 0.1).notes == ()


def test_check_hypergrad_says_what_to_wrap():
    report = jmeta.check_hypergrad(lambda adjoint: trained(optax.radam, adjoint), 0.1)
    (leaf,) = report.leaves
    assert leaf.verdict is Verdict.NOT_FINITE
    assert "wrap it in `jmeta.optim.finite`" in leaf.reason


def test_check_hypergrad_does_not_blame_the_update():
    def make(adjoint):
        return lambda x: jnp.sqrt(trained(optax.adam, adjoint)(0.1) * x)

    (leaf,) = jmeta.check_hypergrad(make, 0.0).leaves
    assert leaf.verdict is Verdict.NOT_FINITE
    assert "finite`" not in leaf.reason


@pytest.mark.parametrize("adjoint", [jmeta.Unroll(), jmeta.Unroll(mixed=False)])
def test_a_branch_that_differs_between_tasks(adjoint):
    """Reverse mode goes back through the branch, in a rule that `vmap` has batched."""
    xs = jnp.array([[1.0, 2.0], [3.0, -1.0]])

    def loss(lr, x):
        tx = optax.apply_if_finite(optax.adam(lr), 3)
        objective = lambda w: jnp.sum(jnp.cosh(w - x))
        run = jmeta.inner_loop(objective, jnp.full(2, 0.1), tx, 3, adjoint=adjoint)
        return jnp.sum(run.params**3)

    total = lambda lr: jnp.sum(jax.vmap(lambda x: loss(lr, x))(xs))
    each = [jax.grad(loss)(0.1, x) for x in xs]
    assert_trees_close(jax.jit(jax.grad(total))(0.1), sum(each), rtol=F64_SAME)
