"""torch's layers that Flax lays out in another way give torch's outputs here."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

from jmeta import from_torch, make_functional
from tests.helpers import F64_SAME, assert_trees_close
from tests.reference.read import case, cases

DTYPE = {"param_dtype": jnp.float64}
TRANSPOSED = [row["name"] for row in cases("layers") if "settings" in row]
ATTENTION = [
    row["name"] for row in cases("layers") if row["name"].startswith("attention")
]


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def converted(module, state_dict, *inputs, names=None, **kwargs) -> Any:
    """What a Flax module gives with torch's weights in it."""
    if isinstance(module, nn.Module):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float64), shapes)
        apply_fn, like, *state = make_functional(module, zeros)
    else:
        apply_fn, like, *state = make_functional(module)
    params = from_torch.parameters(state_dict, like, names=names)
    if not state:
        return apply_fn(params, *inputs, **kwargs)
    wide = jax.tree.map(jnp.float64, state[0])
    filled = from_torch.state(state_dict, wide, names=names)
    return apply_fn(params, filled, *inputs, **kwargs)[0]


def in_float64(query, key, value, mask=None, **kwargs):
    """nnx's own takes the softmax in float32, whatever its inputs."""
    del kwargs
    return nn.dot_product_attention(query, key, value, mask=mask)


def per_axis(settings, name, default, axes):
    value = settings.get(name, default)
    return value if isinstance(value, list | tuple) else [value] * axes


def as_in_flax(settings, axes) -> tuple[Any, Any, dict[str, Any]]:
    """Arguments of Flax's ConvTranspose, as `from_torch.parameters` says."""
    kernel, strides, padding, output_padding, dilation = (
        per_axis(settings, name, default, axes)
        for name, default in (
            *(("kernel_size", None), ("stride", 1), ("padding", 0)),
            *(("output_padding", 0), ("dilation", 1)),
        )
    )
    pads = [
        (d * (k - 1) - p, d * (k - 1) - p + o)
        for k, p, o, d in zip(kernel, padding, output_padding, dilation, strict=True)
    ]
    options: dict[str, Any] = {
        "padding": pads,
        "kernel_dilation": tuple(dilation),
        **DTYPE,
    }
    return tuple(kernel), tuple(strides), options | {"transpose_kernel": True}


@pytest.mark.parametrize("library", ["linen", "nnx"])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(name, library):
    row = case("layers", name)
    weights = row["state_dict"]
    kernel, strides, options = as_in_flax(row["settings"], row["inputs"][0].ndim - 2)
    options["use_bias"] = "bias" in weights
    inputs, features = weights["weight"].shape[:2]
    if library == "linen":
        module: Any = nn.ConvTranspose(features, kernel, strides, **options)
    else:
        rngs = nnx.Rngs(0)
        module = nnx.ConvTranspose(
            inputs, features, kernel, strides, rngs=rngs, **options
        )
    outputs = converted(module, weights, channels_last(row["inputs"][0]))
    # sums of up to 54 products of either sign
    assert_trees_close(outputs, channels_last(row["outputs"]), F64_SAME, 1e-14)
    assert np.abs(outputs).max() > 1


# Flax guesses that values as wide as they are many are a mask
@pytest.mark.filterwarnings("ignore:You are passing an array:DeprecationWarning")
@pytest.mark.parametrize("library", ["linen", "nnx"])
@pytest.mark.parametrize("name", ATTENTION)
def test_attention(name, library):
    row = case("layers", name)
    weights, inputs, outputs = row["state_dict"], row["inputs"], row["outputs"]
    if "sequence_first" in name:
        inputs, outputs = [x.swapaxes(0, 1) for x in inputs], outputs.swapaxes(0, 1)
    features = [x.shape[-1] for x in inputs]
    options: dict[str, Any] = {"use_bias": "in_proj_bias" in weights, **DTYPE}
    if library == "linen":
        module: Any = nn.MultiHeadDotProductAttention(2, **options)
    else:
        options |= {"in_kv_features": features[1], "decode": False}
        options |= {"attention_fn": in_float64}
        module = nnx.MultiHeadAttention(2, 6, rngs=nnx.Rngs(0), **options)
        if features[1] != features[2]:
            module.value = nnx.LinearGeneral(
                features[2], (2, 3), use_bias=False, rngs=nnx.Rngs(0), **DTYPE
            )
    mask = np.tri(4, dtype=bool)[None, None] if "causal" in name else None
    found = converted(module, weights, *map(jnp.asarray, inputs), mask=mask)
    assert_trees_close(found, outputs, F64_SAME, 1e-14)
    if mask is not None:
        unmasked = converted(module, weights, *map(jnp.asarray, inputs))
        assert np.abs(unmasked - found).max() > 1e-3


def nnx_sequential() -> nnx.Module:
    made: dict[str, Any] = {"rngs": nnx.Rngs(0), **DTYPE}
    norm = nnx.BatchNorm(4, use_running_average=True, **made)
    inner = nnx.Sequential(nnx.Linear(5, 4, **made), norm, nnx.tanh)
    last = nnx.Sequential(nnx.Linear(4, 2, **made))
    return nnx.Sequential(nnx.Linear(3, 5, **made), nnx.relu, inner, last)


def linen_sequential() -> nn.Module:
    norm = nn.BatchNorm(use_running_average=True, **DTYPE)
    inner = nn.Sequential([nn.Dense(4, **DTYPE), norm, nn.tanh])
    last = nn.Sequential([nn.Dense(2, **DTYPE)])
    return nn.Sequential([nn.Dense(5, **DTYPE), nn.relu, inner, last])


@pytest.mark.standard_promotion("Flax's normalisation mixes dtypes")
@pytest.mark.parametrize("make", [nnx_sequential, linen_sequential])
@pytest.mark.parametrize("inside", ["", "body."])
def test_sequentials_need_no_names(make, inside):
    row = case("layers", "sequential")
    module = make()
    names = None
    weights = {inside + name: array for name, array in row["state_dict"].items()}
    if inside:  # the whole is an attribute of another name
        names = {"body": ""}
    x = jnp.asarray(row["inputs"][0])
    found = converted(module, weights, x, names=names)
    assert_trees_close(found, row["outputs"], F64_SAME, 1e-14)


def test_a_sequential_of_transposed_convolutions():
    row = case("layers", "decoder")
    made: dict[str, Any] = {"rngs": nnx.Rngs(0), "transpose_kernel": True, **DTYPE}
    module = nnx.Sequential(
        nnx.ConvTranspose(2, 4, (2, 2), 2, padding=[(1, 1), (1, 1)], **made),
        nnx.relu,
        nnx.ConvTranspose(4, 1, (3, 3), padding=[(1, 1), (1, 1)], **made),
    )
    found = converted(module, row["state_dict"], channels_last(row["inputs"][0]))
    assert_trees_close(found, channels_last(row["outputs"]), F64_SAME, 1e-14)


def test_an_adam_run_of_an_attention_goes_on():
    # a moment is laid out as its weights are
    from jmeta import optim

    row = case("layers", "attention/self")
    weights = row["state_dict"]
    options: dict[str, Any] = {"decode": False, "rngs": nnx.Rngs(0), **DTYPE}
    _, like = make_functional(nnx.MultiHeadAttention(2, 6, **options))
    moments = {"exp_avg": 1.0, "exp_avg_sq": 2.0}
    torch_state = {
        "state": {
            i: {"step": 3, **{k: scale * v for k, scale in moments.items()}}
            for i, v in enumerate(weights.values())
        },
        "param_groups": [
            dict(lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0, params=range(4))
        ],
    }
    tx = optim.adam()
    found: Any = from_torch.optimizer_state(
        torch_state, tx.init(like), parameter_names=list(weights)
    )
    params = from_torch.parameters(weights, like)
    assert_trees_close(found.exp_avg, params, F64_SAME)
    doubled = jax.tree.map(lambda x: 2 * x, params)
    assert_trees_close(found.exp_avg_sq, doubled, F64_SAME)


SQUARE = {"up.weight": np.ones((3, 2, 4)), "up.bias": np.ones(2)}
ATTENTION_SELF = case("layers", "attention/self")["state_dict"]


def attention_like(heads=2, features=6):
    options: dict[str, Any] = {"decode": False, "rngs": nnx.Rngs(0)}
    return make_functional(nnx.MultiHeadAttention(heads, features, **options))[1]


ERRORS = {
    "transposed by default": (
        lambda: from_torch.parameters(
            SQUARE, {"up": {"kernel": np.zeros((4, 3, 2)), "bias": np.zeros(2)}}
        ),
        r"`up.kernel` must have shape \(4, 3, 2\); torch's array has \(4, 2, 3\)"
        r".*transpose_kernel=True",
    ),
    "groups": (
        lambda: from_torch.parameters(
            {"up.weight": np.ones((4, 2, 3))}, {"up": {"kernel": np.zeros((3, 4, 4))}}
        ),
        r"`up.kernel` must have shape",
    ),
    "flattened after": (
        lambda: from_torch.parameters(
            {**SQUARE, "fc.weight": np.ones((3, 8))}, {"fc": np.zeros(3)}
        ),
        r"8 inputs after a convolution with 2 channels",
    ),
    "bias_kv": (
        lambda: from_torch.parameters(
            {**ATTENTION_SELF, "bias_k": np.ones((1, 1, 6))}, attention_like()
        ),
        r"`add_bias_kv=True` in torch.*Make it without",
    ),
    "features": (
        lambda: from_torch.parameters(ATTENTION_SELF, attention_like(2, 8)),
        r"`query.kernel` of the attention '' must .* \(6, 6\); it has \(8, 2, 4\)",
    ),
    "bias in torch alone": (
        lambda: from_torch.parameters(
            ATTENTION_SELF,
            {k: {"kernel": v["kernel"]} for k, v in attention_like().items()},
        ),
        r"in torch: in_proj_bias \(18,\), out_proj.bias \(6,\)",
    ),
    "bias in Flax alone": (
        lambda: from_torch.parameters(
            {k: v for k, v in ATTENTION_SELF.items() if "bias" not in k},
            attention_like(),
        ),
        r"in Flax: key.bias \(2, 3\), out.bias \(6,\)",
    ),
    "no attention in Flax": (
        lambda: from_torch.parameters(ATTENTION_SELF, {"kernel": np.zeros((6, 6))}),
        r"in torch: in_proj_weight \(18, 6\)",
    ),
}


@pytest.mark.parametrize(("call", "message"), ERRORS.values(), ids=ERRORS)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
