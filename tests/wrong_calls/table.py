"""The form of a row."""

from collections.abc import Callable
from typing import Any, NamedTuple


class WrongCall(NamedTuple):
    """A call that must be refused.

    Attributes:
        id: The function and what is wrong, such as `inner_loop-steps-float`.
        call: Makes the call.
        error: The exception's type, exactly.
        argument: The argument that the message names in backticks.
        got: What the message says that it got.
        use: Words of what the message says to do.
    """

    id: str
    call: Callable[[], Any]
    error: type[Exception]
    argument: str
    got: str
    use: str
