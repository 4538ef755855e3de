"""Networks and runs begun in torch go on here, with torch's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jmeta import from_torch, inner_loop, make_functional
from tests.from_torch_cases import (
    DTYPE,
    FLAX,
    LIKE,
    NAMES,
    NETS,
    OPTIMIZERS,
    RECURRENT,
    ROWS,
    WEIGHTS,
    Converted,
    flags,
    loss_fn,
    torch_optimizer_state,
)
from tests.helpers import F64_SAME, F64_TORCH, assert_trees_close
from tests.reference.read import case

flax_mixes = pytest.mark.standard_promotion("Flax's normalisation mixes dtypes")


@flax_mixes
@pytest.mark.parametrize("library", FLAX)
@pytest.mark.parametrize("network", NETS)
def test_outputs_are_torchs(network, library):
    row = case("modules", f"{network}/sgd")
    net = Converted(row, library)
    outputs = net.outputs(row["state_dict"], net.apply_fn)
    assert_trees_close(outputs, row["outputs"], F64_TORCH, F64_SAME)
    assert np.abs(outputs).max() > 0.1
    middle = row["middle"]
    evaluated = net.outputs(middle["state_dict"], net.evaluate)
    assert_trees_close(evaluated, middle["outputs_eval"], F64_TORCH, F64_SAME)


# each library with half of the optimizers
CONTINUED = [
    (name, "nnx" if name.endswith("sgd") else "linen")
    for name in ROWS
    if name.split("/")[0] not in RECURRENT
]


@flax_mixes
@pytest.mark.parametrize(("name", "library"), CONTINUED)
def test_a_run_goes_on_as_in_torch(name, library):
    row = case("modules", name)
    net, middle = Converted(row, library), row["middle"]
    # all numeric settings have to come from torch
    tx = OPTIMIZERS[row["optimizer"]](**flags(row["kwargs"]))
    params, state = net.params(middle["state_dict"]), net.state(middle["state_dict"])
    opt_state = net.opt_state(torch_optimizer_state(row), tx.init(params))
    steps = len(row["next"])

    @jax.jit
    def go_on(params, state, opt_state):
        return inner_loop(
            net.apply_fn,
            params,
            tx,
            steps,
            loss_fn=loss_fn,
            batch=(net.x, net.y),
            state=state,
            opt_state=opt_state,
            history=True,
        )

    run = go_on(params, state, opt_state)
    expected = [net.params(after["state_dict"]) for after in row["next"]]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, *expected)
    assert_trees_close(run.history, stacked, F64_TORCH, F64_SAME)
    losses = np.array([after["loss"] for after in row["next"]])
    assert_trees_close(run.losses, losses, F64_TORCH)
    fresh = go_on(params, state, tx.init(params))
    assert np.abs(fresh.losses[-1] - losses[-1]) > 1e-6
    if state is not None:
        means = [net.state(after["state_dict"]) for after in row["next"]]
        assert_trees_close(of(run.state, "mean"), of(means[-1], "mean"), F64_TORCH)


def of(tree, name):
    paths_leaves = jax.tree.leaves_with_path(tree)
    return [leaf for path, leaf in paths_leaves if path[-1].key == name]


@flax_mixes
def test_the_order_of_a_flattened_input_matters():
    row = case("modules", "conv2d/sgd")
    net = Converted(row, "linen")
    right = net.params(row["state_dict"])["Dense_0"]["kernel"]
    as_it_is = from_torch.parameters(
        row["state_dict"], net.like, names=net.names, flatten={"fc": (12,)}
    )["Dense_0"]["kernel"]
    assert_trees_close(as_it_is, row["state_dict"]["fc.weight"].T, 0.0)
    assert np.abs(right - as_it_is).max() > 0.1


def test_names_are_matched_by_their_longest_beginning():
    inner = {"fc": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}}
    like = {"body": inner, "head": {"w": jnp.zeros((2, 6))}, "extra": jnp.zeros(2)}
    state_dict = {
        "net.0.fc.weight": WEIGHTS["0.weight"],
        "net.0.fc.bias": WEIGHTS["0.bias"],
        "net.1.weight": WEIGHTS["2.weight"],
        "net.1.tied": WEIGHTS["2.weight"],
        "extra": WEIGHTS["2.bias"],
    }
    names = {
        "net": "nowhere",
        "net.0": "body",
        "net.1.weight": "head.w",
        "net.1.tied": None,
    }
    found = from_torch.parameters(state_dict, like, names=names)
    expected = {
        "body": {"fc": {"kernel": WEIGHTS["0.weight"].T, "bias": WEIGHTS["0.bias"]}},
        "head": {"w": WEIGHTS["2.weight"]},
        "extra": WEIGHTS["2.bias"],
    }
    assert_trees_close(found, expected, 0.0)


def test_lists_of_layers_have_torchs_names():
    like = {"layers": {0: LIKE["Dense_0"], 1: LIKE["Dense_1"]}}
    state_dict = {f"layers.{k.replace('2', '1')}": v for k, v in WEIGHTS.items()}
    found = from_torch.parameters(state_dict, like)
    assert_trees_close(found["layers"][1]["kernel"], WEIGHTS["2.weight"].T, 0.0)


def test_stacked_and_reversed_recurrent_layers_belong_to_cells_of_their_own():
    rng = np.random.default_rng(0)
    shapes = {"weight_ih": (12, 6), "weight_hh": (12, 3), "bias_ih": 12, "bias_hh": 12}
    state_dict = {
        f"lstm.{leaf}_{layer}": rng.standard_normal(shape)
        for layer in ("l0", "l0_reverse", "l1")
        for leaf, shape in shapes.items()
    }
    cell = nnx.OptimizedLSTMCell(6, 3, rngs=nnx.Rngs(0), **DTYPE)
    one = make_functional(cell)[1]
    found = from_torch.parameters(
        state_dict,
        {"forward": one, "backward": one, "second": one},
        names={
            "lstm.l0": "forward",
            "lstm.l0_reverse": "backward",
            "lstm.l1": "second",
        },
    )
    for name, layer in (("backward", "l0_reverse"), ("second", "l1")):
        weight = state_dict[f"lstm.weight_hh_{layer}"]
        assert_trees_close(found[name]["dense_h"]["kernel"], weight.T, 0.0)
        biases = [state_dict[f"lstm.bias_{side}_{layer}"] for side in ("ih", "hh")]
        assert_trees_close(found[name]["dense_h"]["bias"], sum(biases), 0.0)


def test_values_are_copied_and_take_the_dtypes_of_like():
    arrays = {k: np.array(v) for k, v in WEIGHTS.items()}
    found = from_torch.parameters(arrays, LIKE, names=NAMES)
    for array in arrays.values():
        array[...] = 0.0  # as torch goes on
    assert_trees_close(found["Dense_0"]["bias"], WEIGHTS["0.bias"], 0.0)
    small = jax.tree.map(jnp.float32, LIKE)
    found = from_torch.parameters(WEIGHTS, small, names=NAMES)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}


def convert(weights=WEIGHTS, like=LIKE, **options):
    return from_torch.parameters(weights, like, **{"names": NAMES, **options})


CONV = case("modules", "conv2d/sgd")["state_dict"]
GRU = {k: v for k, v in case("modules", "gru/sgd")["state_dict"].items() if "rnn" in k}

ERRORS = {
    "unmatched": (
        lambda: convert(names={"0": "Dense_0"}),
        r"in torch: 2.weight \(2, 6\), 2.bias \(2,\); in Flax: Dense_1.bias \(2,\)",
    ),
    "unknown_name": (
        lambda: convert(names={**NAMES, "1": "Dense_2"}),
        r"`names` has an entry for '1', but torch's names are 0.weight, 0.bias",
    ),
    "two_for_one": (
        lambda: convert(names={"0": "Dense_0", "2": "Dense_0"}),
        r"Two torch names belong to the leaf `Dense_0.kernel`",
    ),
    "shape": (
        lambda: convert(names={"0": "Dense_1", "2": "Dense_0"}),
        r"`Dense_0.bias` must have shape \(6,\); torch's array has \(2,\)",
    ),
    "flatten_missing": (
        lambda: from_torch.parameters(CONV, {}),
        r"'fc' has 12 inputs after a convolution with 3 channels.*\(3, height, width\)",
    ),
    "flatten_size": (
        lambda: from_torch.parameters(CONV, {}, flatten={"fc": (3, 3, 3)}),
        r"must multiply to the Linear's 12 inputs; got \(3, 3, 3\)",
    ),
    "flatten_unknown": (
        lambda: from_torch.parameters(CONV, {}, flatten={"head": (3, 2, 2)}),
        r"`flatten` has an entry for 'head'",
    ),
    "gru_without_bias": (
        lambda: from_torch.parameters(
            GRU,
            make_functional(nnx.GRUCell(3, 5, rngs=nnx.Rngs(0)))[1],
            names={"rnn.l0": ""},
        ),
        r"The cell for 'rnn.l0' has no leaf for a bias.*recurrent part of `n`",
    ),
    "other_cell": (
        lambda: from_torch.parameters(
            GRU,
            make_functional(nnx.LSTMCell(3, 5, rngs=nnx.Rngs(0)))[1],
            names={"rnn.l0": ""},
        ),
        r"in torch: rnn.l0; in Flax: hf.bias \(5,\)",
    ),
    "statistics": (
        lambda: from_torch.state(CONV, {"bn1": {"mean": jnp.zeros(4)}}),
        r"in torch: bn1.running_var \(4,\), bn2.running_mean \(3,\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
