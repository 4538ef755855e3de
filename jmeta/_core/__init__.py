"""Types, trees, numerics, settings and checks that every other part uses."""
