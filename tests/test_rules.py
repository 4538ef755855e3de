"""Loops over functions with foreign derivative rules, against plain JAX."""

import functools
import os

import jax
import jax.numpy as jnp
import pytest
from jax.scipy import special

import jmeta
from jmeta import ForwardMode, Implicit, Unroll
from jmeta._core.derivative_rules import RuleOrigin, true_derivative
from jmeta._jaxpr.notes import notes
from jmeta._jaxpr.primitives import inner_jaxprs
from jmeta._jaxpr.rule_origin import JAX, rule_origin
from jmeta.optim._finite.singular import SINGULAR
from jmeta.optim._finite.visitor import guarded
from tests.helpers import F64_SAME, assert_trees_close
from tests.rule_cases import AGREEING, RULES, by_jvp, by_odeint, by_vjp, shrink, spike

TARGET = jnp.array([1.0, 2.0, -1.0])
W = jnp.array([0.3, -0.2, 0.5])
WEIGHTS = jnp.array([1.0, 0.3, -0.2])


def loss_of(fun):
    return lambda w: jnp.sum((fun(w) - TARGET) ** 2 * jnp.arange(1.0, 4.0))


def trained(loss, w, steps=2, **settings):
    tx = jmeta.optim.sgd(lr=0.1)
    return jmeta.inner_loop(loss, w, tx, steps, **settings).params


def by_hand(loss, w, steps=2):
    for _ in range(steps):
        w = w - 0.1 * jax.grad(loss)(w)
    return w


def pulled_back(fun, w):
    return jax.vjp(fun, w)[1](WEIGHTS)[0]


@pytest.mark.parametrize("name", RULES)
def test_hypergradients_are_plain_jaxs(name):
    loss = loss_of(RULES[name])

    @jax.jit
    def compared(w):
        return (
            pulled_back(functools.partial(trained, loss), w),
            pulled_back(functools.partial(by_hand, loss), w),
            pulled_back(jax.grad(loss), w),
            jax.jvp(jax.grad(loss), (w,), (WEIGHTS,))[1],
        )

    found, expected, reverse, forward = compared(W)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=F64_SAME)
    # whether forward over reverse would have been wrong
    assert (jnp.abs(reverse - forward).max() > 0.01) == (name not in AGREEING)


def everywhere(fun):
    """In a jit, a remat, a scan, a branch and a vmap, one within the other."""

    def step(x, _):
        row = lambda x: jax.lax.cond(x[0] > 5, jnp.sin, fun, x)
        return jax.vmap(row)(x[None])[0], None

    return jax.jit(jax.checkpoint(lambda x: jax.lax.scan(step, x, length=2)[0]))


def twice(fun):
    return lambda x: fun(fun(x))


def within_a_loop(fun):
    """A training within the loss, of a function whose rule calls it again."""
    return lambda w: trained(loss_of(fun), jnp.tanh(w))


def within_a_loop_by_hand(fun):
    return lambda w: by_hand(loss_of(fun), jnp.tanh(w))


@pytest.mark.parametrize(
    ("of", "plain"),
    [(everywhere, twice), (within_a_loop, within_a_loop_by_hand)],
    ids=["everywhere", "within a loop"],
)
@pytest.mark.parametrize("name", ["custom_jvp", "custom_vjp"])
def test_rules_are_found_at_any_depth(name, of, plain):
    fun = RULES[name]
    found, expected = jax.jit(
        lambda w: (
            pulled_back(functools.partial(trained, loss_of(of(fun))), w),
            pulled_back(functools.partial(by_hand, loss_of(plain(fun))), w),
        )
    )(W)
    assert_trees_close(found, expected, rtol=F64_SAME, atol=F64_SAME)


def test_an_approximate_adjoint_within_a_loss():
    def solved(w):
        far = lambda p: jnp.sum((p - w) ** 2)
        return trained(far, jnp.ones(3), adjoint=Implicit())

    closed = jax.make_jaxpr(functools.partial(trained, loss_of(solved)))(W)
    assert "`implicit` of jmeta" in notes(closed.jaxpr)[0]


def origins(fun, *args):
    """The origins of all rules at any depth of a function."""

    def search(jaxpr):
        for eqn in jaxpr.eqns:
            if found := rule_origin(eqn):
                yield found
            for inner in inner_jaxprs(eqn.params):
                yield from search(inner)

    return set(search(jax.make_jaxpr(fun)(*args).jaxpr))


OF_JAX, OURS, APPROXIMATION, OF_USER = (
    RuleOrigin("jax", exact=True),
    RuleOrigin("jmeta", exact=True),
    RuleOrigin("jmeta", exact=False),
    RuleOrigin("user", exact=False),
)
matrix = lambda x: jnp.outer(x, x) + jnp.eye(3)
JAX_OWN = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "log_sigmoid": jax.nn.log_sigmoid,
    "softplus": jax.nn.softplus,
    "logaddexp": lambda x: jnp.logaddexp(x, x**2),
    "logaddexp2": lambda x: jnp.logaddexp2(x, x**2),
    "xlogy": lambda x: special.xlogy(x, x**2),
    "xlog1py": lambda x: special.xlog1py(x, x**2),
    "sinc": jnp.sinc,
    "i0": jnp.i0,
    "logit": special.logit,
    "zeta": lambda x: special.zeta(x[0] + 3, jnp.array(1.0)),
    "expi": special.expi,
    "expn": lambda x: special.expn(2, x),
    "log_ndtr": special.log_ndtr,
    "det": lambda x: jnp.linalg.det(jnp.kron(matrix(x), jnp.eye(2))),
    "slogdet": lambda x: jnp.linalg.slogdet(matrix(x))[1],
    "pinv": lambda x: jnp.linalg.pinv(matrix(x)),
    "solve": lambda x: jnp.linalg.solve(matrix(x), x),
    "scipy solve": lambda x: jax.scipy.linalg.solve(matrix(x), x, assume_a="pos"),
    "everywhere": everywhere(jax.nn.relu),
}


@pytest.mark.parametrize("name", JAX_OWN)
def test_jaxs_own_rules_keep_the_fast_path(name):
    fun = JAX_OWN[name]
    # since jax 0.11 sinc has none
    bare = name == "sinc" and jax.__version_info__ >= (0, 11)
    assert origins(fun, W) == (set() if bare else {OF_JAX})
    loss = lambda w: jnp.sum(fun(w) ** 2)
    run = functools.partial(trained, loss)
    # the marked rule is that of forward over reverse
    assert OURS in origins(run, W)
    assert not notes(jax.make_jaxpr(jax.grad(lambda w: run(w).sum()))(W).jaxpr)


PLAIN = {
    "activations": lambda x: jax.nn.gelu(x) + jax.nn.silu(x) + jax.nn.elu(x),
    "logsumexp": jax.nn.logsumexp,
    "svd": lambda x: jnp.linalg.svd(matrix(x))[1],
    "eigh": lambda x: jnp.linalg.eigh(matrix(x))[0],
    "cholesky": lambda x: jnp.linalg.cholesky(matrix(x)),
    "fft": lambda x: jnp.fft.fft(x).real,
    "random": lambda x: jax.random.gamma(jax.random.key(0), x**2),
    "scan": lambda x: jnp.cumsum(jnp.sort(x)),
    "print": lambda x: jax.debug.print("{}", x) or x,
    "own policy": jax.checkpoint(jnp.sin, policy=lambda *_, **__: True),
    "searched": lambda x: x[jnp.searchsorted(x, x)],
    "while": lambda x: jax.lax.while_loop(lambda x: x[0] < 1, lambda x: x + 1, x),
}


@pytest.mark.parametrize("name", PLAIN)
def test_operations_of_jaxs_bring_no_rule(name):
    assert not origins(PLAIN[name], W)


def test_numbers_on_the_fast_path():
    fun = lambda w: jax.nn.relu(w) + jnp.sinc(w) + jnp.logaddexp(w, w**2)
    found, expected = jax.jit(
        lambda w: [
            pulled_back(functools.partial(run, loss_of(fun)), w)
            for run in (trained, by_hand)
        ]
    )(W)
    assert_trees_close(found, expected, rtol=F64_SAME)


def pairs_of_jaxs():
    """Functions and rules of JAX's that JAX does not put together."""
    sign = jax.custom_jvp(jnp.sign)
    sign.defjvp(functools.partial(jax.jvp, jnp.tanh))
    borrowed = jax.custom_jvp(jnp.sign)
    borrowed.defjvp(jax.nn.relu.jvp)
    of_user = jax.custom_jvp(lambda x: x)
    of_user.defjvp(jax.nn.relu.jvp)
    return {"partial": sign, "relu's": borrowed, "user's": of_user}


@pytest.mark.parametrize("name", pairs_of_jaxs())
def test_parts_of_jaxs_do_not_make_a_rule_of_jaxs(name):
    assert OF_USER in origins(pairs_of_jaxs()[name], W)


@pytest.mark.parametrize("name", RULES)
def test_rules_of_users_are_foreign(name):
    assert OF_USER in origins(RULES[name], W)


def test_more_rules_of_users():
    iterative = lambda b: jax.scipy.sparse.linalg.cg(jnp.eye(3), b)[0]
    ours = lambda b: jmeta.CG()(lambda x: 2 * x, b)
    remat = by_vjp(spike, optimize_remat=True)
    for fun in (iterative, ours, by_odeint, remat):
        assert OF_USER in origins(fun, W)


def test_a_package_whose_name_begins_like_jaxs():
    code = "def rule(primals, tangents): return primals[0] * 1.0, tangents[0]"
    scope = {}
    exec(compile(code, f"{JAX.rstrip(os.sep)}opt/rules.py", "exec"), scope)
    assert origins(by_jvp(jnp.sin, scope["rule"]), W) == {OF_USER}


def test_a_rule_of_jaxs_that_a_user_replaced(monkeypatch):
    replaced = by_jvp(jax.nn.relu.fun)
    monkeypatch.setattr(jax.nn.relu, "jvp", replaced.jvp)
    assert origins(lambda x: jax.nn.relu(x), W + 1) == {OF_USER}


def test_jmetas_rules_are_known():
    assert origins(guarded(lambda x: jnp.sqrt(x), SINGULAR), W) == {OURS}
    square = lambda w: jnp.sum(w**2)
    lr = lambda lr, adjoint: (
        jmeta.inner_loop(square, W, jmeta.optim.sgd(lr=lr), 2, adjoint=adjoint).params
    )
    for adjoint, expected in [
        (Unroll(), OURS),
        (ForwardMode(), OURS),
        (Unroll(order=1), OURS),
        (Implicit(), APPROXIMATION),
    ]:
        assert expected in origins(lambda x, adjoint=adjoint: lr(x, adjoint), 0.1)


def test_a_mark_is_not_copied_with_a_name():
    @true_derivative
    def rule(primals, tangents):
        return jnp.sin(*primals), tangents[0] * jnp.cos(*primals)

    @functools.wraps(rule)
    def surrogate(primals, tangents):
        return jnp.sin(*primals), tangents[0] * shrink(*primals)

    assert origins(by_jvp(jnp.sin, rule), W) == {OURS}
    assert origins(by_jvp(jnp.sin, surrogate), W) == {OF_USER}


def test_rules_within_jmetas_are_found():
    lr = lambda lr: (
        jmeta.inner_loop(
            loss_of(RULES["custom_jvp"]),
            W,
            jmeta.optim.sgd(lr=lr),
            2,
            adjoint=ForwardMode(),
        ).params
    )
    assert origins(lr, 0.1) >= {OURS, OF_USER}
