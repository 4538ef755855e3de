"""The paths of a Sequential's layers in Flax."""

from collections.abc import Iterable


def path_prefixes(leaves: Iterable[str]) -> frozenset[str]:
    """The leaves' dotted paths and all beginnings of these.

    Example:
        >>> sorted(path_prefixes(["layers.0.kernel"]))
        ['layers', 'layers.0', 'layers.0.kernel']
    """
    parts = [path.split(".") for path in leaves]
    return frozenset(
        ".".join(path[:n]) for path in parts for n in range(1, len(path) + 1)
    )


def in_sequentials(path: str, prefixes: frozenset[str]) -> str:
    """Replace torch's layer numbers in a path by the names in Flax's Sequentials.

    Layer 2 is `layers.2` in nnx.Sequential and `layers_2` in linen's. Both count layers
    without parameters, as torch does.

    Args:
        path: A dotted path with torch's layer numbers.
        prefixes: The leaves' paths and all their beginnings.

    Example:
        >>> prefixes = path_prefixes(
        ...     ["body.layers.0.layers.2.kernel", "head.layers_1.bias"]
        ... )
        >>> [in_sequentials(p, prefixes) for p in ("body.0.2.weight", "head.1.bias")]
        ['body.layers.0.layers.2.weight', 'head.layers_1.bias']
    """
    found = ""
    for part in path.split("."):
        before = f"{found}." if found else ""
        options = [f"{before}{part}"]
        if part.isdecimal():
            options += [f"{before}layers.{part}", f"{before}layers_{part}"]
        found = next((option for option in options if option in prefixes), options[0])
    return found
