"""Explain which inputs reach an output, and what cuts the others off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._jaxpr.flow import follow_indices, own_indices
from jmeta._jaxpr.notes import notes
from jmeta._jaxpr.primitives import source_line


class Cut(NamedTuple):
    """The place where a path from an input ends for the derivative.

    Attributes:
        reason: `"stop_gradient"`; `"integer"` for a cast, a comparison or a count; or
            `"custom rule"` for a derivative rule that leaves the input out.
        place: The user's line, such as `train.py:12 in loss`; empty if unknown.
    """

    reason: str
    place: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.place})" if self.place else self.reason


class Input(NamedTuple):
    """How one input is connected with the output.

    Attributes:
        name: The leaf's path in the arguments, such as `args[0]['w']`.
        reaches: Whether the derivative goes through to the output on some path.
        cuts: Where its other paths to the output are cut. An input that reaches the
            output may have cuts too.
    """

    name: str
    reaches: bool
    cuts: tuple[Cut, ...]

    @property
    def unused(self) -> bool:
        """Whether no path at all leads to the output."""
        return not self.reaches and not self.cuts

    def __str__(self) -> str:
        cuts = "; ".join(map(str, self.cuts))
        if self.reaches:
            return f"{self.name}: reaches" + (
                f", some paths cut by {cuts}" if cuts else ""
            )
        return f"{self.name}: " + (f"cut by {cuts}" if cuts else "unused")


class Explanation(NamedTuple):
    """How every input is connected with the output; printing it gives a line for each.

    Attributes:
        inputs: An entry for each leaf of the arguments, in their order.
        notes: Where an inner loop departs from its settings, and why.
    """

    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = [f"inner loop: {note}" for note in self.notes]
        return "\n".join([*map(str, self.inputs), *notes])

    def dot(self) -> str:
        """Draw a graph in Graphviz's dot language: cuts red, unused inputs grey."""
        cuts = sorted({cut for leaf in self.inputs for cut in leaf.cuts})
        lines = ["digraph {", "  rankdir=LR;", "  output [shape=doublecircle];"]
        for number, cut in enumerate(cuts):
            label = _quoted("\\n".join(filter(None, cut)))
            lines.append(f"  cut{number} [shape=octagon, color=red, label={label}];")
            lines.append(f"  cut{number} -> output [style=dashed, color=red];")
        for number, leaf in enumerate(self.inputs):
            color = ", color=grey, fontcolor=grey" if leaf.unused else ""
            lines.append(
                f"  input{number} [shape=box, label={_quoted(leaf.name)}{color}];"
            )
            if leaf.reaches:
                lines.append(f"  input{number} -> output;")
            for cut in leaf.cuts:
                end = f"cut{cuts.index(cut)}"
                lines.append(f"  input{number} -> {end} [style=dashed, color=red];")
        return "\n".join([*lines, "}"])


def explain(fun: Callable[..., Any], *args: Any) -> Explanation:
    """Find which arguments the derivative of a function reaches, without running it.

    Follows every input through the function's jaxpr, with its loops and branches. Where
    a function has a derivative rule of its own, the rule decides which inputs count. An
    unexpected zero hypergradient nearly always has one of these causes: the value is
    not used, a `stop_gradient` stands in between, the value went through an integer or
    a comparison, or a custom rule leaves it out.

    The notes say which inner loops could not be differentiated forward over reverse,
    since a function in their loss has a rule that need not be its derivative.

    Args:
        fun: Function of pytrees of arrays, such as a meta-loss.
        *args: Its arguments; a `jax.ShapeDtypeStruct` can stand for an array.

    Returns:
        A row for each leaf of the arguments, and the notes; `.dot()` makes a graph.

    Raises:
        TypeError: `fun` is no function of these arguments, or takes or gives anything
            but arrays.

    Example:
        >>> import jax, jax.numpy as jnp, jmeta
        >>> def fun(x, y, n, z):
        ...     return x * jnp.round(y).astype(int) + jnp.zeros(()) * n
        >>> [leaf.reaches for leaf in jmeta.explain(fun, 1.0, 2.0, 3.0, 4.0).inputs]
        [True, False, True, False]

    Note:
        An input counts as reaching also where the derivatives on the path happen to be
        0, as that of `round`. So does every input of `ForwardMode` above its limit, of
        `Implicit`, and of a rule that cannot be traced by itself.
    """
    validate.function("fun", fun, use="Pass the function and what it is called with.")
    validate.takes("fun", fun, *args)
    validate.traceable("args", args)

    def checked(*args):
        out = fun(*args)
        validate.traceable("fun", out, use="Let it return arrays alone.")
        return out

    closed = jax.make_jaxpr(checked)(*args)
    found = frozenset().union(
        *follow_indices(closed, own_indices(closed.jaxpr.invars), _mark_cut)
    )
    return Explanation(
        tuple(
            Input(f"args{keystr(path)}", i in found, _cuts_of(i, found))
            for i, (path, _) in enumerate(tree_leaves_with_path(args))
        ),
        notes(closed.jaxpr),
    )


def _cuts_of(i, found):
    """The cuts of input `i`, among the marks that arrived at the output."""
    pairs = [item for item in found if isinstance(item, tuple)]
    return tuple(sorted(cut for index, cut in pairs if index == i))


def _mark_cut(reason, eqn, indices):
    """Replace each index of an input by `(index, cut)`; what was cut before stays."""
    cut = Cut(reason, source_line(eqn) if eqn is not None else "")
    return frozenset(i if isinstance(i, tuple) else (i, cut) for i in indices)


def _quoted(text):
    return '"' + text.replace('"', '\\"') + '"'
