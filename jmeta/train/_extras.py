"""Packages that come with an extra, and how to get them."""

import importlib
from typing import Any


def load(module: str, extra: str, wanted_by: str, instead: str) -> Any:
    """Import what an extra brings.

    Raises:
        ImportError: It is not installed.

    Example:
        >>> load("json", "examples", "`x=`", "pass `x=None`").dumps(1)
        '1'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{wanted_by} needs {module.partition('.')[0]}. Install it by"
            f" `pip install 'jmeta[{extra}]'`, or {instead}."
        ) from error
