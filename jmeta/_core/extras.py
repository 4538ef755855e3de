"""Packages that come with an extra of the package, and how to get them."""

import importlib
from typing import Any


def load(module: str, extra: str, wanted_by: str, instead: str = "") -> Any:
    """Import what an extra brings.

    Args:
        module: The module to import.
        extra: The extra that brings it.
        wanted_by: What needs it, as a message begins.
        instead: What to do without it, if anything.

    Returns:
        The module.

    Raises:
        ImportError: It is not installed.

    Example:
        >>> load("json", "train", "`x=`", "pass `x=None`").dumps(1)
        '1'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = f"Install it by `pip install 'jmeta[{extra}]'`"
        raise ImportError(
            f"{wanted_by} needs {module.partition('.')[0]}. {install}"
            + (f", or {instead}." if instead else ".")
        ) from error
