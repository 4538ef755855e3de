"""The inner loop: its objective, its step and the checks of its arguments."""
