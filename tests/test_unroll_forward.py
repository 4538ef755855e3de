"""Which derivatives go through the default adjoint, and which are refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmeta
from jmeta import Unroll
from tests.cases import PLAIN
from tests.helpers import F64_SAME, assert_trees_close


def final(lr, adjoint=Unroll()):  # noqa: B008 (frozen, without state)
    loss = lambda w: jnp.sum(jnp.tanh(w) ** 2)
    tx, start = jmeta.optim.sgd(lr=lr), jnp.arange(1.0, 3.0)
    return jnp.sum(jmeta.inner_loop(loss, start, tx, 2, adjoint=adjoint).params)


def plain(lr):
    return final(lr, PLAIN)


def pushed(fun):
    return lambda lr: jax.jvp(fun, (lr,), (1.0,))[1]


THROUGH = {
    "grad": jax.grad,
    "hessian": jax.hessian,
    "jacfwd of grad": lambda fun: jax.jacfwd(jax.grad(fun)),
    "jvp of grad": lambda fun: pushed(jax.grad(fun)),
    "grad of grad": lambda fun: jax.grad(jax.grad(fun)),
    "linearize of grad": lambda fun: (
        lambda lr: jax.linearize(jax.grad(fun), lr)[1](1.0)
    ),
    "primal of linearize": lambda fun: lambda lr: jax.linearize(fun, lr)[0],
    "transpose of linearize": lambda fun: (
        lambda lr: jax.linear_transpose(jax.linearize(fun, lr)[1], 1.0)(1.0)[0]
    ),
}


@pytest.mark.parametrize("name", THROUGH)
def test_goes_through(name):
    derivative = THROUGH[name]
    expected = derivative(plain)(0.1)
    assert abs(expected) > 0.1
    assert_trees_close(derivative(final)(0.1), expected, F64_SAME)


REFUSED = {
    "jvp": pushed,
    "jacfwd": jax.jacfwd,
    "jacfwd of jacfwd": lambda fun: jax.jacfwd(jax.jacfwd(fun)),
    "jacrev of jacfwd": lambda fun: jax.jacrev(jax.jacfwd(fun)),
    "grad of jvp": lambda fun: jax.grad(pushed(fun)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name):
    derivative = REFUSED[name]
    message = r"`mixed=True` has no .* `ForwardMode\(\)` or `Unroll\(mixed=False\)`"
    with pytest.raises(TypeError, match=message):
        derivative(final)(0.1)
    assert jnp.isfinite(derivative(plain)(0.1))


def test_compiled_it_is_jax_that_refuses():
    """Only then is it known that no reverse mode comes: the docstring says so."""
    with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
        jax.jit(pushed(final))(0.1)
    with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
        jax.linearize(final, 0.1)[1](1.0)


def test_a_loss_with_a_rule_of_its_own_goes_through():
    """It is taken by reverse over reverse, of which forward mode takes the rule."""

    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (g,))

    def own_rule(lr):
        tx = jmeta.optim.sgd(lr=lr)
        return jmeta.inner_loop(lambda w: identity(w) ** 2, 1.0, tx, 2).params

    assert_trees_close(pushed(own_rule)(0.1), jax.grad(own_rule)(0.1), F64_SAME)


def test_counts_of_numpy_are_counts():
    settings: dict[str, Any] = {"last": np.int64(1), "unroll": np.int64(2)}
    counted = Unroll(order=np.array([2])[0], **settings)
    assert counted == Unroll(last=1, unroll=2)
    assert str(counted) == str(Unroll(last=1, unroll=2))
    expected = jax.grad(lambda lr: final(lr, Unroll(last=1)))(0.1)
    assert_trees_close(jax.grad(lambda lr: final(lr, counted))(0.1), expected, F64_SAME)


def test_errors_of_the_users_own_stay():
    def callback(grads):
        raise TypeError("my own")

    tx, square = jmeta.optim.sgd(), lambda w: w**2
    with pytest.raises(TypeError, match=r"^my own"):
        jmeta.inner_loop(square, 1.0, tx, 2, grad_callback=callback)
