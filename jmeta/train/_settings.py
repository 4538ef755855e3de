"""The file `settings.json`: what must be the same when a run goes on."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

from jmeta.train import _files

_FORMAT = "jmeta.fit 1"

Settings = dict[str, str]


def store_or_compare(
    directory: Path,
    settings: Settings,
    has_checkpoints: bool,
    settings_in_checkpoint: Callable[[], Settings | None],
) -> Settings:
    """Store the settings of a new run, or compare them with those of an old one.

    Args:
        directory: The run's directory.
        settings: Key, shapes and dtypes of this run, by name.
        has_checkpoints: Whether the directory holds a run to go on with.
        settings_in_checkpoint: Returns the settings in a whole checkpoint, or None.
            They replace those of a damaged file.

    Returns:
        The settings, with an entry for the format of the checkpoints.

    Raises:
        ValueError: The run in the directory began with other settings, or there are
            files that `fit` did not write.
        OSError: The file cannot be read or written.
    """
    settings = {"format": _FORMAT, **settings}
    path = directory / "settings.json"
    with _files.explain_os_errors(f"{path} cannot be read"):
        there = path.exists()
        raw = path.read_bytes() if there else b""
    before = _parsed(raw)
    if not has_checkpoints:
        _refuse_foreign(directory, there, raw, before)
    elif not there:
        raise ValueError(
            f"`directory` {directory} has checkpoints but no {path.name}: `fit` did not"
            " make it. Pass another."
        )
    elif before is not None:
        _compare(directory, before, settings)
        return settings
    else:
        before = settings_in_checkpoint()
        if before is None:
            raise ValueError(
                f"`directory` {directory} has a {path.name} that is damaged, and no"
                " checkpoint that is whole. Pass another directory to begin again."
            )
        _compare(directory, before, settings)
        warnings.warn(
            f"{path} was damaged and has been written anew from a checkpoint.",
            stacklevel=4,
        )
    with _files.explain_os_errors(f"{path} cannot be written"):
        _files.write_through(path, json.dumps(settings, indent=1).encode())
    return settings


def _parsed(raw):
    """The settings in the bytes of a file; None if they are damaged."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refuse_foreign(directory, there, raw, before):
    """Raise if another program wrote the files that `fit` would write over."""
    metrics = directory / "metrics.jsonl"
    if not there:
        if metrics.exists():
            raise ValueError(
                f"`directory` {directory} has a {metrics.name} but no settings.json:"
                " `fit` did not make it. Pass another."
            )
        return
    is_ours = before is not None and str(before.get("format")).startswith("jmeta.fit")
    is_torn = before is None and (not raw.strip(b"\0 \n") or b'"jmeta.fit' in raw)
    if not is_ours and not is_torn:
        raise ValueError(
            f"`directory` {directory} has a settings.json that `fit` did not write, and"
            " no checkpoints. Pass another."
        )


def _compare(directory, before, settings):
    differences = [
        f"`{name}` was {before.get(name, 'absent')}, now {settings.get(name, 'absent')}"
        for name in {**settings, **before}
        if before.get(name) != settings.get(name)
    ]
    if differences:
        more = len(differences) - 5
        raise ValueError(
            f"`directory` {directory} holds a run with other settings:"
            f" {'; '.join(differences[:5])}{f'; and {more} more' if more > 0 else ''}."
            " Pass what the run was started with, or another directory."
        )
