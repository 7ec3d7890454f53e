"""The command ``inframind``."""

from .main import main

__all__ = ["main"]
