"""What README.md says can be run, and what it names exists."""

import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from tests.helpers import F32, assert_trees_close

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FENCES = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = FENCES.sub("", README)


def section(title):
    """The text under a heading of the second level."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def blocks(text, language):
    return [code for name, code in FENCES.findall(text) if name == language]


def looks_like_a_path(words):
    return re.fullmatch(r"[\w./-]*(/[\w./-]*|\.(py|md|toml|cff|json|yaml))", words)


def named_paths():
    """Paths in backquotes, in links and in commands; not what the examples write."""
    words = re.findall(r"`([^`\n]+)`", PROSE)
    words += [link for link in re.findall(r"\]\(([^)\s]+)\)", PROSE) if ":" not in link]
    for command in blocks(README, "sh"):
        words += re.findall(r"\S+\.py\b", command)
    paths = {word for word in words if looks_like_a_path(word)}
    return sorted(path for path in paths if not path.startswith("out/"))


def test_examples_run():
    codes = blocks(README, "python")
    assert codes
    names = {}
    # as a user runs them
    with (
        jax.enable_x64(False),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        for code in codes:
            exec(code, names)
    assert names["d_lrs"].shape == (20,)
    assert_trees_close(jnp.sum(names["d_lrs"]), names["d_lr"], F32)
    assert abs(names["d_momentum"]) > 0
    for tree in (names["d_params"], names["grads"]):
        for leaf in jax.tree.leaves(tree):
            assert jnp.isfinite(leaf).all()
            assert jnp.abs(leaf).max() > 0


def test_quick_start_is_two_lines():
    (block,) = blocks(section("Quick start"), "sh")
    assert len(block.splitlines()) == 2


def test_some_paths_are_named():
    assert {"examples/maml_sinusoid.py", "tests/reference"} <= set(named_paths())


@pytest.mark.parametrize("path", named_paths())
def test_named_paths_exist(path):
    assert (ROOT / path).exists() or (ROOT / "jmeta" / path).exists()


def test_modules_of_the_structure_exist():
    bullets = re.findall(r"^- (.*?):", section("How it is structured"), re.M | re.S)
    modules = re.findall(r"`([^`]+)`", " ".join(bullets))
    assert len(modules) > 10
    for module in modules:
        path = ROOT / "jmeta" / module
        found = path.is_dir() or path.with_suffix(".py").is_file()
        assert found or (ROOT / module).is_dir(), module


def test_links_within_the_page_have_headings():
    headings = re.findall(r"^#+ (.*)$", PROSE, re.M)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PROSE)) <= anchors
