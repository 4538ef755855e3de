"""The recorded torch networks in Flax, with torch's numbers put into them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn, nnx

from jmeta import from_torch, make_functional, optim
from tests.reference.read import case, cases

F64 = jnp.float64
DTYPE = {"param_dtype": jnp.float64}
EPSILON = {"epsilon": 1e-5}


class LinenNet(nn.Module):
    """The network of a name, with Flax's own names for its layers."""

    network: str

    @nn.compact
    def __call__(self, x, train=True):
        def norm(x):
            return nn.BatchNorm(not train, momentum=0.9, **DTYPE)(x)

        match self.network:
            case "linear":
                x = nn.relu(nn.Dense(6, **DTYPE)(x))
                return nn.Dense(2, **DTYPE)(x)
            case "layer_norm":
                x = nn.LayerNorm(**EPSILON, **DTYPE)(nn.Dense(6, **DTYPE)(x))
                return nn.Dense(2, **DTYPE)(nn.tanh(x))
            case "conv1d":
                x = nn.relu(norm(nn.Conv(3, (3,), **DTYPE)(x)))
                return nn.Dense(2, **DTYPE)(x.reshape(len(x), -1))
            case "conv2d":
                x = nn.relu(norm(nn.Conv(4, (3, 3), **DTYPE)(x)))
                x = nn.Conv(3, (3, 3), strides=2, padding="VALID", **DTYPE)(x)
                x = nn.relu(norm(x))
                return nn.Dense(3, **DTYPE)(x.reshape(len(x), -1))
            case "embedding":
                x = nn.Embed(9, 4, **DTYPE)(x).mean(1)
                return nn.Dense(3, **DTYPE)(nn.LayerNorm(**EPSILON, **DTYPE)(x))
            case "lstm":
                hidden: Any = nn.RNN(nn.OptimizedLSTMCell(5, **DTYPE))(x)
                return nn.Dense(2, **DTYPE)(hidden[:, -1])
            case _:
                hidden: Any = nn.RNN(nn.GRUCell(5, **DTYPE))(x)
                return nn.Dense(2, **DTYPE)(hidden[:, -1])


class NnxNet(nnx.Module):
    """The network of a name, with torch's names for its layers."""

    def __init__(self, network: str):
        self.network = network
        made = {"rngs": nnx.Rngs(0), **DTYPE}
        match network:
            case "linear":
                setattr(self, "0", nnx.Linear(4, 6, **made))
                setattr(self, "2", nnx.Linear(6, 2, **made))
            case "layer_norm":
                setattr(self, "0", nnx.Linear(4, 6, **made))
                setattr(self, "1", nnx.LayerNorm(6, **EPSILON, **made))
                setattr(self, "3", nnx.Linear(6, 2, **made))
            case "conv1d":
                self.conv = nnx.Conv(2, 3, (3,), **made)
                self.bn = nnx.BatchNorm(3, momentum=0.9, **made)
                self.fc = nnx.Linear(15, 2, **made)
            case "conv2d":
                self.conv1 = nnx.Conv(2, 4, (3, 3), **made)
                self.bn1 = nnx.BatchNorm(4, momentum=0.9, **made)
                self.conv2 = nnx.Conv(4, 3, (3, 3), 2, padding="VALID", **made)
                self.bn2 = nnx.BatchNorm(3, momentum=0.9, **made)
                self.fc = nnx.Linear(12, 3, **made)
            case "embedding":
                self.emb = nnx.Embed(9, 4, **made)
                self.norm = nnx.LayerNorm(4, **EPSILON, **made)
                self.fc = nnx.Linear(4, 3, **made)
            case "lstm":
                self.rnn = nnx.RNN(nnx.LSTMCell(3, 5, **made))
                self.out = nnx.Linear(5, 2, **made)
            case _:
                cell = nnx.GRUCell(3, 5, **made)
                cell.dense_h = nnx.Linear(5, 15, **made)
                self.rnn = nnx.RNN(cell)
                self.out = nnx.Linear(5, 2, **made)

    def __call__(self, x):
        match self.network:
            case "linear":
                return self["2"](nn.relu(self["0"](x)))
            case "layer_norm":
                return self["3"](nn.tanh(self["1"](self["0"](x))))
            case "conv1d":
                x = nn.relu(self.bn(self.conv(x)))
                return self.fc(x.reshape(len(x), -1))
            case "conv2d":
                x = nn.relu(self.bn1(self.conv1(x)))
                x = nn.relu(self.bn2(self.conv2(x)))
                return self.fc(x.reshape(len(x), -1))
            case "embedding":
                return self.fc(self.norm(self.emb(x).mean(1)))
            case _:
                hidden: Any = self.rnn(x, rngs=nnx.Rngs(0))
                return self.out(hidden[:, -1])

    def __getitem__(self, name):
        return getattr(self, name)


class Net(NamedTuple):
    """How torch's names are Flax's, and what was flattened."""

    linen: dict[str, str | None]
    nnx: dict[str, str | None] = {}  # noqa: RUF012  # never changed
    flatten: dict[str, tuple[int, ...]] = {}  # noqa: RUF012  # never changed


NETS = {
    "linear": Net({"0": "Dense_0", "2": "Dense_1"}),
    "layer_norm": Net({"0": "Dense_0", "1": "LayerNorm_0", "3": "Dense_1"}),
    "conv1d": Net(
        {"conv": "Conv_0", "bn": "BatchNorm_0", "fc": "Dense_0"}, flatten={"fc": (3, 5)}
    ),
    "conv2d": Net(
        {
            "conv1": "Conv_0",
            "bn1": "BatchNorm_0",
            "conv2": "Conv_1",
            "bn2": "BatchNorm_1",
            "fc": "Dense_0",
        },
        flatten={"fc": (3, 2, 2)},
    ),
    "embedding": Net({"emb": "Embed_0", "norm": "LayerNorm_0", "fc": "Dense_0"}),
    "lstm": Net(
        {"rnn.l0": "OptimizedLSTMCell_0", "out": "Dense_0"}, {"rnn.l0": "rnn.cell"}
    ),
    "gru": Net({"rnn.l0": "GRUCell_0", "out": "Dense_0"}, {"rnn.l0": "rnn.cell"}),
}
RECURRENT = ("lstm", "gru")
ROWS = [row["name"] for row in cases("modules")]
FLAX = ("linen", "nnx")


class Converted:
    """A recorded network in Flax, with torch's numbers of some time in it."""

    def __init__(self, row: dict[str, Any], library: str):
        self.row, self.net = row, NETS[row["network"]]
        self.names = getattr(self.net, library)
        self.x = inputs_in_flax(row["x"])
        self.y = jnp.asarray(row["y"])
        if library == "linen":
            module = LinenNet(row["network"])
            shapes = jax.eval_shape(module.init, jax.random.key(0), self.x)
            variables = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
            made = make_functional(module, variables)
            self.evaluate = lambda *args: made[0](*args, train=False)
        else:
            module = NnxNet(row["network"])
            made = make_functional(module)
            module.eval()
            self.evaluate = make_functional(module)[0]
        self.apply_fn, self.like = made[:2]
        # flax makes statistics of float32
        self.like_state = jax.tree.map(F64, made[2]) if len(made) == 3 else None

    def params(self, state_dict):
        return from_torch.parameters(
            state_dict, self.like, names=self.names, flatten=self.net.flatten
        )

    def state(self, state_dict):
        if self.like_state is None:
            return None
        return from_torch.state(state_dict, self.like_state, names=self.names)

    def opt_state(self, torch_state, like):
        return from_torch.optimizer_state(
            torch_state,
            like,
            names=self.names,
            flatten=self.net.flatten,
            parameter_names=parameter_names(self.row["state_dict"]),
        )

    def outputs(self, state_dict, apply_fn):
        state = self.state(state_dict)
        if state is None:
            return jax.jit(apply_fn)(self.params(state_dict), self.x)
        return jax.jit(apply_fn)(self.params(state_dict), state, self.x)[0]


def inputs_in_flax(x: np.ndarray) -> jax.Array:
    # [batch, channels, *space] of a convolution; sequences are batch first in both
    is_image = x.shape[1] == 2 and x.ndim > 2
    return jnp.asarray(np.moveaxis(x, 1, -1) if is_image else x)


def parameter_names(state_dict: dict[str, Any]) -> list[str]:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return [name for name in state_dict if not name.endswith(buffers)]


def torch_optimizer_state(row: dict[str, Any]) -> dict[str, Any]:
    """As torch's `state_dict()`: the file has turned its integer keys to strings."""
    stored = row["middle"]["optimizer_state_dict"]
    return {**stored, "state": {int(k): v for k, v in stored["state"].items()}}


def loss_fn(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return jnp.mean((outputs - targets) ** 2)
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    return jnp.mean(losses)


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": optim.sgd,
    "Adam": optim.adam,
    "AdamW": optim.adamw,
    "NAdam": optim.nadam,
    "RAdam": optim.radam,
    "Adagrad": optim.adagrad,
    "Adadelta": optim.adadelta,
    "RMSprop": optim.rmsprop,
    "Adamax": optim.adamax,
    "ASGD": optim.asgd,
    "Rprop": optim.rprop,
}


def flags(kwargs: dict[str, Any]) -> dict[str, bool]:
    return {k: v for k, v in kwargs.items() if isinstance(v, bool)}


LINEAR = case("modules", "linear/sgd")
WEIGHTS = LINEAR["state_dict"]
LIKE = {
    "Dense_0": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)},
    "Dense_1": {"kernel": jnp.zeros((6, 2)), "bias": jnp.zeros(2)},
}
NAMES = NETS["linear"].linen
TORCH_STATE = torch_optimizer_state(LINEAR)
SGD: Any = optim.sgd().init(LIKE)

MLP_NAMES = {"0": "Dense_0", "2": "Dense_1"}


def mlp(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The recorded network in Flax's names and layout."""
    hidden = jnp.tanh(x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"][None])
    return hidden @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"][None]


MLP_LIKE = {
    "Dense_0": {"kernel": jnp.zeros((3, 8)), "bias": jnp.zeros(8)},
    "Dense_1": {"kernel": jnp.zeros((8, 2)), "bias": jnp.zeros(2)},
}
