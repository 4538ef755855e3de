"""A model as a pure apply function and the pytree of its parameters."""

from jmeta.models.functional._make_functional import make_functional as make_functional
