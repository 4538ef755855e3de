"""Rules in loops that are differentiated twice, against Python loops."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta import ForwardMode, Implicit, Unroll
from jmeta._compat import SCAN_FORGETS_RULES
from jmeta._jaxpr.flow import dependencies
from jmeta._jaxpr.foreign_rules import foreign_rules
from jmeta._jaxpr.remembered import preserving_rules
from tests.helpers import assert_trees_close
from tests.rule_cases import RULES, by_jvp, shrink, spike
from tests.test_rules import TARGET, WEIGHTS, W

close = functools.partial(assert_trees_close, rtol=1e-10, atol=1e-10)
SPIKE = RULES["custom_jvp"]
MIX = jnp.array([0.5, 1.0, 1.5])


def unrolled(fun, x, steps=2):
    for _ in range(steps):
        x = jnp.tanh(fun(x) + x * MIX)
    return x


def scanned(fun, x, steps=2, wrap=lambda step: step, unroll=1):
    step = wrap(lambda x: jnp.tanh(fun(x) + x * MIX))
    return jax.lax.scan(lambda x, _: (step(x), None), x, length=steps, unroll=unroll)[0]


def counted(fun, x):
    step = lambda _, x: jnp.tanh(fun(x) + x * MIX)
    return jax.lax.fori_loop(0, 2, step, x)


def branched(step):
    return lambda x: jax.lax.cond(x[0] > 9, jnp.sin, step, x)


def batched(step):
    return lambda x: jax.vmap(step)(x[None])[0]


def searched(fun, x):
    """With the function in a while loop too, which has no reverse mode."""
    far = lambda x: jax.lax.while_loop(lambda x: x[0] < 1, lambda x: fun(x) + 1, x)
    return scanned(fun, x) + far(jax.lax.stop_gradient(x))


def searched_by_hand(fun, x):
    far = jax.lax.stop_gradient(x)
    far = jnp.where(far[0] < 1, fun(far) + 1, far)
    return unrolled(fun, x) + far


LOOPS = {
    "scan": (scanned, unrolled),
    "unroll": (functools.partial(scanned, unroll=2), unrolled),
    "fori": (counted, unrolled),
    "jit": (functools.partial(scanned, wrap=jax.jit), unrolled),
    "remat": (functools.partial(scanned, wrap=jax.checkpoint), unrolled),
    "cond": (functools.partial(scanned, wrap=branched), unrolled),
    "vmap": (functools.partial(scanned, wrap=batched), unrolled),
    "while": (searched, searched_by_hand),
}


@jax.custom_vjp
def reverse(x):
    return SPIKE(x) * x


reverse.defvjp(
    lambda x: (SPIKE(x) * x, (x, SPIKE(x))),
    lambda kept, g: (g * SPIKE(kept[0]) * shrink(kept[1]),),
)


@jax.custom_gradient
def gradient(x):
    y = SPIKE(x)
    return y * x, lambda g: (g * shrink(y) * SPIKE(y),)


@jax.custom_jvp
def linear(x):
    return 2.0 * x


# calls itself on the tangent, which reverse mode has to transpose
linear.defjvp(lambda xs, dots: (linear(*xs), linear(dots[0]) * shrink(xs[0])))


@jax.custom_jvp
def printed(x):
    jax.debug.callback(lambda _: None, x)
    return spike(x)


printed.defjvp(lambda xs, dots: (printed(*xs), dots[0] * shrink(xs[0])))


def holding_a_loop(loop):
    @jax.custom_jvp
    def fun(x):
        return jnp.sin(x)

    @fun.defjvp
    def rule(primals, tangents):
        (x,), (dot,) = primals, tangents
        return fun(x), dot * shrink(loop(SPIKE, x) + fun(x))

    return fun


FUNCTIONS = {
    "calls in custom_vjp": (reverse, reverse),
    "calls in custom_gradient": (gradient, gradient),
    "a linear function": (linear, linear),
    "an effect": (printed, printed),
    "a loop in the rule": (holding_a_loop(scanned), holding_a_loop(unrolled)),
} | {
    name: (RULES[name], RULES[name])
    for name in ("nondiff_argnums", "symbolic_zeros", "rule for vmap", "custom_root")
}


def loss_of(fun):
    return lambda w: jnp.sum((fun(w) - TARGET) ** 2 * jnp.arange(1.0, 4.0))


def weighted(fun):
    return lambda w: fun(w) @ WEIGHTS


DERIVATIVES = {
    "reverse over reverse": lambda fun: (
        lambda w: jax.grad(lambda w: jax.grad(weighted(fun))(w) @ MIX)(w)
    ),
    "hessian": lambda fun: jax.hessian(weighted(fun)),
    "vmap of grad": lambda fun: (
        lambda w: jax.vmap(jax.grad(lambda w: jax.grad(weighted(fun))(w) @ MIX))(
            jnp.stack([w, 2 * w])
        )
    ),
    "grad of jvp": lambda fun: jax.grad(
        lambda w: jax.jvp(weighted(fun), (w,), (MIX,))[1]
    ),
}


def assert_agree(found, expected, derivative):
    both = jax.jit(lambda w: (derivative(found)(w), derivative(expected)(w)))
    close(*both(W))


@pytest.mark.parametrize("name", LOOPS)
def test_in_every_loop(name):
    loop, by_hand = (functools.partial(run, SPIKE) for run in LOOPS[name])
    assert_agree(preserving_rules(loop), by_hand, DERIVATIVES["reverse over reverse"])


@pytest.mark.parametrize("name", DERIVATIVES)
def test_in_every_derivative(name):
    loop, by_hand = (functools.partial(run, SPIKE) for run in (scanned, unrolled))
    assert_agree(preserving_rules(loop), by_hand, DERIVATIVES[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_kind_of_function(name):
    of_loop, of_hand = FUNCTIONS[name]
    loop = functools.partial(scanned, of_loop)
    by_hand = functools.partial(unrolled, of_hand)
    assert_agree(preserving_rules(loop), by_hand, DERIVATIVES["reverse over reverse"])


def trained(loss, w, steps=2, **settings):
    tx = jmeta.optim.sgd(lr=0.1)
    return jmeta.inner_loop(loss, w, tx, steps, **settings).params


def by_hand(loss, w, steps=2):
    for _ in range(steps):
        w = w - 0.1 * jax.grad(loss)(w)
    return w


NESTED = {
    "stored": Unroll(checkpoint=None),
    "blocks": Unroll(checkpoint="nested", mixed=False),
    "forward": ForwardMode(),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_loop_in_the_loss_of_a_loop(name):
    inner = functools.partial(trained, adjoint=NESTED[name])
    found, expected = (
        lambda w, run=run, outer=outer: outer(
            loss_of(lambda v: run(loss_of(reverse), jnp.tanh(v))), w
        )
        for run, outer in ((inner, trained), (by_hand, by_hand))
    )
    assert_agree(found, expected, lambda run: jax.grad(weighted(run)))


@pytest.mark.parametrize("adjoint", [Unroll(mixed=False), ForwardMode()], ids=str)
def test_a_users_scan_in_the_loss_forward(adjoint):
    found = lambda w: trained(
        loss_of(functools.partial(scanned, SPIKE)), w, adjoint=adjoint
    )
    expected = lambda w: by_hand(loss_of(functools.partial(unrolled, SPIKE)), w)
    assert_agree(found, expected, lambda run: lambda w: jax.jvp(run, (w,), (WEIGHTS,)))


@pytest.mark.parametrize("name", ["hessian", "vmap of grad"])
def test_second_derivatives_of_a_loop(name):
    found, expected = (
        functools.partial(run, loss_of(SPIKE)) for run in (trained, by_hand)
    )
    assert_agree(found, expected, DERIVATIVES[name])


def calls(fun):
    return str(jax.make_jaxpr(fun)(W)).count("remembered_call")


def test_only_foreign_rules_are_replaced():
    run = lambda fun: lambda w: trained(loss_of(functools.partial(scanned, fun)), w)
    assert (calls(run(SPIKE)) > 0) == SCAN_FORGETS_RULES
    for fun in (jnp.sin, jax.nn.relu, jnp.sinc, RULES["custom_vjp"]):
        assert not calls(run(fun))


def test_a_jaxpr_that_is_called_twice_stays_one():
    step = jax.jit(SPIKE)
    fun = preserving_rules(lambda x: step(step(x)))
    first, second = jax.make_jaxpr(fun)(W).eqns
    assert first.params["jaxpr"] is second.params["jaxpr"]


def test_the_rule_is_still_found():
    fun = preserving_rules(functools.partial(scanned, by_jvp(jnp.sign)))
    assert "`sign`" in foreign_rules(jax.make_jaxpr(fun)(W).jaxpr)[0]
    # the sign alone would cut it off
    fun = preserving_rules(lambda x: by_jvp(jnp.sign)(x))
    assert dependencies(fun, W)[0] == {0}
    solved = lambda w: trained(lambda p: jnp.sum((p - w) ** 2), W, adjoint=Implicit())
    fun = preserving_rules(solved)
    assert "`implicit` of jmeta" in foreign_rules(jax.make_jaxpr(fun)(W).jaxpr)
