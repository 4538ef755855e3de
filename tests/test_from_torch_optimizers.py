"""torch's optimizer states become those of our own runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jmeta import from_torch, inner_loop, optim
from tests.from_torch_cases import (
    LIKE,
    MLP_LIKE,
    MLP_NAMES,
    NAMES,
    OPTIMIZERS,
    SGD,
    TORCH_STATE,
    WEIGHTS,
    loss_fn,
    mlp,
    torch_optimizer_state,
)
from tests.helpers import F64_SAME, F64_TORCH, assert_trees_close
from tests.reference.read import case

# one configuration of each optimizer, with most of its features
TRAJECTORIES = (
    "sgd_momentum adam_amsgrad adamw nadam radam adagrad_full adadelta rmsprop"
    " rmsprop_full adamax asgd_strong rprop groups_rmsprop"
).split()


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_every_optimizers_state_is_the_one_of_our_own_run(name):
    row = case("trajectories", f"{name}/mlp")
    problem = case("problems", "mlp")
    make, order = OPTIMIZERS[row["optimizer"]], list(row["state"])
    groups = row.get("groups") or [{"params": order, **row["kwargs"]}]
    made = [make(**{k: v for k, v in g.items() if k != "params"}) for g in groups]
    if len(made) == 1:
        tx, labels = optax.chain(optax.identity(), made[0]), None
    else:
        labels = ["Dense_0", "Dense_1"]
        tx = optim.param_groups(dict(zip(labels, made, strict=True)), lambda p: p[0])
    start = {k: v[0] for k, v in row["params"].items()}
    run = jax.jit(
        lambda params: inner_loop(
            mlp,
            params,
            tx,
            row["steps"],
            loss_fn=loss_fn,
            batch=(problem["x"], problem["y"]),
        )
    )(from_torch.parameters(start, MLP_LIKE, names=MLP_NAMES))

    torch_state = {
        "state": {order.index(k): v for k, v in row["state"].items()},
        "param_groups": [
            {
                **one.init(MLP_LIKE).hyperparams,
                "params": [order.index(k) for k in group["params"]],
            }
            for one, group in zip(made, groups, strict=True)
        ],
    }
    opt_state = from_torch.optimizer_state(
        torch_state,
        tx.init(MLP_LIKE),
        names=MLP_NAMES,
        parameter_names=order,
        groups=labels,
    )

    def comparable(tree):
        nodes = jax.tree.leaves(tree, is_leaf=lambda node: hasattr(node, "hyperparams"))
        return [
            {k: v for k, v in node._asdict().items() if kept(k)}
            for node in nodes
            if hasattr(node, "hyperparams")
        ]

    def kept(field):
        # torch keeps no count for SGD, and no buffer without momentum
        held = row["state"][order[0]]
        return field not in ("step", "momentum_buffer") or field in held

    assert len(comparable(opt_state)) == len(groups)
    assert_trees_close(
        comparable(opt_state), comparable(run.opt_state), F64_TORCH, F64_SAME
    )
    leaves = [np.abs(x).max() for x in jax.tree.leaves(comparable(opt_state))]
    assert max(leaves) > 0


def test_an_optimizer_made_with_named_parameters_brings_its_names():
    [group] = TORCH_STATE["param_groups"]
    named = {**group, "param_names": list(WEIGHTS)}
    torch_state = {**TORCH_STATE, "param_groups": [named]}
    found = from_torch.optimizer_state(torch_state, SGD, names=NAMES)
    expected = from_torch.optimizer_state(
        TORCH_STATE, SGD, names=NAMES, parameter_names=list(WEIGHTS)
    )
    assert_trees_close(found, expected, 0.0)
    assert jax.tree.leaves(found.started) == [True] * 4


def test_an_optimizer_that_has_not_stepped_gives_its_settings():
    [group] = TORCH_STATE["param_groups"]
    torch_state = {"state": {}, "param_groups": [group]}
    found = from_torch.optimizer_state(
        torch_state, SGD, names=NAMES, parameter_names=list(WEIGHTS)
    )
    settings = {k: jnp.asarray(float(group[k])) for k in SGD.hyperparams}
    assert_trees_close(found, SGD._replace(hyperparams=settings), 0.0)


def test_a_parameter_that_torch_froze_need_not_be_in_like():
    state = {k: v for k, v in TORCH_STATE["state"].items() if k > 1}
    found = from_torch.optimizer_state(
        {**TORCH_STATE, "state": state},
        optim.sgd().init({"Dense_1": LIKE["Dense_1"]}),
        names=NAMES,
        parameter_names=list(WEIGHTS),
    )
    buffer = TORCH_STATE["state"][2]["momentum_buffer"]
    kernel = found.momentum_buffer["Dense_1"]["kernel"]
    assert_trees_close(kernel, buffer.T, 0.0)


def run_lbfgs(loss: Any, params: Any, tx: Any) -> Any:
    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params, value_fn=loss)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(4):
        params, state = step(params, state)
    return state


def test_lbfgs_has_its_vectors_in_another_order():
    problem = case("problems", "mlp")
    x, y = problem["x"], problem["y"]
    start, order = problem["params"], list(problem["params"])

    def convert(params):
        return from_torch.parameters(params, MLP_LIKE, names=MLP_NAMES)

    def loss_in_torch_layout(params):
        hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
        outputs = hidden @ params["2.weight"].T + params["2.bias"][None]
        return loss_fn(outputs, y)

    tx = optim.lbfgs(lr=0.5, max_iter=1, history_size=5)
    ours = run_lbfgs(lambda p: loss_fn(mlp(p, x), y), convert(start), tx)
    theirs = run_lbfgs(loss_in_torch_layout, start, tx)

    def in_torchs_order(vector):
        pieces, begin = {}, 0
        for name in sorted(start):
            pieces[name] = vector[begin : begin + start[name].size]
            begin += start[name].size
        return np.concatenate([pieces[name] for name in order])

    held = {k: np.asarray(v) for k, v in theirs._asdict().items() if k != "hyperparams"}
    entry: dict[str, Any] = {**held, "al": [None] * 5}
    for name in ("d", "prev_flat_grad"):
        entry[name] = in_torchs_order(held[name])
    for name in ("old_dirs", "old_stps"):
        entry[name] = [in_torchs_order(v) for v in held[name] if np.any(v)]
    entry["ro"] = [v for v in held["ro"] if v != 0]
    assert 0 < len(entry["ro"]) < 5
    group = {"lr": 0.5, "params": [0, 1, 2, 3]}
    found = from_torch.optimizer_state(
        {"state": {0: entry}, "param_groups": [group]},
        tx.init(MLP_LIKE),
        names=MLP_NAMES,
        parameter_names=order,
        params=MLP_LIKE,
    )
    ours = ours._replace(step=found.step)
    assert_trees_close(found, ours, F64_TORCH, F64_SAME)


def convert_optimizer(torch_state=TORCH_STATE, like=SGD, **options):
    options = {"names": NAMES, "parameter_names": list(WEIGHTS), **options}
    return from_torch.optimizer_state(torch_state, like, **options)


def of_adam(steps=(4, 4, 4, 4), **more):
    row = case("modules", "linear/adam")
    stored = torch_optimizer_state(row)
    state = {
        k: {**v, "step": step, **more}
        for (k, v), step in zip(stored["state"].items(), steps, strict=True)
    }
    return {**stored, "state": state}


ADAM = optim.adam().init(LIKE)
GROUPED = optim.param_groups({"a": optim.sgd(), "b": optim.sgd()}, lambda p: "a")
PAIRED = GROUPED.init(LIKE)

ERRORS = {
    "no_names": (
        lambda: convert_optimizer(parameter_names=None),
        r"pass `parameter_names=\[name for name, _ in model.named_parameters\(\)\]`",
    ),
    "names_count": (
        lambda: convert_optimizer(parameter_names=["0.weight"]),
        r"must name the optimizer's 4 parameters; got 1 names",
    ),
    "other_optimizer": (
        lambda: convert_optimizer(of_adam()),
        r"torch keeps exp_avg, exp_avg_sq of '0.weight', which this SGDState does not",
    ),
    "other_flags": (
        lambda: convert_optimizer(of_adam(max_exp_avg_sq=1.0), ADAM),
        r"torch keeps max_exp_avg_sq of '0.weight', which this AdamState does not",
    ),
    "flag_missing": (
        lambda: convert_optimizer(of_adam(), optim.adam(amsgrad=True).init(LIKE)),
        r"`max_exp_avg_sq` of each parameter must have a counterpart.*Dense_0.bias",
    ),
    "unequal_steps": (
        lambda: convert_optimizer(of_adam(steps=(4, 4, 3, 3)), ADAM),
        r"updated equally often; torch counts \[3, 4\] steps",
    ),
    "optimizer_unmatched": (
        lambda: convert_optimizer(names={}),
        r"`momentum_buffer` of each parameter must have a counterpart in the SGDState;"
        r" without are, in torch: 0.weight, 0.bias, 2.weight, 2.bias",
    ),
    "settings": (
        lambda: convert_optimizer(
            {"state": {}, "param_groups": TORCH_STATE["param_groups"]}, ADAM
        ),
        r"must have the settings of a AdamState; it lacks betas, eps",
    ),
    "lbfgs_without_params": (
        lambda: convert_optimizer(
            {
                "state": {0: {"d": np.ones(44)}},
                "param_groups": [{"lr": 1.0, "params": [0, 1, 2, 3]}],
            },
            optim.lbfgs().init(LIKE),
        ),
        r"L-BFGS join all parameters; pass `params=`",
    ),
    "groups_not_given": (
        lambda: convert_optimizer(like=PAIRED),
        r"`groups` must list the labels.*\['a', 'b'\] in some order; got None",
    ),
    "groups_count": (
        lambda: convert_optimizer(like=PAIRED, groups=["a", "b"]),
        r"torch's optimizer has 1 groups, `like` 2",
    ),
    "recurrent": (
        lambda: from_torch.optimizer_state(
            torch_optimizer_state(case("modules", "gru/sgd")),
            SGD,
            parameter_names=list(case("modules", "gru/sgd")["state_dict"]),
        ),
        r"'rnn.weight_ih_l0' is recurrent: torch trains two biases a gate",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
