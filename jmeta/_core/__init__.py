"""What every other part stands on: types, trees, numbers, settings and checks."""
