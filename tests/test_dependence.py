"""What an output depends on, through everything that a jaxpr can hold."""

import jax
import jax.numpy as jnp
import pytest

import jmeta
from jmeta._jaxpr.flow import dependencies
from tests.helpers import F64_SAME, assert_trees_close
from tests.rule_cases import RULES


@jax.custom_jvp
def with_jvp(x, y):
    return x * y


@with_jvp.defjvp
def _with_jvp_rule(primals, tangents):
    return with_jvp(*primals), primals[1] * tangents[0] + primals[0] * tangents[1]


@jax.custom_vjp
def with_vjp(x, y):
    return x * y


with_vjp.defvjp(
    lambda x, y: (x * y, (x, y)), lambda kept, g: (g * kept[1], g * kept[0])
)


def scanned(x, y, z):
    """Carries a, b, c: a goes to b, then to c, one step later each."""

    def body(carry, z):
        a, b, c = carry
        return (a, a + b, b + c), (z, c)

    return jax.lax.scan(body, (x, y, 0.0), jnp.stack([z, z]))


def looped(x, y, z):
    def body(carry):
        i, a, b = carry
        return i + 1, a * z, b + jax.lax.stop_gradient(a)

    return jax.lax.while_loop(lambda carry: carry[0] + x < 3, body, (0, x, y))[1:]


cut = jax.lax.stop_gradient
CASES = {
    "product": (lambda x, y, z: x * y, [0, 1]),
    "nothing": (lambda x, y, z: jnp.ones(()), []),
    "stop_gradient": (lambda x, y, z: cut(x) * y, [1]),
    "through int": (lambda x, y, z: x.astype(int).astype(float) + y, [1]),
    "comparison": (lambda x, y, z: jnp.where(x > 0, y, z), [1, 2]),
    "complex": (lambda x, y, z: jax.lax.complex(x, y).imag, [0, 1]),
    "jit": (lambda x, y, z: jax.jit(lambda a, b: (cut(a) + b, a))(x, y), [[1], [0]]),
    "remat": (lambda x, y, z: jax.checkpoint(lambda a: (cut(a) + y, a))(x), [[1], [0]]),
    "vmap": (lambda x, y, z: jax.vmap(lambda a: cut(a) * y)(x[None]), [1]),
    "custom_jvp": (lambda x, y, z: with_jvp(x, cut(z)), [0]),
    "custom_vjp": (lambda x, y, z: with_vjp(cut(x), z), [2]),
    "relu": (lambda x, y, z: jax.nn.relu(x), [0]),
    "grad": (lambda x, y, z: jax.grad(lambda a: cut(x) * a**2 * y)(z), [1, 2]),
    "cond": (lambda x, y, z: jax.lax.cond(x > 0, lambda: y, lambda: cut(z)), [1]),
    "switch": (
        lambda x, y, z: jax.lax.switch(1, [lambda: x, lambda: y, lambda: cut(z)]),
        [0, 1],
    ),
    "scan": (scanned, [[0], [0, 1], [0, 1], [2], [0, 1]]),
    "while": (looped, [[0, 2], [1]]),
    "fori": (lambda x, y, z: jax.lax.fori_loop(0, 3, lambda i, a: a + y, x), [0, 1]),
    "solve": (lambda x, y, z: jnp.linalg.solve(x * jnp.eye(1), y[None]), [0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_dependencies(name):
    fun, expected = CASES[name]
    found, shapes = dependencies(fun, *map(jnp.asarray, (0.3, 0.5, 0.7)))
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    if not expected or isinstance(expected[0], int):
        expected = [expected]
    assert [sorted(leaf) for leaf in leaves] == expected
    assert len(jax.tree.leaves(shapes)) == len(expected)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"switch", "while", "fori"}))
def test_dependencies_are_where_derivatives_are(name):
    """An output that is found not to depend on an input has derivative 0."""
    fun, _ = CASES[name]
    at = tuple(map(jnp.asarray, (0.3, 0.5, 0.7)))
    found, _ = dependencies(fun, *at)
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    flat = jax.jacrev(lambda *args: jax.tree.leaves(fun(*args)), argnums=(0, 1, 2))
    jacobians = flat(*at)
    for depends, jacobian in zip(leaves, jacobians, strict=True):
        moved = {i for i, d in enumerate(jacobian) if jnp.any(d != 0)}
        assert moved <= depends


@jax.custom_jvp
def spike(x):
    return (x > 0).astype(x.dtype)


spike.defjvp(lambda primals, tangents: (spike(*primals), tangents[0]))


@jax.custom_vjp
def straight_through(x):
    return x.astype(int).astype(x.dtype)


straight_through.defvjp(
    lambda x: (straight_through(x), None), lambda _, cotangent: (cotangent,)
)


@jax.custom_gradient
def rounded(x):
    return cut(x), lambda g: g


@jax.custom_jvp
def swapped(x, y):
    """Computes with both, has the derivative of the other one in each output."""
    return x * 2, y * 3


swapped.defjvp(lambda primals, tangents: (swapped(*primals), tangents[::-1]))


@jax.custom_vjp
def second_only(x, y):
    return x * y


second_only.defvjp(lambda x, y: (x * y, x), lambda x, g: (None, g * x))


@jax.custom_jvp
def constant(x):
    return x * 2


constant.defjvp(
    lambda primals, tangents: (constant(*primals), jnp.zeros_like(*primals))
)


@jax.custom_jvp
def linear(x):
    """Whose rule calls it on the tangent, without end."""
    return cut(x)


linear.defjvp(lambda primals, tangents: (linear(*primals), linear(*tangents)))


@jax.custom_jvp
def forward_only(x, y):
    return cut(x * y)


@forward_only.defjvp
def _forward_only_rule(primals, tangents):
    """Reverse mode cannot go through its loop."""
    moved = jax.lax.while_loop(lambda t: t > 1, lambda t: t / 2, tangents[0])
    return forward_only(*primals), moved


@jax.custom_jvp
def refusing(x, y):
    return cut(x * y)


@refusing.defjvp
def _refusing_rule(primals, tangents):
    raise ValueError("no derivative")


loop = lambda x, y, fun: jax.lax.scan(lambda c, _: (fun(c) * y, None), x, length=2)[0]
RULED = {
    "spike": (lambda x, y, z: spike(x) * y, [0, 1]),
    "straight-through": (lambda x, y, z: straight_through(x), [0]),
    "custom_gradient": (lambda x, y, z: rounded(y), [1]),
    "jit": (lambda x, y, z: jax.jit(spike)(x), [0]),
    "scan": (lambda x, y, z: loop(x, y, spike), [0, 1]),
    "remat of vmap": (lambda x, y, z: jax.checkpoint(jax.vmap(spike))(x[None]), [0]),
    "cond": (lambda x, y, z: jax.lax.cond(x > 0, spike, constant, y), [1]),
    "swapped": (lambda x, y, z: swapped(x, y), [[1], [0]]),
    "left out": (lambda x, y, z: second_only(x, y), [1]),
    "constant": (lambda x, y, z: constant(x), []),
    "constant in scan": (lambda x, y, z: loop(x, y, constant), [1]),
    "of a cut": (lambda x, y, z: spike(cut(x)), []),
    "recursive": (lambda x, y, z: linear(x), [0]),
    "forward mode": (lambda x, y, z: forward_only(x, y), [0]),
    "refusing": (lambda x, y, z: refusing(x, y), [0, 1]),
    "grad": (lambda x, y, z: jax.grad(lambda x: spike(x) * y)(z), [1]),
    "sinc at 0": (lambda x, y, z: jnp.sinc(x), [0]),
    "several of JAX's": (lambda x, y, z: jnp.logaddexp(x, jax.nn.relu(z)), [0, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", RULED)
def test_rules_decide(name):
    fun, expected = RULED[name]
    found, _ = dependencies(fun, *map(jnp.asarray, (0.3, 0.5, 0.7)))
    leaves = jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, frozenset))
    if not expected or isinstance(expected[0], int):
        expected = [expected]
    assert [sorted(leaf) for leaf in leaves] == expected


@pytest.mark.parametrize("name", RULES)
def test_every_way_to_define_a_rule_is_followed(name):
    found, _ = dependencies(RULES[name], jnp.ones(3))
    assert found == {0}


@pytest.mark.parametrize("fun", [spike, straight_through, rounded])
def test_surrogates_train(fun):
    loss = lambda p: (fun(p["w"]) - 0.3) ** 2 + constant(p["idle"])
    params = {"w": jnp.array(0.7), "idle": jnp.array(1.0)}
    run = jmeta.inner_loop(loss, params, jmeta.optim.sgd(lr=0.1), 1)
    moved = params["w"] - 0.1 * 2 * (fun(params["w"]) - 0.3)
    assert_trees_close(run.params["w"], moved, rtol=F64_SAME)
    assert jmeta.unused_parameters(loss, params) == {("idle",)}


def test_a_loss_that_its_rule_cuts_off_is_refused():
    with pytest.raises(ValueError, match=r"a custom derivative rule cuts it off"):
        jmeta.inner_loop(constant, 1.0, jmeta.optim.sgd(lr=0.1), 1)


def test_explain_follows_the_rule():
    def fun(x, y, z):
        return spike(x) + second_only(y, z)

    inputs = jmeta.explain(fun, 0.3, 0.5, 0.7).inputs
    assert [leaf.reaches for leaf in inputs] == [True, False, True]
    assert [[cut.reason for cut in leaf.cuts] for leaf in inputs] == [
        [],
        ["custom rule"],
        [],
    ]


def test_a_rule_is_traced_once():
    calls = []

    @jax.custom_jvp
    def counted(x):
        return x

    @counted.defjvp
    def rule(primals, tangents):
        calls.append(None)
        return counted(*primals), tangents[0]

    # the loop's body is gone through until nothing grows
    dependencies(lambda x, y: loop(x, y, counted), 0.3, 0.5)
    assert len(calls) == 1
