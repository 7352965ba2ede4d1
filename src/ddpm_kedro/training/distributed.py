"""Several processes that train together: launched from here, ended with here."""

from __future__ import annotations


def launch(*args):
    raise NotImplementedError
