"""A torch module's weights and running statistics in the trees of a Flax module."""

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
from jmeta.models.from_torch._sequential import in_sequentials, places
from jmeta.models.from_torch._state_dict import arrays

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
    linen and nnx; other parameters are taken as they are, under the same name.

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

    Names are matched as they are, so that a Flax module with torch's attribute names
    needs no `names`, and an nn.Sequential's `0.weight` belongs to nnx.Sequential's
    `layers.0.kernel`, linen's `layers_0.kernel`. Nothing is matched by order or by
    shape.

    Args:
        state_dict: What torch's `module.state_dict()` returned, arrays or CPU tensors.
            Running statistics in it are left to `state`.
        like: Parameters of the Flax module, as `make_functional` returns them.
        names: Flax path by torch name, both dotted, for modules or single parameters:
            `{"0": "Dense_0", "body.1": "layers.1"}`. The longest beginning counts.
            None leaves out, for instance the second name of a tied weight. A layer of
            an LSTM, GRU or RNN goes by `rnn.l0`, `rnn.l1`, `rnn.l0_reverse`, and
            belongs to a cell.
        flatten: For a Linear after flattened feature maps, by its torch name, the
            shape `(channels, *space)` that was flattened: `{"fc": (16, 7, 7)}`. torch
            flattens channels first, Flax channels last.

    Returns:
        A tree like `like`, with its dtypes and torch's values.

    Raises:
        TypeError: `state_dict` is no dict of arrays, or `like` is a module.
        ValueError: Something in torch or in `like` has no counterpart, the shapes
            differ, the order of a flattened input is not known, or an attention has
            `add_bias_kv=True`.

    Example:
        >>> import jmeta, numpy as np
        >>> from flax import nnx
        >>> torch_weights = {"fc.weight": np.ones((3, 2)), "fc.bias": np.ones(3)}
        >>> _, params = jmeta.make_functional(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        >>> params = parameters(torch_weights, params, names={"fc": ""})
        >>> params["kernel"].shape
        (2, 3)

    Differs from torch:
        Flax's LayerNorm and GroupNorm add `epsilon=1e-6` by default, torch 1e-5;
        BatchNorm's 1e-5 is the same. A gate's two biases are trained apart in torch:
        outputs of recurrent nets agree, but a step of SGD moves the biases' sum twice
        as far there.

        A ConvTranspose of Flax must have `transpose_kernel=True`; nothing in its
        parameters tells where it has not and as many inputs as outputs. Along an axis
        of kernel `k`, `padding` p, `output_padding` o and `dilation` d in torch,
        Flax's padding is `(d * (k - 1) - p, d * (k - 1) - p + o)`; it has no groups.
        Attention is batch first in Flax, and True in its mask is what is attended to,
        in torch what is not; nnx's takes the softmax in float32 even of float64, unless
        it gets an `attention_fn`. `kdim` and `vdim` that differ need linen's, or an
        `nnx.LinearGeneral` in the place of `value`.
    """
    given = arrays(state_dict)
    weights = {k: v for k, v in given.items() if k.rpartition(".")[2] not in _BUFFERS}
    names, flatten = names or {}, flatten or {}
    check_names(list(given), names, flatten)
    leaves = leaves_of("like", like)
    found, unmatched = match(weights, leaves, names, flatten)
    missing = [path for path in leaves if path not in found]
    if unmatched or missing:
        raise ValueError(_unmatched(unmatched, missing, weights, leaves))
    return with_leaves(like, found)


def state(
    state_dict: Mapping[str, Any], like: PyTree, *, names: Names | None = None
) -> PyTree:
    """Put a torch module's running statistics into the state of the Flax network.

    Args:
        state_dict: What torch's `module.state_dict()` returned, as in `parameters`.
        like: State of the Flax module, as `make_functional` returns it: nnx's
            statistics, or linen's `{"batch_stats": ...}`.
        names: As in `parameters`; may be the same.

    Returns:
        A tree like `like` with torch's `running_mean` and `running_var` as `mean` and
        `var`, in the dtypes of `like`; Flax makes float32 statistics. What is no
        running statistic stays as it is.

    Raises:
        ValueError: A statistic in torch or in `like` has no counterpart, or the shapes
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

    Differs from torch:
        torch's next running variance averages the unbiased variance of a batch, n /
        (n - 1) times the one that Flax averages, and its `momentum` is the share of
        the new batch where Flax's is that of the old value: `1 - momentum`.
    """
    given, names = arrays(state_dict), names or {}
    check_names(list(given), names, {})
    leaves = leaves_of("like", like)
    there = places(leaves)
    found, unmatched, wanted = {}, [], {}
    for name, value in given.items():
        parent, _, leaf = name.rpartition(".")
        if leaf not in _STATISTICS:
            continue
        module = translate(parent, names)
        if module is None:
            continue
        path = ".".join(filter(None, (module, _STATISTICS[leaf])))
        both = (in_sequentials(p, there) for p in (path, f"batch_stats.{path}"))
        path = next((p for p in both if p in leaves), None)
        wanted[name] = value
        if path is None:
            unmatched.append(name)
        else:
            found[path] = value
    statistics = [p for p in leaves if p.rpartition(".")[2] in _STATISTICS.values()]
    missing = [path for path in statistics if path not in found]
    if unmatched or missing:
        raise ValueError(_unmatched(unmatched, missing, wanted, leaves))
    return with_leaves(like, found)


def _unmatched(
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
