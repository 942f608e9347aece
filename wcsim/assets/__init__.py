"""Worlds that ship with the package, one folder each."""


DEFAULT_WORLD = "pusht-96"
"""The shipped world that commands take where none is named."""
