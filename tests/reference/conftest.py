"""Keeps pytest from importing the recording scripts, which need torch."""

collect_ignore_glob = ["*.py"]
