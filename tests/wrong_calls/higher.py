"""Wrong calls of higher's interface."""

from typing import Any

import jax.numpy as jnp
import optax

import jmeta
from tests.wrong_calls.table import WrongCall

SGD = jmeta.optim.sgd(lr=0.1)
LINE = (lambda w, x: w * x, jnp.array(1.0))
X = 2.0


def call(name, *args: Any, **kwargs: Any):
    return lambda: getattr(jmeta, name)(*args, **kwargs)


def opened(model: Any = LINE, tx: Any = SGD, **options: Any):
    """Open the context, and take a step."""

    def enter():
        with jmeta.innerloop_ctx(model, tx, **options) as (fmodel, diffopt):
            diffopt.step(lambda: fmodel(X) ** 2)

    return enter


def act(do):
    """Act on a model and an optimizer that are as they should be."""

    def enter():
        with jmeta.innerloop_ctx(LINE, SGD) as (fmodel, diffopt):
            do(fmodel, diffopt)

    return enter


def stepped(**options: Any):
    return act(lambda f, d: d.step(lambda: f(X) ** 2, **options))


def ran(steps: Any = 2, **options: Any):
    return act(lambda f, d: d.run(lambda: f(X) ** 2, steps, **options))


ROWS = [
    WrongCall(
        *("innerloop_ctx-swapped", opened(SGD, LINE)),
        *(TypeError, "model", "an optax transform", "`innerloop_ctx(model, tx)`"),
    ),
    WrongCall(
        *("innerloop_ctx-tx-rate", opened(tx=0.1)),
        *(TypeError, "tx", "0.1", "`jmeta.optim.sgd(lr=0.1)`"),
    ),
    WrongCall(
        *("innerloop_ctx-tx-factory", opened(tx=optax.adam)),
        *(TypeError, "tx", "the function adam", "Call it: pass `adam(...)`"),
    ),
    WrongCall(
        *("innerloop_ctx-device-string", opened(device="cpu")),
        *(TypeError, "device", "'cpu'", "`jax.devices('cpu')[0]`"),
    ),
    WrongCall(
        *("innerloop_ctx-device-torch", opened(device="cuda:1")),
        *(TypeError, "device", "'cuda:1'", "`jax.devices('gpu')[1]`"),
    ),
    WrongCall(
        *("innerloop_ctx-device-number", opened(device=0)),
        *(TypeError, "device", "0", "sharding"),
    ),
    WrongCall(
        *("innerloop_ctx-override-number", opened(override=0.1)),
        *(TypeError, "override", "0.1", "{'lr': [0.1]}"),
    ),
    WrongCall(
        *("innerloop_ctx-override-list", opened(override=[0.1])),
        *(TypeError, "override", "a list", "{'lr': [0.1]}"),
    ),
    WrongCall(
        *("innerloop_ctx-override-empty", opened(override={"lr": []})),
        *(ValueError, "override", "got 0", "one value for `lr`"),
    ),
    WrongCall(
        *("innerloop_ctx-override-no-label", opened(override={"lr": {}})),
        *(ValueError, "override", "an empty mapping", "Leave the name out"),
    ),
    WrongCall(
        *("innerloop_ctx-grad_callback-arguments", opened(grad_callback=lambda: 0)),
        *(TypeError, "grad_callback", "too many positional", "1 argument"),
    ),
    WrongCall(
        *("innerloop_ctx-override-too-many", opened(override={"lr": [0.1, 0.2]})),
        *(ValueError, "override", "got 2", "a single group"),
    ),
    WrongCall(
        *("innerloop_ctx-copy_initial_weights", opened(copy_initial_weights="no")),
        *(TypeError, "copy_initial_weights", "'no'", "True or False"),
    ),
    WrongCall(
        *("innerloop_ctx-track_higher_grads", opened(track_higher_grads=None)),
        *(TypeError, "track_higher_grads", "None", "True or False"),
    ),
    WrongCall(
        *("innerloop_ctx-grad_callback-number", opened(grad_callback=1.0)),
        *(TypeError, "grad_callback", "1.0", "gradients to gradients"),
    ),
    WrongCall(
        *("innerloop_ctx-opt_state", opened(opt_state=optax.adam(0.1).init(1.0))),
        *(ValueError, "opt_state", "ScaleByAdamState", "`tx.init(params)`"),
    ),
    WrongCall(
        *("innerloop_ctx-params-integers", opened((LINE[0], jnp.array(1)))),
        *(TypeError, "params", "int64", "float arrays"),
    ),
    WrongCall(
        *("monkeypatch-transform", call("monkeypatch", SGD)),
        *(TypeError, "model", "an optax transform", "nnx module"),
    ),
    WrongCall(
        *("monkeypatch-four-parts", call("monkeypatch", (LINE[0], 1.0, 2.0, 3.0))),
        *(TypeError, "model", "4 entries", "`(apply_fn, params)`"),
    ),
    WrongCall(
        *("monkeypatch-model-of-fast-params", act(lambda f, d: jmeta.monkeypatch(f))),
        *(TypeError, "model", "fast parameters already", "what it was made of"),
    ),
    WrongCall(
        *("monkeypatch-params-string", call("monkeypatch", (LINE[0], {"w": "one"}))),
        *(TypeError, "model", "'one'", "Its second entry is `params`"),
    ),
    WrongCall(
        *("monkeypatch-device", call("monkeypatch", LINE, device="tpu")),
        *(TypeError, "device", "'tpu'", "`jax.devices('tpu')[0]`"),
    ),
    WrongCall(
        *("fmodel-time-float", act(lambda f, d: f.parameters(time=1.5))),
        *(TypeError, "time", "1.5", "Python integer"),
    ),
    WrongCall(
        *("fmodel-time-to-come", act(lambda f, d: f.parameters(time=99))),
        *(IndexError, "time", "99", "from 0"),
    ),
    WrongCall(
        *("fmodel-fast_params-tree", act(lambda f, d: setattr(f, "fast_params", [X]))),
        *(ValueError, "fast_params", "PyTreeDef([*])", "parameters before"),
    ),
    WrongCall(
        "fmodel-fast_params-shape",
        act(lambda f, d: setattr(f, "fast_params", jnp.ones(2))),
        *(ValueError, "fast_params", "(2,)", "expected ()"),
    ),
    WrongCall(
        *(
            "fmodel-fast_params-string",
            act(lambda f, d: setattr(f, "fast_params", "a")),
        ),
        *(TypeError, "fast_params", "'a'", "float arrays"),
    ),
    WrongCall(
        *("diffopt-step-loss", act(lambda f, d: d.step(f(X) ** 2))),
        *(TypeError, "step", "an array", "`diffopt.step(lambda: loss(fmodel(x), y))`"),
    ),
    WrongCall(
        *("diffopt-step-outputs-before", act(lambda f, d: d.step(lambda: X))),
        *(ValueError, "fmodel", "does not call", "`diffopt.step(lambda: loss"),
    ),
    WrongCall(
        *("diffopt-step-pair", act(lambda f, d: d.step(lambda: (f(X), X)))),
        *(ValueError, "fmodel", "a tuple of 2", "the loss alone"),
    ),
    WrongCall(
        *("diffopt-step-override", stepped(override=0.1)),
        *(TypeError, "override", "0.1", "mapping"),
    ),
    WrongCall(
        *("diffopt-step-override-empty", stepped(override={"lr": []})),
        *(ValueError, "override", "got 0", "one value for `lr`"),
    ),
    WrongCall(
        *("diffopt-step-name", stepped(override={"learning_rate": [0.1]})),
        *(ValueError, "hyperparams", "'learning_rate'", "Use `lr`"),
    ),
    WrongCall(
        *("diffopt-step-grad_callback", stepped(grad_callback="clip")),
        *(TypeError, "grad_callback", "'clip'", "function"),
    ),
    WrongCall(
        *("diffopt-step-params", stepped(params="w")),
        *(TypeError, "params", "'w'", "float arrays"),
    ),
    WrongCall(
        *("diffopt-run-steps", ran(2.0)),
        *(TypeError, "steps", "2.0", "Python integer"),
    ),
    WrongCall(
        *("diffopt-run-batches", ran(batches=jnp.ones(3))),
        *(TypeError, "loss_fn(batch)", "arguments ()", "function"),
    ),
    WrongCall(
        *("diffopt-run-adjoint-class", ran(adjoint=jmeta.Unroll)),
        *(TypeError, "adjoint", "the class Unroll", "Call it: pass `Unroll(...)`"),
    ),
    WrongCall(
        *("diffopt-run-adjoint-string", ran(adjoint="unroll")),
        *(TypeError, "adjoint", "'unroll'", "`ForwardMode()`"),
    ),
    WrongCall(
        *("diffopt-run-adjoint-solver", ran(adjoint=jmeta.CG())),
        *(TypeError, "adjoint", "a CG", "1 argument"),
    ),
    WrongCall(
        *("get_diff_optim-swapped", call("get_diff_optim", 1.0, SGD)),
        *(TypeError, "tx", "1.0", "optax transform"),
    ),
    WrongCall(
        *("get_diff_optim-params-none", call("get_diff_optim", SGD, None)),
        *(TypeError, "params", "None", "what the optimizer trains"),
    ),
    WrongCall(
        *("get_diff_optim-params-empty", call("get_diff_optim", SGD, {})),
        *(ValueError, "params", "a dict", "one or more"),
    ),
    WrongCall(
        *("get_diff_optim-fmodel-pair", call("get_diff_optim", SGD, 1.0, LINE)),
        *(TypeError, "fmodel", "a tuple", "`monkeypatch`"),
    ),
    WrongCall(
        *("get_diff_optim-device", call("get_diff_optim", SGD, 1.0, device="gpu")),
        *(TypeError, "device", "'gpu'", "`jax.devices('gpu')[0]`"),
    ),
    WrongCall(
        *("create_diff_optim-transform", call("create_diff_optim", SGD, params=1.0)),
        *(TypeError, "opt_type", "a GradientTransformation", "`get_diff_optim`"),
    ),
    WrongCall(
        *("create_diff_optim-name", call("create_diff_optim", "SGD", params=1.0)),
        *(TypeError, "opt_type", "'SGD'", "`jmeta.optim.sgd`"),
    ),
    WrongCall(
        "create_diff_optim-kwargs-number",
        call("create_diff_optim", jmeta.optim.sgd, 0.1, params=1.0),
        *(TypeError, "opt_kwargs", "0.1", "{'lr': 0.1}"),
    ),
    WrongCall(
        "create_diff_optim-kwargs-name",
        call("create_diff_optim", jmeta.optim.sgd, {"rate": 0.1}, params=1.0),
        *(TypeError, "opt_kwargs", "rate", "`momentum`"),
    ),
    WrongCall(
        "create_diff_optim-no-factory",
        call("create_diff_optim", lambda: 3, params=1.0),
        *(TypeError, "opt_type", "made 3", "`jmeta.optim.sgd`"),
    ),
    WrongCall(
        *("create_diff_optim-nothing", call("create_diff_optim", jmeta.optim.sgd)),
        *(ValueError, "params", "None", "to be trained"),
    ),
    WrongCall(
        "create_diff_optim-fmodel",
        call("create_diff_optim", jmeta.optim.sgd, fmodel=LINE),
        *(ValueError, "fmodel", "a tuple", "Pass `params` or `fmodel`"),
    ),
    WrongCall(
        *("get_trainable_opt_params-rate", call("get_trainable_opt_params", 0.1)),
        *(TypeError, "tx", "0.1", "optax transform"),
    ),
    WrongCall(
        "get_trainable_opt_params-state",
        call("get_trainable_opt_params", SGD.init(jnp.ones(2))),
        *(TypeError, "tx", "State", "optax transform"),
    ),
    WrongCall(
        *("apply_trainable_opt_params-tx", call("apply_trainable_opt_params", {}, {})),
        *(TypeError, "tx", "a dict", "optax transform"),
    ),
    WrongCall(
        "apply_trainable_opt_params-values",
        call("apply_trainable_opt_params", SGD, [0.1]),
        *(TypeError, "values", "a list", "`get_trainable_opt_params(tx)`"),
    ),
    WrongCall(
        "apply_trainable_opt_params-empty",
        lambda: jmeta.apply_trainable_opt_params(SGD, {"lr": []}).init(1.0),
        *(ValueError, "override", "got 0", "one value for `lr`"),
    ),
]
