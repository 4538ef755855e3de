"""A function gets a PRNG key if and only if it has a parameter named `key`."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen

import jmeta
from jmeta import algorithms as alg
from jmeta._core.key_argument import key_parameter

partial = functools.partial


class Noisy(linen.Module):
    def __call__(self, x, *, key):
        return x * jax.random.normal(key)

    def quiet(self, x):
        return x

    def encode(self, x, key=None):
        return self(x, key=key)


class Loss:
    def __call__(self, w, task, key=None): ...

    def method(self, w, task, *, key): ...

    @jax.jit
    def compiled(self, w, task, key): ...

    @staticmethod
    def static(w, task, key): ...


def named(w, task, key): ...


def only_by_name(w, task, *, key=None): ...


def variadic(*args, key): ...


def temperature(w, task, temperature=1e9): ...


def keywords(w, task, **kwargs): ...


def by_position(key, w, task, /): ...


@functools.wraps(named)
def takes_less(w, task): ...


@functools.wraps(named)
def takes_all(*args, **kwargs): ...


apply, loss = Noisy().apply, Loss()

TAKES = {
    "by name or position": named,
    "by name": only_by_name,
    "any number of arguments": variadic,
    "partial": partial(only_by_name),
    "a key that a partial binds is a default": partial(named, key=1),
    "partial of partial": partial(partial(named, task=1)),
    "jax's partial": jax.tree_util.Partial(named),
    "jit": jax.jit(only_by_name),
    "checkpoint": jax.checkpoint(named),
    "custom_vjp": jax.custom_vjp(named),
    "partial of jit": partial(jax.jit(named)),
    "wraps": takes_all,
    "object": loss,
    "method": loss.method,
    "jitted method": loss.compiled,
    "jit of a method": jax.jit(loss.method),
    "static method": loss.static,
    "linen": apply,
    "linen, partial": partial(apply, rngs=None),
    "linen, method by name": partial(apply, method="encode"),
    "linen, method": partial(apply, method=Noisy.encode),
    "linen, bound method": partial(apply, method=Noisy().encode),
    "linen, jit": jax.jit(apply),
    "linen, jit of partial": jax.jit(partial(apply, method="encode")),
}
TAKES_NONE = {
    "another third parameter": temperature,
    "keywords": keywords,
    "by position alone": by_position,
    "bound by position": partial(named, 1, 2, 3),
    "wraps what takes one": takes_less,
    "jit": jax.jit(temperature),
    "builtin": max,
    "linen": linen.Dense(3).apply,
    "linen, method by name": partial(apply, method="quiet"),
    "linen, method": partial(apply, method=Noisy.quiet),
    "linen, bound method": jax.jit(partial(apply, method=Noisy().quiet)),
}


@pytest.mark.parametrize("name", TAKES)
def test_has_a_key(name):
    fn = TAKES[name]
    args = () if isinstance(fn, partial) and fn.keywords.get("task") else (0,)
    assert key_parameter(fn, 0, *args) is not None


@pytest.mark.parametrize("name", TAKES_NONE)
def test_has_no_key(name):
    fn = TAKES_NONE[name]
    args = (0, 0, 0)[len(fn.args) :] if isinstance(fn, partial) else (0, 0)
    assert key_parameter(fn, *args) is None


KEY = jax.random.key(0)
NORMAL = lambda i: jax.random.normal(jax.random.fold_in(KEY, i))
TASKS = jnp.arange(1.0, 3.0)


def noisy(w, task, *, key):
    return w * task * jax.random.normal(key)


def hot(w, task, temperature=1e9):
    return w * task / temperature


def test_tasks_pass_a_key_by_its_name():
    means = jnp.mean(jnp.array([NORMAL(0), 2 * NORMAL(1)]))
    loss, grad = jmeta.task_value_and_grad(noisy)(2.0, TASKS, KEY)
    assert jnp.allclose(jnp.array([loss, grad]), jnp.array([2 * means, means]))
    each = jmeta.task_map(jax.jit(noisy), chunk_size=1)(2.0, TASKS, KEY)
    assert jnp.allclose(each, 2 * TASKS * jnp.array([NORMAL(0), NORMAL(1)]))


def test_tasks_leave_another_parameter_alone():
    loss, _ = jmeta.task_value_and_grad(hot)(2.0, TASKS, KEY)
    assert jnp.allclose(loss * 1e9, 3.0)
    assert jnp.allclose(jmeta.task_map(hot)(2.0, TASKS, KEY) * 1e9, 2 * TASKS)


@pytest.mark.parametrize("raw", [False, True])
def test_fit_passes_a_key_by_its_name(raw):
    key = jax.random.PRNGKey(3) if raw else jax.random.key(3)
    options = {"log_every": 1, "progress": False, "key": key}
    sample = lambda some_key: TASKS
    run = lambda loss, tx: jmeta.fit(
        loss, 1.0, tx, sample, 1, validate=jmeta.Validation(loss, sample), **options
    )
    fitted = run(hot, optax.sgd(1e9))
    assert jnp.allclose(fitted.params, 1.0 - 1.5)
    assert jnp.allclose(fitted.history[0]["validation_loss"] * 1e9, -0.75)
    task_key = jax.random.split(jax.random.fold_in(key, 0))[1]
    each = [
        TASKS[i] * jax.random.normal(jax.random.fold_in(task_key, i)) for i in (0, 1)
    ]
    assert jnp.allclose(run(noisy, optax.sgd(1.0)).params, 1.0 - sum(each) / 2)


def test_estimators_pass_a_key_that_the_arguments_leave():
    def fn(w, scale, key):
        return scale * w**2 + jax.random.normal(key)

    options = {"sigma": 1e-3, "samples": 4}
    value_and_grad = jmeta.es_value_and_grad(fn, **options)
    given = value_and_grad(1.0, 2.0, KEY, key=KEY)
    bound = jmeta.es_value_and_grad(lambda w, s: fn(w, s, KEY), **options)(
        1.0, 2.0, key=KEY
    )
    assert given == bound
    value, grad = value_and_grad(1.0, 2.0, key=KEY)
    # the noise is another in each sample, and the same at its two points
    assert abs(value - given[0]) > 0.01
    assert jnp.allclose(grad, given[1])


def test_a_key_that_is_required_is_asked_for():
    for call in (
        lambda: jmeta.task_value_and_grad(noisy)(2.0, TASKS),
        lambda: jmeta.task_map(partial(noisy))(2.0, TASKS),
    ):
        with pytest.raises(TypeError, match=r"parameter `key` without a default and"):
            call()
    x = jnp.ones(2)
    task_loss = alg.maml(apply, jmeta.optim.sgd(), 1, loss_fn=lambda y, t: y.sum())
    task = jmeta.Task(support=(x, x), query=(x, x))
    with pytest.raises(TypeError, match="`apply_fn` has a parameter `key` without"):
        task_loss({"params": {"w": 1.0}}, task)


@pytest.mark.parametrize("raw", [False, True])
def test_a_key_through_partials_in_algorithms(raw):
    class Scaled(linen.Module):
        @linen.compact
        def __call__(self, x, key=None):
            w = self.param("w", linen.initializers.ones, ())
            return w * x * (1.0 if key is None else jax.random.normal(key))

    apply_fn = partial(Scaled().apply, mutable=False)
    task_loss = alg.maml(
        apply_fn, jmeta.optim.sgd(), 0, loss_fn=lambda y, t: jnp.sum(y - t)
    )
    task = jmeta.Task(support=(0.0, 0.0), query=(1.0, 0.0))
    params = {"params": {"w": 1.0}}
    key = jax.random.PRNGKey(0) if raw else KEY
    assert task_loss(params, task)[0] == 1.0
    drawn = jax.random.normal(jax.random.fold_in(key, 0))
    assert jnp.allclose(task_loss(params, task, key)[0], drawn)
