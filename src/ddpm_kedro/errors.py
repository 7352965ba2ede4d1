"""The one exception that stands for a user's mistake."""

from __future__ import annotations


class InputError(ValueError):
    """Wrong input from the user: a parameter, a path, a file or a combination of them.

    The message is one line that says what is wrong, where it stands and what would be right. A
    command prints it without a traceback and exits with 1; in Python it is an ordinary ValueError.
    """
