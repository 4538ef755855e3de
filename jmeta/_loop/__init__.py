"""The training loop itself: its objective, its step and the checks of its arguments."""
