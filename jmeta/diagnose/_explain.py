"""Which inputs reach an output, and what cuts the others off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.tree_util import keystr, tree_leaves_with_path

from jmeta._core import validate
from jmeta._jaxpr.flow import follow_indices, own_indices
from jmeta._jaxpr.notes import notes
from jmeta._jaxpr.primitives import source_line


class Cut(NamedTuple):
    """Where a path from an input ends for the derivative.

    Attributes:
        reason: `"stop_gradient"`; `"integer"`, a cast, a comparison or a count; or
            `"custom rule"`, whose derivative leaves the input out.
        place: The user's line, such as `train.py:12 in loss`; empty if unknown.
    """

    reason: str
    place: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.place})" if self.place else self.reason


class Input(NamedTuple):
    """What becomes of one input.

    Attributes:
        name: The leaf's path in the arguments, such as `args[0]['w']`.
        reaches: Whether a derivative goes through to the output.
        cuts: Where its other paths to the output are cut, also when it reaches.
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
    """Every input's way to the output; print it for a line each.

    Attributes:
        inputs: In the order of the arguments' leaves.
        notes: What inner loops do otherwise than their settings say, and why.
    """

    inputs: tuple[Input, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        notes = [f"inner loop: {note}" for note in self.notes]
        return "\n".join([*map(str, self.inputs), *notes])

    def dot(self) -> str:
        """A graph in Graphviz's dot language: cuts in red, what is unused in grey."""
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

    Follows every input through the function's jaxpr, its loops and branches. Where a
    function has a derivative rule of its own, the rule decides and not what the
    function computes with. A zero hypergradient that surprises is nearly always one of
    these: the value is not used, a `stop_gradient` stands in between, it went through
    an integer or a comparison, or a custom rule leaves it out.

    It also says which inner loops could not be differentiated forward over reverse,
    since a function in their loss has a rule that need not be its derivative.

    Args:
        fun: Function of arrays, such as a meta-loss.
        *args: What it is called with; `jax.ShapeDtypeStruct` will do for an array.

    Returns:
        A row for each leaf of the arguments, and notes; `.dot()` draws it.

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
        A path of derivatives that happen to be 0 (as of `round` itself) counts as
        reaching. So does what `ForwardMode` over its limit and `Implicit` compute with,
        and every input of a rule that cannot be traced by itself.
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
        *follow_indices(closed, own_indices(closed.jaxpr.invars), _cut)
    )
    return Explanation(
        tuple(
            Input(f"args{keystr(path)}", i in found, _cuts_of(i, found))
            for i, (path, _) in enumerate(tree_leaves_with_path(args))
        ),
        notes(closed.jaxpr),
    )


def _cuts_of(i, found):
    pairs = [item for item in found if isinstance(item, tuple)]
    return tuple(sorted(cut for index, cut in pairs if index == i))


def _cut(reason, eqn, indices):
    """Mark what ends here, once: what was cut before stays as it is."""
    cut = Cut(reason, source_line(eqn) if eqn is not None else "")
    return frozenset(i if isinstance(i, tuple) else (i, cut) for i in indices)


def _quoted(text):
    return '"' + text.replace('"', '\\"') + '"'
