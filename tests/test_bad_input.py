"""Every wrong call of the loop fails when it is traced, and says what to do."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx

import jmeta
from jmeta import PerLeaf, PerStep, inner_loop

PARAMS = {"w": jnp.ones(3)}
SGD = jmeta.optim.sgd(lr=0.1)
ADAM = jmeta.optim.adam()


def square(params, *args, **kwargs):
    del args, kwargs
    return jnp.sum(params["w"] ** 2)


def loop(
    apply_fn: Any = square, params=PARAMS, tx: Any = SGD, steps: Any = 2, **kwargs
):
    return inner_loop(apply_fn, params, tx, steps, **kwargs)


def override(tx=SGD, params=PARAMS, **hyperparams):
    return loop(tx=tx, params=params, hyperparams=hyperparams)


def traced_steps():
    jax.jit(lambda n: loop(steps=n).losses)(2)


def two_sgds():
    return optax.chain(jmeta.optim.sgd(), jmeta.optim.sgd())


def groups():
    labels = {"body": "a", "head": "b"}
    return optax.partition({"a": jmeta.optim.sgd(), "b": ADAM}, labels)


BODY_HEAD = {"body": jnp.ones(2), "head": jnp.ones(2)}


def both(params):
    return jnp.sum(params["body"] ** 2) + jnp.sum(params["head"] ** 2)


def grouped(**hyperparams):
    return loop(both, BODY_HEAD, groups(), hyperparams=hyperparams)


STEPS = {
    "negative": (lambda: loop(steps=-1), ValueError, r"`steps` .* at least 0; got -1"),
    "float": (lambda: loop(steps=2.0), TypeError, "Python integer; got 2.0"),
    "bool": (lambda: loop(steps=True), TypeError, "Python integer; got True"),
    "array": (lambda: loop(steps=jnp.array(2)), TypeError, "must be a Python integer"),
    "traced": (traced_steps, TypeError, "traced value. Pass .* traced one as `active`"),
}  # fmt: skip

MODELS = {
    "nnx": (
        lambda: loop(nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        TypeError,
        r"pure function; got the module Linear.*make_functional\(module\)",
    ),
    "linen": (lambda: loop(linen.Dense(2)), TypeError, "got the module Dense"),
    "none": (lambda: loop(None), TypeError, "must be a function .* got None"),
    "integers": (
        lambda: loop(params={"w": jnp.arange(3)}),
        TypeError,
        r"must be floats; leaf .*\['w'\].* has dtype int64.*trainable",
    ),
    "complex": (
        lambda: loop(params={"w": jnp.ones(3, complex)}), TypeError, "must be floats",
    ),
    "nothing": (lambda: loop(params={}), ValueError, "must be a parameter to train"),
    "frozen": (
        lambda: loop(trainable=lambda path: False), ValueError, "`trainable` .* none",
    ),
}  # fmt: skip

TRANSFORMS = {
    "number": (lambda: loop(tx=0.1), TypeError, r"got 0.1\. Pass `.*sgd\(lr=0.1\)`"),
    "factory": (lambda: loop(tx=optax.adam), TypeError, r"Call it: pass `adam\("),
    "class": (lambda: loop(tx=nnx.Optimizer), TypeError, "got the class Optimizer"),
    "nnx.Optimizer": (
        lambda: loop(
            tx=nnx.Optimizer(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), SGD, wrt=nnx.Param)
        ),
        TypeError,
        r"got an? \w*Optimizer\. .* its attribute `\.tx`",
    ),
    "MultiSteps": (
        lambda: loop(tx=optax.MultiSteps(SGD, 2)),
        TypeError,
        r"`\.gradient_transformation\(\)`",
    ),
    "string": (lambda: loop(tx="sgd"), TypeError, "got 'sgd'. Pass an optax transform"),
    "opt_state of another": (
        lambda: loop(opt_state=ADAM.init(PARAMS)),
        ValueError,
        "`opt_state` must be a state of `tx` .* got .*AdamState.* expected .*SGDState",
    ),
    "opt_state of other shapes": (
        lambda: loop(opt_state=SGD.init({"w": jnp.ones(4)})),
        ValueError,
        r"momentum_buffer.*w.* has shape \(4,\), expected \(3,\)",
    ),
}  # fmt: skip

BATCHES = {
    "both": (lambda: loop(batch=1.0, batches=jnp.ones(2)), ValueError, "not both"),
    "length": (
        lambda: loop(batches={"x": jnp.ones(2), "y": jnp.ones((4, 3))}),
        ValueError,
        r"leading length `steps`=2 on every leaf; leaf .*y.* has shape \(4, 3\)",
    ),
    "scalar": (lambda: loop(batches={"x": 1.0}), ValueError, r"x.* has shape \(\)"),
    "no batch": (
        lambda: loop(loss_fn=lambda a, b: a), ValueError, "`loss_fn` .* needs `batch=",
    ),
    "no pair": (
        lambda: loop(loss_fn=lambda a, b: a, batch=jnp.ones(2)),
        ValueError,
        r"must be a pair `\(inputs, targets\)`",
    ),
    "perturbations of another tree": (
        lambda: loop(perturbations=jnp.zeros((3, 3))), ValueError, "a tree like",
    ),
    "perturbations without the last time": (
        lambda: loop(perturbations={"w": jnp.zeros((2, 3))}),
        ValueError,
        r"`steps \+ 1` .*w.* has shape \(2, 3\), expected \(3, 3\)",
    ),
}  # fmt: skip

OBJECTIVES = {
    "vector": (
        lambda: loop(lambda p: p["w"] ** 2),
        ValueError,
        r"a scalar loss; got an array of shape \(3,\). Reduce it, .*`\.mean\(\)`",
    ),
    "python float": (
        lambda: loop(lambda p: 1.5), TypeError, "got the number 1.5, which has no grad",
    ),
    "float()": (
        lambda: loop(lambda p: float(square(p))), TypeError, "must stay in JAX",
    ),
    "item()": (
        lambda: loop(lambda p: square(p).item()), TypeError, "Return the JAX scalar",
    ),
    "constant": (
        lambda: loop(lambda p: jnp.ones(())), ValueError, "does not depend on",
    ),
    "stop_gradient": (
        lambda: loop(lambda p: square(jax.lax.stop_gradient(p))),
        ValueError,
        "does not depend on .*`stop_gradient`",
    ),
    "only frozen": (
        lambda: loop(
            lambda p: jnp.sum(p["body"]), BODY_HEAD, trainable=lambda p: p == ("head",)
        ),
        ValueError,
        "does not depend on the trained parameters",
    ),
    "integer": (
        lambda: loop(lambda p: jnp.argmax(p["w"])), ValueError, "got dtype int64",
    ),
    "undeclared aux": (
        lambda: loop(lambda p: (square(p), 1)), ValueError, "set `has_aux=True`",
    ),
    "missing aux": (
        lambda: loop(has_aux=True), ValueError, r"must be `\(loss, aux\)`; got",
    ),
    "vector with aux": (
        lambda: loop(lambda p: (p["w"], 1), has_aux=True),
        ValueError,
        r"with a scalar loss; got an array of shape \(3,\)",
    ),
    "missing state": (
        lambda: loop(state={"n": 0}), ValueError, r"must give `\(outputs, new_state\)`",
    ),
    "state of another tree": (
        lambda: loop(lambda p, s: (square(p), 1.0), state={"n": 0}),
        ValueError,
        "a new state like `state`; got",
    ),
    "state of another shape": (
        lambda: loop(lambda p, s: (square(p), {"n": jnp.ones(2)}), state={"n": 0.0}),
        ValueError,
        r"leaf \['n'\] went from \(\) to \(2,\)",
    ),
    "grad_callback of another tree": (
        lambda: loop(grad_callback=lambda g: g["w"]), ValueError, "must give gradients",
    ),
    "grad_callback of another shape": (
        lambda: loop(grad_callback=lambda g: {"w": jnp.ones(())}),
        ValueError,
        r"keep the shapes .*w.* from \(3,\) to \(\)",
    ),
}  # fmt: skip

HYPERPARAMS = {
    "name": (
        lambda: override(learning_rate=0.1),
        ValueError,
        "no entry 'learning_rate'; .*`lr`, `momentum`, `weight_decay`. Use `lr`",
    ),
    "name, no steps": (
        lambda: loop(steps=0, hyperparams={"rate": 1.0}), ValueError, "no entry 'rate'",
    ),
    "none in the state": (
        lambda: override(optax.sgd(0.1), lr=0.1), ValueError, "keeps none in its state",
    ),
    "length": (
        lambda: override(lr=jnp.ones(3)),
        ValueError,
        r"`lr` per step must have leading length `steps`=2; got shape \(3,\)",
    ),
    "rank": (
        lambda: override(lr=jnp.ones((2, 2))), ValueError, r"got shape \(2, 2\)",
    ),
    "callable's rank": (
        lambda: override(lr=lambda step: jnp.ones(2)), ValueError, "at each step",
    ),
    "per step rank": (
        lambda: override(lr=PerStep(jnp.ones((2, 3)))), ValueError, r"PerLeaf\(tree\)",
    ),
    "list": (lambda: override(lr=[0.1, 0.2]), ValueError, "a list is no override"),
    "string": (lambda: override(lr="fast"), TypeError, "must be a number.* got 'fast'"),
    "bool": (lambda: override(lr=True), TypeError, "must be a number"),
    "half a pair": (
        lambda: override(ADAM, betas=0.9), ValueError, "`betas` is a tuple or list of",
    ),
    "three of a pair": (
        lambda: override(ADAM, betas=(0.9, 0.9, 0.9)), ValueError, "list of 2 values",
    ),
    "PerLeaf of another tree": (
        lambda: override(lr=PerLeaf({"v": 0.1})), ValueError, "tree, or prefix, of",
    ),
    "PerLeaf too large": (
        lambda: loop(steps=1, hyperparams={"lr": PerLeaf({"w": jnp.ones((3, 1))})}),
        ValueError,
        r"broadcast to their parameter; got shape \(3, 1\) .* shape \(3,\)",
    ),
    "PerLeaf for optax": (
        lambda: override(
            optax.inject_hyperparams(optax.sgd)(0.1),
            learning_rate=PerLeaf({"w": jnp.ones(3)}),
        ),
        ValueError,
        "one number for all parameters",
    ),
    "twice": (
        lambda: override(two_sgds(), lr=0.1),
        ValueError,
        "`lr` occurs 2 times in this transform. .*optax.named_chain",
    ),
    "label": (
        lambda: grouped(lr={"c": 0.1}),
        ValueError,
        r"`lr` has no group or part labelled 'c'; there are \['a', 'b'\]",
    ),
    "label without the name": (
        lambda: grouped(betas={"a": (0.9, 0.9)}), ValueError, r"there are \['b'\]",
    ),
    "schedule of optax": (
        lambda: override(
            optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1.0, 0.0, 2)),
            learning_rate=0.1,
        ),
        ValueError,
        "`learning_rate` follows a schedule inside optax.inject_hyperparams",
    ),
}  # fmt: skip

RUNS = {
    "time": (
        lambda: loop(history=True).parameters(time=99), IndexError, "to 2 .* got 99",
    ),
    "negative time": (
        lambda: loop(history=True).parameters(time=-4), IndexError, "got -4",
    ),
    "no history": (lambda: loop().parameters(0), ValueError, "history=True"),
    "several runs": (
        lambda: jax.vmap(lambda w: loop(params={"w": w}, history=True))(
            jnp.ones((2, 3))
        ).parameters(0),
        ValueError,
        r"single loop; got one with `losses` of shape \(2, 2\)",
    ),
}  # fmt: skip

CALLS = {
    f"{table}: {name}": row
    for table, rows in {
        "steps": STEPS,
        "model": MODELS,
        "tx": TRANSFORMS,
        "batch": BATCHES,
        "objective": OBJECTIVES,
        "hyperparams": HYPERPARAMS,
        "run": RUNS,
    }.items()
    for name, row in rows.items()
}


@pytest.mark.parametrize("name", CALLS)
def test_refused(name):
    call, error, message = CALLS[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    "name", [name for name in CALLS if not name.startswith("steps: traced")]
)
def test_refused_under_jit(name):
    """At trace time: nothing waits until the compiled program runs."""
    call, error, message = CALLS[name]
    with pytest.raises(error, match=f"(?s){message}"):
        jax.eval_shape(lambda: (call(), 0)[1])


def test_the_right_calls_pass():
    """What the table varies is accepted as it stands."""
    assert loop().losses.shape == (2,)
    assert grouped(lr={"a": 0.1}, betas={"b": (0.9, 0.9)}).losses.shape == (2,)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        loop(lambda p: square(p) if p["w"][0] > 0 else 0.0)
