"""Convert a torch module's weights and statistics to the trees of a Flax module."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jmeta._core.typing import PyTree
from jmeta.models.from_torch._match import (
    Flatten,
    Names,
    check_names,
    leaves_of,
    match,
    translate,
    with_leaves,
)
from jmeta.models.from_torch._sequential import in_sequentials, path_prefixes
from jmeta.models.from_torch._state_dict import module_arrays

_STATISTICS = {"running_mean": "mean", "running_var": "var"}
_BUFFERS = (*_STATISTICS, "num_batches_tracked")


def parameters(
    state_dict: Mapping[str, Any],
    like: PyTree,
    *,
    names: Names | None = None,
    flatten: Flatten | None = None,
) -> PyTree:
    """Put a torch module's weights into the parameters of the same Flax network.

    Converts Linear, Conv1d to Conv3d, ConvTranspose1d to 3d, BatchNorm, LayerNorm,
    GroupNorm, Embedding, MultiheadAttention, RNN, LSTM and GRU (layers and cells) for
    linen and nnx. Other parameters are copied unchanged, under the same name.

        torch                    Flax
        weight [out, in]         kernel [in, out]
        weight [out, in, h, w]   kernel [h, w, in, out], for NHWC inputs
        transposed [in, out, h]  kernel [h, out, in], of `transpose_kernel=True`
        weight of a norm         scale
        weight of an Embedding   embedding
        in_proj_weight           query, key, value: kernel [in, heads, features]
        out_proj                 out: kernel [heads, features, out]
        weight_ih, weight_hh     the kernels of a cell's gates
        bias_ih, bias_hh         their sum, where the cell has one bias a gate

    Arrays are matched by name alone, never by order or shape. A Flax module with
    torch's attribute names needs no `names`. The `0.weight` of an nn.Sequential belongs
    to `layers.0.kernel` of nnx.Sequential, and to `layers_0.kernel` of linen's.

    Args:
        state_dict: What torch's `module.state_dict()` returned, arrays or CPU tensors.
            Running statistics in it are ignored; `state` converts them.
        like: Parameters of the Flax module, as `make_functional` returns them.
        names: Flax path by torch name, both dotted, for modules or single parameters,
            such as `{"0": "Dense_0", "body.1": "layers.1"}`. The longest entry that a
            name begins with counts. None ignores a name, such as the second name of a
            tied weight. The layers of an LSTM, GRU or RNN are named `rnn.l0`, `rnn.l1`,
            `rnn.l0_reverse`; each belongs to a Flax cell.
        flatten: The shape `(channels, *space)` that was flattened before a Linear, by
            its torch name, such as `{"fc": (16, 7, 7)}`. torch flattens channels first,
            Flax channels last.

    Returns:
        A tree like `like`, with its dtypes and torch's values.

    Raises:
        TypeError: `state_dict` is no dict of arrays, or `like` is a module.
        ValueError: An array in torch or in `like` has no counterpart, shapes differ,
            the order of a flattened input is not known, or an attention layer has
            `add_bias_kv=True`.

    Example:
        >>> import jmeta, numpy as np
        >>> from flax import nnx
        >>> torch_weights = {"fc.weight": np.ones((3, 2)), "fc.bias": np.ones(3)}
        >>> _, params = jmeta.make_functional(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        >>> params = parameters(torch_weights, params, names={"fc": ""})
        >>> params["kernel"].shape
        (2, 3)

    Note:
        Flax's LayerNorm and GroupNorm add `epsilon=1e-6` by default, torch's add 1e-5.
        BatchNorm's default is 1e-5 in both. torch trains two biases for each gate of a
        recurrent net. Outputs agree with Flax, but a step of SGD moves the sum of the
        biases twice as far in torch.

        A ConvTranspose of Flax must have `transpose_kernel=True`. If it does not, and
        has as many inputs as outputs, its parameters do not show the error. Along an
        axis of kernel `k`, `padding` p, `output_padding` o and `dilation` d in torch,
        Flax's padding is `(d * (k - 1) - p, d * (k - 1) - p + o)`. Flax's ConvTranspose
        has no groups.

        Flax's attention is batch first. True in its mask marks what is attended to; in
        torch it marks what is not. nnx's attention computes the softmax in float32 even
        for float64, unless it gets an `attention_fn`. If `kdim` and `vdim` differ, use
        linen's attention, or an `nnx.LinearGeneral` in place of `value`.
    """
    given = module_arrays(state_dict)
    weights = {k: v for k, v in given.items() if k.rpartition(".")[2] not in _BUFFERS}
    names, flatten = names or {}, flatten or {}
    check_names(list(given), names, flatten)
    leaves = leaves_of("like", like)
    found, unmatched = match(weights, leaves, names, flatten)
    missing = [path for path in leaves if path not in found]
    if unmatched or missing:
        raise ValueError(_unmatched_message(unmatched, missing, weights, leaves))
    return with_leaves(like, found)


def state(
    state_dict: Mapping[str, Any], like: PyTree, *, names: Names | None = None
) -> PyTree:
    """Put a torch module's running statistics into the state of the Flax network.

    Args:
        state_dict: What torch's `module.state_dict()` returned, arrays or CPU tensors.
        like: State of the Flax module, as `make_functional` returns it: nnx's
            statistics, or linen's `{"batch_stats": ...}`.
        names: Flax path by torch name, both dotted; the `names` of `parameters` will
            do.

    Returns:
        A tree like `like` with torch's `running_mean` and `running_var` as `mean` and
        `var`, in the dtypes of `like` (float32 in Flax). Other leaves stay unchanged.

    Raises:
        ValueError: A statistic in torch or in `like` has no counterpart, or shapes
            differ.

    Example:
        >>> import numpy as np
        >>> like = {"norm": {"mean": np.zeros(2), "var": np.ones(2)}}
        >>> torch_buffers = {
        ...     "bn.running_mean": np.ones(2),
        ...     "bn.running_var": np.full(2, 4.0),
        ... }
        >>> state(torch_buffers, like, names={"bn": "norm"})["norm"]["var"].tolist()
        [4.0, 4.0]

    Note:
        Updates of the running variance differ. torch averages the unbiased variance of
        a batch, which is n / (n - 1) times the variance that Flax averages. torch's
        `momentum` is the share of the new batch, Flax's that of the old value: use `1 -
        momentum`.
    """
    given, names = module_arrays(state_dict), names or {}
    check_names(list(given), names, {})
    leaves = leaves_of("like", like)
    prefixes = path_prefixes(leaves)
    found, unmatched, wanted = {}, [], {}
    for name, value in given.items():
        parent, _, leaf = name.rpartition(".")
        if leaf not in _STATISTICS:
            continue
        module = translate(parent, names)
        if module is None:
            continue
        path = ".".join(filter(None, (module, _STATISTICS[leaf])))
        both = (in_sequentials(p, prefixes) for p in (path, f"batch_stats.{path}"))
        path = next((p for p in both if p in leaves), None)
        wanted[name] = value
        if path is None:
            unmatched.append(name)
        else:
            found[path] = value
    statistics = [p for p in leaves if p.rpartition(".")[2] in _STATISTICS.values()]
    missing = [path for path in statistics if path not in found]
    if unmatched or missing:
        raise ValueError(_unmatched_message(unmatched, missing, wanted, leaves))
    return with_leaves(like, found)


def _unmatched_message(
    names: list[str],
    paths: list[str],
    arrays: Mapping[str, np.ndarray],
    leaves: Mapping[str, jax.Array],
) -> str:
    def listed(keys, shaped):
        return ", ".join(
            f"{key} {shaped[key].shape}" if key in shaped else key for key in keys
        )

    return (
        "Each torch name must belong to one Flax leaf; without counterpart are, in "
        f"torch: {listed(names, arrays) or 'none'}; in Flax: "
        f"{listed(paths, leaves) or 'none'}. Pass `names={{torch name: Flax path}}`, "
        "with None for what is to be left out."
    )
