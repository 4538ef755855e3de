"""Pictures of runs and hypergradients, on an axes of yours or a new one."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._typing import PyTree
from jmeta.inner_loop import Run


def hypergradients(values: PyTree, ax: Any = None) -> Any:
    """Draw the hypergradient of each step, where it is large and where it flips.

    The axis is symmetric-logarithmic, since hypergradients of long runs differ by
    orders of magnitude and in sign.

    Args:
        values: Arrays with a leading axis of steps in a pytree: the gradient by an
            `lr` of shape `[steps]`, or by `perturbations`. Of an entry with further
            axes its norm is drawn.
        ax: Matplotlib axes; default a new figure's.

    Returns:
        The axes.

    Raises:
        ValueError: A leaf without an axis of steps.

    Example:
        >>> import matplotlib, numpy as np, jmeta
        >>> matplotlib.use("agg")
        >>> ax = jmeta.plot.hypergradients({"lr": np.array([-3.0, 0.1, 0.002])})
        >>> [line.get_label() for line in ax.get_lines() if line.get_marker() != "None"]
        ['lr']
    """
    curves = {}
    for path, leaf in tree_leaves_with_path(values):
        curve = np.asarray(leaf)
        _check_steps(curve, path)
        name = keystr(path, simple=True, separator=".") or "hypergradient"
        if curve.ndim > 1:
            name = f"norm of {name}"
            curve = np.linalg.norm(curve.reshape(len(curve), -1), axis=1)
        curves[name] = curve
    ax = _axes(ax)
    ax.axhline(0.0, color="0.7", linewidth=1)
    for name, curve in curves.items():
        ax.plot(curve, marker="o", markersize=3, label=name)
    ax.set_yscale("symlog", linthresh=_threshold(list(curves.values())))
    return _finish(ax, "step", "hypergradient")


def losses(run: Run | Mapping[str, Run] | jax.Array, ax: Any = None) -> Any:
    """Draw the inner loss before each step, of one run or of several by name.

    Args:
        run: A `Run`, its losses, or a mapping from names to either. Runs of a batch
            of tasks, losses of shape `[B, steps]`, are drawn as their mean with a band
            from the 10th to the 90th percentile.
        ax: Matplotlib axes; default a new figure's.

    Returns:
        The axes.

    Example:
        >>> import matplotlib, numpy as np, jmeta
        >>> matplotlib.use("agg")
        >>> ax = jmeta.plot.losses({"lr 0.1": np.array([3.0, 2.0, 1.0])})
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('step', 'inner loss')
    """
    ax = _axes(ax)
    for name, one in _named(run).items():
        curve = np.asarray(one.losses if isinstance(one, Run) else one)
        _check_steps(curve, ())
        tasks = curve.reshape(-1, curve.shape[-1])
        (line,) = ax.plot(tasks.mean(0), label=name)
        if len(tasks) > 1:
            low, high = np.percentile(tasks, [10, 90], axis=0)
            steps = np.arange(tasks.shape[1])
            ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
    return _finish(ax, "step", "inner loss")


def history(run: Run, ax: Any = None) -> Any:
    """Draw how far each parameter has gone from where it started.

    Args:
        run: A `Run` with `history=True`.
        ax: Matplotlib axes; default a new figure's.

    Returns:
        The axes, with the norm of the way for each leaf of the parameters.

    Raises:
        ValueError: The history was not kept.

    Example:
        >>> import matplotlib, jmeta
        >>> matplotlib.use("agg")
        >>> square, sgd = lambda w: w**2, jmeta.optim.sgd(lr=0.25)
        >>> ax = jmeta.plot.history(jmeta.inner_loop(square, 1.0, sgd, 2, history=True))
        >>> ax.get_lines()[0].get_ydata().tolist()
        [0.0, 0.5, 0.75]
    """
    if run.history is None:
        raise ValueError(
            "A plot of the history needs it; call `inner_loop(..., history=True)`."
        )
    ax = _axes(ax)
    for path, leaf in tree_leaves_with_path(run.history):
        way = np.asarray(leaf) - np.asarray(leaf)[0]
        distance = np.linalg.norm(way.reshape(len(way), -1), axis=1)
        ax.plot(distance, label=keystr(path, simple=True, separator=".") or "params")
    return _finish(ax, "time", "distance from the initial parameters")


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _finish(ax, x, y):
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def _named(run):
    return run if isinstance(run, Mapping) else {"inner loss": run}


def _threshold(curves):
    """Below it the axis is linear: the smallest that counts beside the largest."""
    sizes = np.abs(np.concatenate(curves)) if curves else np.ones(1)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not sizes.size:
        return 1.0
    return float(max(sizes.min(), sizes.max() * 1e-4))


def _check_steps(curve, path):
    if not curve.ndim:
        raise ValueError(
            f"There must be an axis of steps; leaf {keystr(path)!r} is a scalar."
            " Differentiate by an `lr` of shape `[steps]`, or by `perturbations`."
        )
