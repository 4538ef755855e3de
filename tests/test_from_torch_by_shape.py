"""The states of torch's Adafactor and Muon, whose updates depend on shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jmeta import from_torch, inner_loop, optim
from tests.from_torch_cases import MLP_LIKE, MLP_NAMES, loss_fn, mlp
from tests.helpers import F64_TORCH, assert_trees_close
from tests.reference.read import case, cases

SHAPED = [row for row in cases("by_shape") if "middle_state" in row]


@pytest.mark.parametrize("row", SHAPED, ids=lambda row: row["name"])
def test_adafactor_and_muon_go_on_from_torchs_state(row):
    """Five steps by torch, the other seven here, on kernels of the other layout."""
    problem, start, more = case("problems", "mlp"), 5, 7
    kwargs, settings = row["kwargs"], row["hypergradients"]["T1"]["settings"]
    if row["optimizer"] == "Muon":
        # torch's matrices are (out, in)
        as_torch = lambda shape: max(1, shape[1] / shape[0]) ** 0.5
        tx = optim.muon(**({"adjust_lr_fn": as_torch} | kwargs))
    else:
        tx = optim.adafactor(maximize=kwargs.get("maximize", False))
        if "eps" not in kwargs:  # as torch has it in its group
            settings = {**settings, "eps": (None, 1e-3)}

    def params_at(step):
        at = {k: v[step] for k, v in row["params"].items()}
        return from_torch.parameters(at, MLP_LIKE, names=MLP_NAMES)

    params, like, state = params_at(start), MLP_LIKE, row["middle_state"]
    trained = [name for name in state if state[name]]
    order = list(state)
    if len(trained) < len(order):
        # what is not trained is None in a state
        like = {k: {**v, "bias": None} for k, v in MLP_LIKE.items()}
        order = trained
    own = {"state": {order.index(k): state[k] for k in order}}
    opt_state = from_torch.optimizer_state(
        {**own, "param_groups": [{**settings, "params": list(range(len(order)))}]},
        tx.init(like),
        names=MLP_NAMES,
        parameter_names=order,
    )
    run = jax.jit(
        lambda params: inner_loop(
            mlp,
            params,
            tx,
            more,
            loss_fn=loss_fn,
            batch=(problem["x"], problem["y"]),
            opt_state=opt_state,
            trainable=lambda path: path[-1] == "kernel" or len(order) == 4,
        )
    )(params)
    assert_trees_close(run.params, params_at(start + more), F64_TORCH)
    moved = run.params["Dense_0"]["kernel"] - params["Dense_0"]["kernel"]
    assert np.abs(moved).max() > 1e-3


def test_adafactor_of_a_convolution_has_no_counterpart():
    like = optim.adafactor().init({"conv": {"kernel": jnp.zeros((3, 3, 2, 4))}})
    moments = {"row_var": np.ones((4, 2, 3, 1)), "col_var": np.ones((4, 2, 1, 3))}
    group = {"lr": 0.1, "beta2_decay": -0.8, "eps": (None, 1e-3), "d": 1.0}
    with pytest.raises(ValueError, match=r"kernel `conv\.kernel` over other axes"):
        from_torch.optimizer_state(
            {
                "state": {0: {"step": 1.0, **moments}},
                "param_groups": [{**group, "weight_decay": 0.0, "params": [0]}],
            },
            like,
            parameter_names=["conv.weight"],
        )
