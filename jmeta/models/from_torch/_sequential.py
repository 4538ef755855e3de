"""Where the layers of a Sequential are in Flax."""

from collections.abc import Iterable


def places(leaves: Iterable[str]) -> frozenset[str]:
    """The leaves' dotted paths with all that they go through.

    Example:
        >>> sorted(places(["layers.0.kernel"]))
        ['layers', 'layers.0', 'layers.0.kernel']
    """
    parts = [path.split(".") for path in leaves]
    return frozenset(
        ".".join(path[:n]) for path in parts for n in range(1, len(path) + 1)
    )


def in_sequentials(path: str, there: frozenset[str]) -> str:
    """A path with torch's numbers of layers as the Sequentials of Flax name them.

    nnx.Sequential holds layer 2 as `layers.2`, linen's as `layers_2`; both count layers
    without parameters, as torch does.

    Example:
        >>> there = places(["body.layers.0.layers.2.kernel", "head.layers_1.bias"])
        >>> [in_sequentials(p, there) for p in ("body.0.2.weight", "head.1.bias")]
        ['body.layers.0.layers.2.weight', 'head.layers_1.bias']
    """
    found = ""
    for part in path.split("."):
        before = f"{found}." if found else ""
        options = [f"{before}{part}"]
        if part.isdecimal():
            options += [f"{before}layers.{part}", f"{before}layers_{part}"]
        found = next((option for option in options if option in there), options[0])
    return found
