"""Plots of runs, hypergradients and adaptation, on given axes or new ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.tree_util import DictKey, keystr, tree_leaves_with_path
from jax.typing import ArrayLike

from jmeta._core import extras, validate
from jmeta._core.typing import PyTree
from jmeta._loop.inner_loop import Run


def hypergradients(values: PyTree, ax: Any = None) -> Any:
    """Draw the hypergradient of each step, to see where it is large or changes sign.

    The axis is symmetric-logarithmic, since hypergradients of long runs differ by
    orders of magnitude and in sign.

    Args:
        values: Pytree of arrays with a leading axis of steps, such as the gradient by
            an `lr` of shape `[steps]` or by `perturbations`. If a leaf has further
            axes, the norm over them is drawn.
        ax: Matplotlib axes to draw on. Default those of a new figure.

    Returns:
        The axes with the picture.

    Raises:
        TypeError: Anything but arrays.
        ValueError: A leaf without an axis of steps.

    Example:
        >>> import matplotlib, numpy as np, jmeta
        >>> matplotlib.use("agg")
        >>> ax = jmeta.plot.hypergradients({"lr": np.array([-3.0, 0.1, 0.002])})
        >>> [line.get_label() for line in ax.get_lines() if line.get_marker() != "None"]
        ['lr']
    """
    validate.arrays("values", values)
    curves = {}
    for path, leaf in tree_leaves_with_path(values):
        curve = _real_array("values", leaf)
        _check_step_axis("values", curve, path)
        name = keystr(path, simple=True, separator=".") or "hypergradient"
        if curve.ndim > 1:
            name = f"norm of {name}"
            curve = np.linalg.norm(curve.reshape(len(curve), -1), axis=1)
        curves[name] = curve
    ax = _given_or_new_axes(ax)
    ax.axhline(0.0, color="0.7", linewidth=1)
    for name, curve in curves.items():
        ax.plot(curve, marker="o", markersize=3, label=name)
    ax.set_yscale("symlog", linthresh=_linear_below(list(curves.values())))
    return _label_axes(ax, "step", "hypergradient")


def losses(run: Run | Mapping[str, Run | ArrayLike] | ArrayLike, ax: Any = None) -> Any:
    """Draw the inner loss before each step, of one run or of several by name.

    Args:
        run: A `Run`, its losses of shape `[steps]`, or a mapping from names to either.
            Losses of a batch of tasks, shape `[B, steps]`, are drawn as their mean
            with a band from the 10th to the 90th percentile.
        ax: Matplotlib axes to draw on. Default those of a new figure.

    Returns:
        The axes with the picture.

    Raises:
        TypeError: `run` holds anything but runs and arrays.
        ValueError: Losses without an axis of steps.

    Example:
        >>> import matplotlib, numpy as np, jmeta
        >>> matplotlib.use("agg")
        >>> ax = jmeta.plot.losses({"lr 0.1": np.array([3.0, 2.0, 1.0])})
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('step', 'inner loss')
    """
    named = run if isinstance(run, Mapping) else {"inner loss": run}
    curves = {
        name: _real_array("run", one.losses if isinstance(one, Run) else one)
        for name, one in named.items()
    }
    for name, curve in curves.items():
        _check_step_axis("run", curve, (DictKey(name),))
    ax = _given_or_new_axes(ax)
    for name, curve in curves.items():
        tasks = curve.reshape(-1, curve.shape[-1])
        (line,) = ax.plot(tasks.mean(0), label=name)
        if len(tasks) > 1:
            low, high = np.percentile(tasks, [10, 90], axis=0)
            steps = np.arange(tasks.shape[1])
            ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
    return _label_axes(ax, "step", "inner loss")


def history(run: Run, ax: Any = None) -> Any:
    """Draw how far each parameter is from its initial value after each step.

    Args:
        run: The result of a single `inner_loop(..., history=True)`.
        ax: Matplotlib axes to draw on. Default those of a new figure.

    Returns:
        The axes, with the norm of the distance for each leaf of the parameters.

    Raises:
        TypeError: `run` is no `Run`.
        ValueError: The history was not kept, or `run` is of a batch of loops.

    Example:
        >>> import matplotlib, jmeta
        >>> matplotlib.use("agg")
        >>> square, sgd = lambda w: w**2, jmeta.optim.sgd(lr=0.25)
        >>> ax = jmeta.plot.history(jmeta.inner_loop(square, 1.0, sgd, 2, history=True))
        >>> ax.get_lines()[0].get_ydata().tolist()
        [0.0, 0.5, 0.75]
    """
    use = "Pass what `inner_loop(..., history=True)` gives."
    validate.instance("run", run, Run, "a `Run`", use=use)
    if run.history is None:
        raise ValueError(
            "`run` must have its history; got one without. Call"
            " `inner_loop(..., history=True)`."
        )
    if np.ndim(run.losses) != 1:
        raise ValueError(
            "`run` must be of a single loop; got `losses` of shape"
            f" {np.shape(run.losses)}. Take one of the runs by `jax.tree.map`."
        )
    ax = _given_or_new_axes(ax)
    for path, leaf in tree_leaves_with_path(run.history):
        moved = np.asarray(leaf) - np.asarray(leaf)[0]
        distance = np.linalg.norm(moved.reshape(len(moved), -1), axis=1)
        ax.plot(distance, label=keystr(path, simple=True, separator=".") or "params")
    return _label_axes(ax, "time", "distance from the initial parameters")


def adaptation(
    x: ArrayLike,
    outputs: Mapping[str, ArrayLike],
    *,
    seen: tuple[ArrayLike, ArrayLike] | None = None,
    truth: ArrayLike | None = None,
    ax: Any = None,
) -> Any:
    """Draw a regression model before and after it adapts to a task.

    Args:
        x: Inputs, shape `[n]` or `[n, 1]`, in any order.
        outputs: Predictions at `x` by name, each of shape `[n]` or `[n, 1]`, in the
            order of adaptation; the last one is drawn as a full line.
        seen: Inputs and targets of the support set, `task.support`, drawn as points.
        truth: Targets at `x`, shape `[n]` or `[n, 1]`, drawn in black.
        ax: Matplotlib axes to draw on. Default those of a new figure.

    Returns:
        The axes with the picture.

    Raises:
        TypeError: Anything but arrays, or `outputs` is no mapping.
        ValueError: Inputs or outputs of more than one number each, or arrays of
            different lengths.

    Example:
        >>> import matplotlib, numpy as np, jmeta
        >>> matplotlib.use("agg")
        >>> x = np.linspace(-1, 1, 3)
        >>> ax = jmeta.plot.adaptation(x, {"before": 0 * x, "after": x}, truth=x**3)
        >>> [line.get_label() for line in ax.get_lines()]
        ['truth', 'before', 'after']
    """
    x = _as_row("x", x)
    order = np.argsort(x)
    use = "Pass for example `{'after': y}`."
    validate.mapping("outputs", outputs, use=use)
    curves = {name: _as_row("outputs", y, x, name) for name, y in outputs.items()}
    black = None if truth is None else _as_row("truth", truth, x)
    points = None if seen is None else _support_points(seen)
    ax = _given_or_new_axes(ax)
    if black is not None:
        ax.plot(x[order], black[order], color="k", linewidth=1, label="truth")
    if points is not None:
        ax.plot(*points, "k^", markersize=5, label="seen")
    for i, (name, y) in enumerate(curves.items()):
        style = (":", "--")[min(i, 1)] if i + 1 < len(curves) else "-"
        ax.plot(x[order], y[order], style, color=f"C{i}", label=name)
    ax.set_xlabel("x")
    ax.set_ylabel("y")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize="small", framealpha=0.8, edgecolor="none")
    return ax


def accuracy(
    values: Mapping[str, ArrayLike] | ArrayLike,
    x: ArrayLike | None = None,
    *,
    label: str = "step",
    ax: Any = None,
) -> Any:
    """Draw mean accuracy over tasks with its 95 % confidence interval.

    Args:
        values: Accuracies between 0 and 1, or a mapping from names to such. Shape
            `[points, tasks]` is drawn as a curve with a band, `[tasks]` as a bar.
        x: Positions of the points, shape `[points]`, such as inner steps or meta-steps.
            Default 0, 1, ...
        label: Text at the x axis.
        ax: Matplotlib axes to draw on. Default those of a new figure.

    Returns:
        The axes. The interval is the mean plus and minus 1.96 standard errors.

    Raises:
        TypeError: Anything but arrays.
        ValueError: `x` has another number of points; or an array has another rank,
            fewer than two tasks, or numbers that are no accuracies.

    Example:
        >>> import matplotlib, numpy as np, jmeta
        >>> matplotlib.use("agg")
        >>> ax = jmeta.plot.accuracy(np.array([[0.2, 0.3], [0.6, 0.8], [0.7, 0.9]]))
        >>> ax.get_lines()[0].get_ydata().round(2).tolist()
        [0.25, 0.7, 0.8]
    """
    named = values if isinstance(values, Mapping) else {"accuracy": values}
    named = {name: _real_array("values", rows) for name, rows in named.items()}
    at = None if x is None else _real_array("x", x)
    validate.instance("label", label, str, "a string")
    for name, rows in named.items():
        if rows.ndim not in (1, 2) or rows.shape[-1] < 2 or not rows.size:
            raise ValueError(
                "`values` must be accuracies of shape `[tasks]` or `[points, tasks]`,"
                f" of two tasks or more; got shape {rows.shape} for {name!r}."
            )
        if not ((rows >= 0) & (rows <= 1)).all():
            raise ValueError(
                "`values` must be accuracies between 0 and 1; got some from"
                f" {rows.min()} to {rows.max()} for {name!r}."
            )
        if at is not None and at.shape != rows.shape[:-1]:
            raise ValueError(
                "`x` must have an entry for each of the points of `values`; got shape"
                f" {at.shape}, expected {rows.shape[:-1]} for {name!r}."
            )
    ax = _given_or_new_axes(ax)
    for name, rows in named.items():
        mean = rows.mean(-1)
        half = 1.96 * rows.std(-1, ddof=1) / np.sqrt(rows.shape[-1])
        if rows.ndim == 1:
            ax.bar(name, mean, yerr=half, capsize=4)
            ax.text(name, 0.02, f"{mean:.1%}", ha="center", color="w")
            continue
        points = np.arange(len(rows)) if at is None else at
        (line,) = ax.plot(points, mean, marker="o", markersize=3, label=name)
        ax.fill_between(
            points, mean - half, mean + half, alpha=0.2, color=line.get_color()
        )
        ax.set_xlabel(label)
        ax.legend(frameon=False)
    ax.set_ylim(0, 1)
    ax.set_ylabel("accuracy")
    ax.yaxis.set_major_formatter("{x:.0%}")
    return ax


def _given_or_new_axes(ax):
    if ax is None:
        return _matplotlib("pyplot").subplots(layout="constrained")[1]
    use = "Make one by `ax = plt.subplots()[1]`, or leave it out."
    validate.instance("ax", ax, _matplotlib("axes").Axes, "matplotlib axes", use=use)
    return ax


def _label_axes(ax, x, y):
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.xaxis.set_major_locator(_matplotlib("ticker").MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def _matplotlib(module):
    """Import a module of matplotlib, which comes with an extra of the package."""
    return extras.load(f"matplotlib.{module}", "plot", "`jmeta.plot`")


def _real_array(argument, values):
    """Convert to an array of real numbers, or refuse the values."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "OSUMmc":
            raise TypeError
        return array.astype(float)
    except (TypeError, ValueError):
        raise TypeError(
            f"`{argument}` must be an array of real numbers, or several by name; got"
            f" {validate.kind(values)}."
        ) from None


def _as_row(argument, values, x=None, name=None):
    """Convert to shape `[n]`, with as many numbers as there are inputs `x`."""
    curve = _real_array(argument, values)
    shape = curve.shape
    if curve.ndim == 2 and shape[1] == 1:
        curve = curve[:, 0]
    if curve.ndim != 1 or (x is not None and curve.shape != x.shape):
        many = "" if x is None else f", with {len(x)} entries as `x` has"
        of = "" if name is None else f" for {name!r}"
        raise ValueError(
            f"`{argument}` must be of shape `[n]` or `[n, 1]`{many}; got shape"
            f" {shape}{of}."
        )
    return curve


def _support_points(seen):
    """The inputs and targets of a support set, each of shape `[n]`."""
    if not isinstance(seen, tuple | list) or len(seen) != 2:
        raise TypeError(
            "`seen` must be a pair of inputs and targets, such as `task.support`; got"
            f" {validate.kind(seen)}."
        )
    x = _as_row("seen", seen[0])
    return x, _as_row("seen", seen[1], x)


def _linear_below(curves):
    """Where the axis becomes linear: the least size, at least 1e-4 of the largest."""
    sizes = np.abs(np.concatenate(curves)) if curves else np.ones(1)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not sizes.size:
        return 1.0
    return float(max(sizes.min(), sizes.max() * 1e-4))


def _check_step_axis(argument, curve, path):
    if not curve.size or not curve.ndim:
        got = f"shape {curve.shape}" if curve.ndim else "a scalar"
        raise ValueError(
            f"`{argument}` must have an axis of steps; got {got} at the leaf"
            f" {keystr(path)!r}. Differentiate by an `lr` of shape `[steps]`, or by"
            " `perturbations`."
        )
