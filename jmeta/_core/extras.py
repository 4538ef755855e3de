"""Import of optional packages, with a message that names the extra to install."""

import importlib
from typing import Any


def load(module: str, extra: str, wanted_by: str, instead: str = "") -> Any:
    """Import a module that an extra of jmeta installs.

    Args:
        module: Full name of the module.
        extra: Name of the extra in `pip install 'jmeta[extra]'`.
        wanted_by: What needs the module; the message begins with it.
        instead: What the user can do without the module; empty if there is no way.

    Returns:
        The module.

    Raises:
        ImportError: The module is not installed.

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
