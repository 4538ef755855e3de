"""Continuing in JAX a training that was begun in torch.

A small convolutional network learned digits for 20 steps of torch's Adam; its
`state_dict` and the optimizer's lie beside this script as plain arrays. jmeta converts
both (layouts, names, moments, settings), trains on for 30 steps, and is compared with
torch's own 30 steps. Expect the same losses, from 0.9520 to 0.0856: they differ by less
than 1e-5 in float32 and by less than 1e-10 in float64.

    python examples/continue_torch.py

No torch is needed; `continue_torch_record.py` is the training that made the arrays.
"""

import argparse
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jmeta

RECORDED = pathlib.Path(__file__).with_suffix(".npz")
STEPS = 30


class Network(nnx.Module):
    """torch's network; images are NHWC here."""

    def __init__(self, dtype):
        rngs, kwargs = nnx.Rngs(0), {"param_dtype": dtype}
        self.conv = nnx.Conv(1, 6, (3, 3), strides=2, padding=1, rngs=rngs, **kwargs)
        self.head = nnx.Linear(6 * 4 * 4, 10, rngs=rngs, **kwargs)

    def __call__(self, x):
        x = nnx.relu(self.conv(x))
        return self.head(x.reshape(len(x), -1))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def read(dtype):
    """Images, labels, torch's losses, the model's state dict and the optimizer's."""
    with np.load(RECORDED) as file:
        recorded = dict(file)
    model, state = {}, {}
    for path, array in recorded.items():
        match path.split("/"):
            case name, "model", parameter if name == dtype:
                model[parameter] = array
            case name, "state", index, field if name == dtype:
                state.setdefault(int(index), {})[field] = array
    groups = json.loads(str(recorded[f"{dtype}/param_groups"]))
    optimizer = {"state": state, "param_groups": groups}
    data = recorded["images"][..., None] / 16, recorded["labels"]
    return data, recorded[f"{dtype}/losses"], model, optimizer


def continue_training(data, model, optimizer, dtype):
    """Put torch's weights and optimizer into ours and go on."""
    apply_fn, like = jmeta.make_functional(Network(dtype))
    flatten = {"head": (6, 4, 4)}  # torch flattens channels first
    params = jmeta.from_torch.parameters(model, like, flatten=flatten)
    tx = jmeta.optim.adam()  # its settings come from torch
    opt_state = jmeta.from_torch.optimizer_state(
        optimizer, tx.init(params), flatten=flatten, parameter_names=list(model)
    )
    return jmeta.inner_loop(
        *(apply_fn, params, tx, STEPS),
        loss_fn=cross_entropy,
        batch=(jnp.asarray(data[0], dtype), jnp.asarray(data[1])),
        opt_state=opt_state,
    )


def draw(torch_losses, losses, path):
    """The one curve that torch began and jmeta goes on with."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
    ax.plot(torch_losses, color="0.7", lw=5, label="torch")
    steps = np.arange(len(torch_losses))[-STEPS:]
    ax.plot(steps, losses, "C0", lw=1.5, label="jmeta, from torch's state")
    ax.axvline(steps[0], color="k", lw=0.8, ls=":")
    ax.set(xlabel="step", ylabel="loss on 200 digits")
    ax.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default="out/continue_torch.png")
    args = parser.parse_args(argv)
    differences = {}
    for dtype in ("float32", "float64"):
        data, torch_losses, model, optimizer = read(dtype)
        with jax.enable_x64(dtype == "float64"):
            run = continue_training(data, model, optimizer, dtype)
        losses = np.array(run.losses)
        differences[dtype] = abs(losses - torch_losses[-STEPS:]).max()
        print(f"{dtype}: loss from {losses[0]:.4f} to {losses[-1]:.4f}", end=", ")
        print(f"at most {differences[dtype]:.0e} from torch's")
    draw(torch_losses, losses, args.out)
    print(f"picture: {args.out}")
    return differences


if __name__ == "__main__":
    main()
