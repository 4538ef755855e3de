"""optim.param_groups: torch's parameter groups, and what its methods are for."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jmeta import optim
from jmeta.optim import param_groups
from tests.helpers import F64_TORCH, assert_trees_close
from tests.reference.read import case, cases

FACTORIES = {
    "SGD": optim.sgd,
    "Adam": optim.adam,
    "RMSprop": optim.rmsprop,
    "Adagrad": optim.adagrad,
}
TRAJECTORIES = {r["name"]: r for r in cases("trajectories") if "groups" in r}
HYPERGRADIENTS = {r["name"]: r for r in cases("corner_cases") if r["kind"] == "groups"}
PARAMS = {"body": {"w": jnp.ones(3)}, "head": {"w": jnp.full(3, 2.0)}}


def network(params, x):
    hidden = jnp.tanh(x @ params["0.weight"].T + params["0.bias"][None])
    return hidden @ params["2.weight"].T + params["2.bias"][None]


def mlp_loss(params, split=""):
    data = case("problems", "mlp")
    return jnp.mean((network(params, data["x" + split]) - data["y" + split]) ** 2)


def of_torch(row) -> Any:
    """The transform of a recorded case with groups."""
    groups, members = {}, {}
    for i, group in enumerate(row["groups"]):
        kwargs = {k: v for k, v in group.items() if k != "params"}
        groups[str(i)] = FACTORIES[row["optimizer"]](**row.get("kwargs", {}) | kwargs)
        members |= dict.fromkeys(group["params"], str(i))
    return param_groups(groups, labels=lambda path: members[path[0]])


def first_is_head(path):
    return "head" if path[0] == "head" else "rest"


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_trajectories_equal_torch(name):
    row = TRAJECTORIES[name]
    tx = of_torch(row)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(mlp_loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = case("problems", "mlp")["params"]
    state = tx.init(params)
    assert isinstance(state, optax.transforms.PartitionState)
    for t in range(12):
        params, state = step(params, state)
        expected = {k: v[t + 1] for k, v in row["params"].items()}
        assert_trees_close(params, expected, rtol=F64_TORCH, atol=F64_TORCH)


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_hypergradients_of_each_group_equal_recorded_ones(name):
    row = HYPERGRADIENTS[name]
    tx = of_torch(row)
    start = case("problems", "mlp")["params"]

    @jax.jit
    @jax.grad
    def hypergradients(settings):
        inner = dict(tx.init(start).inner_states)
        for i, values in enumerate(settings):
            group = inner[str(i)]
            state = group.inner_state
            state = state._replace(hyperparams=state.hyperparams | values)
            inner[str(i)] = group._replace(inner_state=state)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(mlp_loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        state = optax.transforms.PartitionState(inner)
        (params, _), _ = jax.lax.scan(step, (start, state), length=row["steps"])
        return mlp_loss(params, "_val")

    settings = jax.tree.map(jnp.asarray, row["settings"])
    # betas that hardly matter cancel: 1e-11 of the outer loss, which is about 1
    assert_trees_close(
        hypergradients(settings), row["d_settings"], rtol=1e-8, atol=1e-11
    )


def test_groups_may_differ_in_algorithm_and_be_frozen():
    tx: Any = param_groups(
        {"head": optim.adam(lr=0.5), "rest": optax.set_to_zero()}, first_is_head
    )
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert_trees_close(updates["body"]["w"], jnp.zeros(3), rtol=0.0)
    assert_trees_close(updates["head"]["w"], jnp.full(3, -0.5), rtol=1e-7)


def test_a_group_is_added_and_the_others_go_on():
    # torch: add_param_group, then load_state_dict of what there was before
    few: Any = param_groups({"rest": optim.sgd(0.5, momentum=0.5)}, lambda path: "rest")
    body = {"body": PARAMS["body"]}
    updates, state = few.update(body, few.init(body), body)
    more: Any = param_groups(
        {"rest": optim.sgd(0.5, momentum=0.5), "head": optim.adam(0.1)}, first_is_head
    )
    grown = more.init(PARAMS)
    old, new = state.inner_states["rest"], grown.inner_states["rest"]
    buffer = new.inner_state.momentum_buffer | old.inner_state.momentum_buffer
    started = new.inner_state.started | old.inner_state.started
    kept = old.inner_state._replace(momentum_buffer=buffer, started=started)
    inner = grown.inner_states | {"rest": new._replace(inner_state=kept)}
    updates, state = more.update(PARAMS, grown._replace(inner_states=inner), PARAMS)
    # the second step with a momentum of 0.5 and a gradient of 1
    assert_trees_close(updates["body"]["w"], jnp.full(3, -0.75), rtol=0.0)
    assert state.inner_states["rest"].inner_state.step == 2
    assert state.inner_states["head"].inner_state.step == 1


def test_settings_are_read_by_label_and_saved_as_a_pytree():
    # torch: param_groups[i]["lr"], state_dict, load_state_dict
    groups = {"head": optim.sgd(lr=0.25), "rest": optim.sgd(lr=0.5)}
    tx: Any = param_groups(groups, first_is_head)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    lrs = {
        label: float(group.inner_state.hyperparams["lr"])
        for label, group in state.inner_states.items()
    }
    assert lrs == {"head": 0.25, "rest": 0.5}
    leaves, treedef = jax.tree.flatten(state)
    loaded = treedef.unflatten(leaves)
    assert_trees_close(
        tx.update(PARAMS, loaded, PARAMS), tx.update(PARAMS, state, PARAMS), rtol=0.0
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (lambda path: "tail", r"one of \['head'\].*\('body', 'w'\).*'tail'"),
        (lambda path: None, "returned None"),
        (lambda path: ["head"], r"returned \['head'\]"),
    ],
)
def test_unknown_labels_are_named(label, message):
    tx: Any = param_groups({"head": optim.sgd()}, label)
    with pytest.raises(ValueError, match=message):
        tx.init(PARAMS)


def test_no_group_is_an_error():
    with pytest.raises(ValueError, match="at least one optimizer"):
        param_groups({}, first_is_head)
