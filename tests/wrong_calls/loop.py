"""Wrong calls of `inner_loop` and of the run that it gives."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

import jmeta
from jmeta import CG, PerStep, Unroll
from tests.wrong_calls.table import WrongCall

SGD = jmeta.optim.sgd(momentum=0.5)


def square(w, *inputs, **kwargs):
    del inputs, kwargs
    return jnp.sum(w**2)


def loop(
    steps: Any = 2,
    apply_fn: Any = square,
    params: Any = None,
    tx: Any = SGD,
    **kwargs: Any,
):
    params = jnp.ones(3) if params is None else params
    return jmeta.inner_loop(apply_fn, params, tx, steps, **kwargs)


def lr(value, **kwargs):
    return loop(hyperparams={"lr": value}, **kwargs)


def opt_state(**fields):
    state: Any = SGD.init(jnp.ones(3))
    return loop(opt_state=state._replace(**fields))


def grad(**kwargs):
    return jax.grad(lambda w: jnp.sum(loop(params=w, **kwargs).params))(jnp.ones(3))


def by_line_search(tx, steps=2):
    # optax's line search mixes dtypes
    with jax.numpy_dtype_promotion("standard"):
        return grad(tx=tx, steps=steps)


def traced_steps():
    jax.jit(lambda n: loop(n).losses)(2)


def update(new_state):
    """A transform whose state becomes another."""
    tx = optax.GradientTransformation(
        lambda params: jnp.ones(2),
        lambda updates, state, params=None: (updates, new_state),
    )
    return lambda: loop(tx=tx)


TYPE, VALUE = TypeError, ValueError
OUT_OF_STEPS = "a number of steps from 0 to `steps`=2"

# what is wrong, the call, and what the error says
CALLS = [
    ("steps-float", lambda: loop(2.0), TYPE, "steps", "2.0", "Python integer"),
    ("steps-string", lambda: loop("2"), TYPE, "steps", "'2'", "Python integer"),
    ("steps-bool", lambda: loop(True), TYPE, "steps", "True", "Python integer"),
    ("steps-traced", traced_steps, TYPE, "steps", "a traced", "as `active`"),
    ("steps-negative", lambda: loop(-1), VALUE, "steps", "-1", "at least 0"),
    (
        *("steps-none-implicitly", lambda: loop(0, adjoint=jmeta.Implicit()), VALUE),
        *("steps", "got 0", "Use `Unroll()`"),
    ),
    (
        *("apply_fn-number", lambda: loop(apply_fn=3), TYPE, "apply_fn", "got 3"),
        "jmeta.make_functional",
    ),
    (
        *("apply_fn-no-argument", lambda: loop(apply_fn=lambda: 1.0), TYPE),
        *("apply_fn", "the signature `()`", "It gets the parameters"),
    ),
    (
        *("apply_fn-no-inputs", lambda: loop(apply_fn=lambda w: 1.0, batch=1.0), TYPE),
        *("apply_fn", "the signature `(w)`", "inputs with `batch`"),
    ),
    (
        *("apply_fn-no-batch", lambda: loop(apply_fn=lambda w, x: 1.0), TYPE),
        *("apply_fn", "the signature `(w, x)`", "inputs with `batch`"),
    ),
    (
        *("apply_fn-no-state", lambda: loop(apply_fn=lambda w: 1.0, state=1.0), TYPE),
        *("apply_fn", "the signature `(w)`", "the model's state with `state`"),
    ),
    (
        "key-not-taken",
        lambda: loop(apply_fn=lambda w: 1.0, key=jax.random.key(0)),
        *(TYPE, "key", "the signature `(w)`", "a PRNG key, by that name, with `key`"),
    ),
    (
        *("key-not-given", lambda: loop(apply_fn=lambda w, *, key: 1.0), TYPE),
        *("key", "the signature `(w, *, key)`", "a PRNG key, by that name"),
    ),
    ("key-integer", lambda: loop(key=0), TYPE, "key", "got 0", "jax.random.key(0)"),
    (
        *("key-floats", lambda: loop(key=jnp.ones(2)), TYPE, "key"),
        *("an array of shape (2,) and dtype float64", "jax.random.key(0)"),
    ),
    (
        *("key-several", lambda: loop(key=jax.random.split(jax.random.key(0))), VALUE),
        *("key", "keys of shape (2,)", "jax.vmap"),
    ),
    (
        *("loss_fn-string", lambda: loop(loss_fn="mse", batch=(1.0, 2.0)), TYPE),
        *("loss_fn", "'mse'", "`loss_fn(outputs, targets)`"),
    ),
    (
        *("loss_fn-one-argument", lambda: loop(loss_fn=jnp.mean, batch=(1.0,)), VALUE),
        *("loss_fn", "tuple", "a pair `(inputs, targets)`"),
    ),
    (
        *("loss_fn-no-targets", lambda: loop(loss_fn=lambda y: y, batch=(1.0, 2.0))),
        *(TYPE, "loss_fn", "the signature `(y)`", "`loss_fn(outputs, targets)`"),
    ),
    (
        *("grad_callback-number", lambda: loop(grad_callback=1.0), TYPE),
        *("grad_callback", "1.0", "a function from gradients to gradients"),
    ),
    (
        *("grad_callback-transform", lambda: loop(grad_callback=optax.clip(1.0)), TYPE),
        *("grad_callback", "a GradientTransformation", "optax.chain(transform, tx)"),
    ),
    (
        *("grad_callback-none", lambda: loop(grad_callback=lambda g: None), VALUE),
        *("grad_callback", "PyTreeDef(None)", "like those it gets"),
    ),
    (
        "grad_callback-complex",
        lambda: loop(grad_callback=lambda grads: grads.astype(complex)),
        *(VALUE, "grad_callback", "complex128", "real floats"),
    ),
    (
        *("trainable-list", lambda: loop(trainable=["w"]), TYPE, "trainable", "a list"),
        "a predicate such as",
    ),
    (
        *("trainable-bool", lambda: loop(trainable=True), TYPE, "trainable", "True"),
        "a predicate such as",
    ),
    (
        *("trainable-no-argument", lambda: loop(trainable=lambda: True), TYPE),
        *("trainable", "the signature `()`", "a predicate such as"),
    ),
    (
        *("hyperparams-list", lambda: loop(hyperparams=[0.1]), TYPE, "hyperparams"),
        *("a list", '`{"lr": 0.1}`'),
    ),
    (
        *("hyperparams-number", lambda: loop(hyperparams=0.1), TYPE, "hyperparams"),
        *("0.1", '`{"lr": 0.1}`'),
    ),
    (
        *("hyperparams-empty-list", lambda: loop(hyperparams=[]), TYPE, "hyperparams"),
        *("a list", '`{"lr": 0.1}`'),
    ),
    ("lr-none", lambda: lr(None), TYPE, "lr", "None", "must be a number"),
    ("lr-class", lambda: lr(float), TYPE, "lr", "the class float", "must be a number"),
    (
        *("lr-complex", lambda: lr(jnp.ones(2, complex)), TYPE, "lr", "complex128"),
        "a scalar array",
    ),
    (
        *("lr-no-step", lambda: lr(lambda: 0.1), TYPE, "lr", "the signature `()`"),
        "a function of 1 argument",
    ),
    (
        *("lr-gives-a-string", lambda: lr(lambda step: "a"), TYPE, "lr", "'a'"),
        "must be a number",
    ),
    (
        *("lr-branches", lambda: lr(lambda step: 0.1 if step < 1 else 0.2), TYPE),
        *("lr", "Python number", "Use `jnp.where`"),
    ),
    (
        *("lr-indexes-a-list", lambda: lr(lambda step: [0.1, 0.2][step]), TYPE),
        *("lr", "Python number", "index a `jnp.array`"),
    ),
    (
        *("lr-per-step-bools", lambda: lr(PerStep(jnp.ones(2, bool))), TYPE, "lr"),
        *("dtype bool", "must be a number"),
    ),
    (
        *("adjoint-class", lambda: loop(adjoint=Unroll), TYPE, "adjoint"),
        *("the class Unroll", "Call it: pass `Unroll(...)`"),
    ),
    (
        *("adjoint-string", lambda: loop(adjoint="unroll"), TYPE, "adjoint"),
        *("'unroll'", "`Unroll()`"),
    ),
    (
        *("adjoint-none", lambda: loop(adjoint=None), TYPE, "adjoint", "None"),
        "`Unroll()`",
    ),
    (
        *("adjoint-solver", lambda: loop(adjoint=CG()), TYPE, "adjoint", "matvec"),
        "`Unroll()`",
    ),
    (
        *("adjoint-other-outcome", lambda: loop(adjoint=lambda loop: 3), TYPE),
        *("adjoint", "got 3", "gives an `Outcome`"),
    ),
    ("active-string", lambda: loop(active="a"), TYPE, "active", "'a'", OUT_OF_STEPS),
    ("active-float", lambda: loop(active=1.0), TYPE, "active", "1.0", OUT_OF_STEPS),
    ("active-bool", lambda: loop(active=True), TYPE, "active", "True", OUT_OF_STEPS),
    ("active-list", lambda: loop(active=[1]), TYPE, "active", "a list", OUT_OF_STEPS),
    (
        *("active-vector", lambda: loop(active=jnp.array([1, 2])), VALUE, "active"),
        *("shape (2,)", "one per task"),
    ),
    (
        *("active-traced-float", lambda: jax.jit(lambda n: loop(active=n).params)(1.0)),
        *(TYPE, "active", "a traced", "must be an integer"),
    ),
    ("active-negative", lambda: loop(active=-1), VALUE, "active", "-1", OUT_OF_STEPS),
    ("active-too-many", lambda: loop(active=3), VALUE, "active", "3", OUT_OF_STEPS),
    (
        *("active-of-no-steps", lambda: loop(0, active=1), VALUE, "active", "1"),
        "from 0 to `steps`=0",
    ),
    ("has_aux-integer", lambda: loop(has_aux=1), TYPE, "has_aux", "1", "True or False"),
    ("history-word", lambda: loop(history="all"), TYPE, "history", "'all'", "True or"),
    (
        *("aux-string", lambda: loop(apply_fn=lambda w: (w[0], "a"), has_aux=True)),
        *(TYPE, "aux", "'a'", "a pytree of arrays"),
    ),
    (
        *("params-string", lambda: loop(params=[1.0, "a"]), TYPE, "params"),
        *("'a' at the leaf '[1]'", "a pytree of arrays"),
    ),
    ("batch-string", lambda: loop(batch="abc"), TYPE, "batch", "'abc'", "of arrays"),
    (
        *("batches-objects", lambda: loop(batches=[object()]), TYPE),
        *("batches", "an object at the leaf '[0]'", "a pytree of arrays"),
    ),
    ("state-string", lambda: loop(state="a"), TYPE, "state", "'a'", "of arrays"),
    (
        *("perturbations-string", lambda: loop(perturbations="a"), TYPE),
        *("perturbations", "'a'", "a pytree of arrays"),
    ),
    (
        "opt_state-integers",
        lambda: opt_state(momentum_buffer=jnp.ones(3, int)),
        *(VALUE, "opt_state", "leaf '.momentum_buffer' has dtype int64", "Convert it"),
    ),
    (
        *("opt_state-float-step", lambda: opt_state(step=1.5), VALUE, "opt_state"),
        *("leaf '.step' has dtype float64", "expected int32"),
    ),
    (
        "opt_state-complex",
        lambda: opt_state(momentum_buffer=jnp.ones(3, complex)),
        *(VALUE, "opt_state", "leaf '.momentum_buffer' has dtype complex128"),
        "Convert it",
    ),
    (
        *("opt_state-string", lambda: opt_state(momentum_buffer="a"), TYPE),
        *("opt_state", "'a' at the leaf '.momentum_buffer'", "Pass a state of `tx`"),
    ),
    (
        *("opt_state-settings", lambda: opt_state(hyperparams={"lr": 0.1}), VALUE),
        *("opt_state", "the settings ['lr']", "expected ['dampening'"),
    ),
    ("tx-update-shape", update(jnp.ones(3)), VALUE, "tx.update", "(3,)", "must keep"),
    (
        *("tx-update-tree", update((jnp.ones(2),)), VALUE, "tx.update", "PyTreeDef"),
        "must keep the structure",
    ),
    (
        *("tx-line-search", lambda: by_line_search(optax.lbfgs()), VALUE, "tx"),
        *("optax's line search", "Use `jmeta.optim.lbfgs`"),
    ),
    (
        "tx-line-search-in-a-chain",
        lambda: by_line_search(optax.chain(optax.clip(1.0), optax.lbfgs()), 1),
        *(VALUE, "tx", "optax's line search", "Use `jmeta.optim.lbfgs`"),
    ),
]

TIMES = [
    ("float", 1.5, "1.5"),
    ("string", "a", "'a'"),
    ("none", None, "None"),
    ("bool", True, "True"),
    ("slice", slice(1), "a slice"),
]

ROWS = [WrongCall(f"inner_loop-{id}", *row) for id, *row in CALLS] + [
    WrongCall(
        f"run-parameters-{id}",
        lambda time=time: loop(history=True).parameters(time),
        *(TypeError, "time", got, "`history`"),
    )
    for id, time, got in TIMES
]
