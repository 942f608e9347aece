"""Readers of files that anybody may have written: whatever does not fit their format is one DataError.

Easy to get wrong: a dataset has hundreds of fields in JSON and Parquet, and any of them may be of another kind than the
reader expects, however much it checks.  The error keeps its cause.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from types import FunctionType
from typing import Any, TypeVar

from wcsim.errors import DataError, WcsimError

Reader = TypeVar("Reader", bound=type)

MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What Python says where a value is of another kind, or misses a part."""


def guarded(reader: Reader) -> Reader:
    """A class of recordings (with a `path`) whose methods and properties say in one DataError what does not fit."""
    for name, member in list(vars(reader).items()):
        if isinstance(member, FunctionType):
            setattr(reader, name, _guard(member))
        elif isinstance(member, property) and member.fget is not None:
            setattr(reader, name, property(_guard(member.fget), doc=member.__doc__))
        elif isinstance(member, cached_property):
            again = cached_property(_guard(member.func))
            again.__set_name__(reader, name)
            setattr(reader, name, again)
    return reader


def _guard(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return function(self, *args, **options)
        except WcsimError:
            raise
        except MISFITS as error:
            told = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            raise DataError(f"{self.path} does not fit its format ({told}); it is damaged") from error

    return call
