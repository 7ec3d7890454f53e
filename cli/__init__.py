"""The command ``inframind``."""
