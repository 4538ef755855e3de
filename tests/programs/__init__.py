"""Random programs: drawn by a seed, written as Python, run beside a Python loop."""
