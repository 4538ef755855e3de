"""Wrong calls of every public function, by area, all made by `test_wrong_calls.py`."""
