"""YAML to typed configuration: strict, immutable, and clear about what it does not know.

Each component keeps its own model beside it; this file holds what all of them share.  Easy to get wrong: files and
overrides are read by `wcsim.strict_yaml`, whose YAML is 1.2 and bounded, never by PyYAML itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Tag, ValidationError, model_validator

from wcsim.errors import ConfigError
from wcsim.strict_yaml import MAX_BYTES, parse_yaml


class StrictConfig(BaseModel):
    """A component's settings: no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}
    """Former names of settings, each with the present one; a former name is refused with the present one."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_former(cls, given: Any) -> Any:
        for old, new in cls.renamed.items():
            if isinstance(given, Mapping) and old in given:
                raise ConfigError(f"{old!r} is now called {new}")
        return given

    def files(self) -> dict[str, Path]:
        """Files and folders that this component itself reads, by setting; a run is bound to their content."""
        return {}


def _run_name(given: str) -> str:
    """`given` itself; ValueError unless it can name a folder, and nothing outside of where that folder lies."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9 _.-]{0,99}", given) or given.endswith((" ", ".")):
        raise ValueError("a run's name is at most 100 letters, digits, spaces, _, - and ., with a letter, a digit or _ "
                         "first, and no space or . last")
    return given


RunName = Annotated[str, AfterValidator(_run_name)]
"""The field type for the name of a run, which becomes a folder below `runs/`."""

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(name: str) -> dict[str, Any]:
    """The mapping in a YAML file, given as a path or as the name of a packaged configuration."""
    path = Path(name)
    packaged = files("wcsim.configs").joinpath(path.name if path.suffix else f"{name}.yaml")
    if path.is_file():
        content = read_bytes(path)
    elif packaged.is_file():
        content = packaged.read_bytes()
    else:
        known = sorted(file.name.removesuffix(".yaml") for file in files("wcsim.configs").iterdir()
                       if file.name.endswith(".yaml"))
        near = "".join(f"did you mean {match}? " for match in get_close_matches(name, known, n=1))
        raise ConfigError(f"config {name!r} is neither a file nor packaged; {near}packaged: {', '.join(known)}")
    loaded = parse_yaml(content, what=f"config {name!r}")
    if not isinstance(loaded, dict):
        raise ConfigError(f"config {name!r} holds {type(loaded).__name__}, not a mapping")
    return loaded


def read_bytes(path: Path) -> bytes:
    """A file's content, no more than one byte above what `parse_yaml` takes; ConfigError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def override(settings: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy with `a.b.c=value` assignments applied; values are YAML, missing mappings on the way are made."""
    result: dict[str, Any] = {key: value for key, value in settings.items()}
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"override {assignment!r} is not of the form key.subkey=value")
        *parents, last = path.split(".")
        node = result
        for number, part in enumerate(parents):
            child = node.get(part, {})
            if isinstance(child, str) and part == "cache":  # a preset's name, about to be refined
                child = {"preset": child}
            if not isinstance(child, Mapping):
                raise ConfigError(f"override {assignment!r}: {'.'.join(parents[: number + 1])} is not a mapping")
            node[part] = dict(child)
            node = node[part]
        node[last] = parse_yaml(value, what=f"override {assignment!r}")
    return result


def validate(model: type[Model], settings: Mapping[str, Any]) -> Model:
    """The typed configuration, or a ConfigError with a line per fault: its path, what was given, what is known."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, model) for item in error.errors())) from None


def _explain(item: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        owner = _model_at(model, item["loc"][:-1])
        if owner is None:
            return f"{path} is unknown"
        close = get_close_matches(str(item["loc"][-1]), owner.model_fields, n=1)
        near = "".join(f"; did you mean {match}?" for match in close)
        return f"{path} is unknown; known: {', '.join(owner.model_fields)}{near}"
    if item["type"] == "missing":
        return f"{path} is required"
    message = item["msg"].removeprefix("Value error, ")
    # A nested parser has named its own path and values already.
    return message if isinstance(item.get("ctx", {}).get("error"), ConfigError) else (
        f"{path}: {_short(message)}, given {_short(repr(item['input']))}" if path else _short(message))


def _short(text: str, most: int = 500) -> str:
    """A text that may hold a whole document, for one line."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} letters)"


def _model_at(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model that a fault's location lies in, where it can be followed: fields, items, and tags of unions."""
    options: list[tuple[object, Any]] = [(None, model)]
    for part in loc:
        tagged: list[tuple[object, Any]] = [
            (None, kind) for tag, kind in options if len(options) > 1 and part == (tag or _kind_of(kind))]
        options = tagged or [option for _, kind in options for option in _inside(kind, part)]
    models = [kind for _, kind in options if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if len(models) == 1 else None


def _inside(kind: Any, part: object) -> list[tuple[object, Any]]:
    """The types of a model's field, or of the items of a container."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(part))
        return [] if field is None else list(_options(field.annotation))
    return list(_options(get_args(kind)[-1 if get_origin(kind) is dict else 0])) if get_args(kind) else []


def _options(annotation: Any, tag: object = None) -> Iterator[tuple[object, Any]]:
    """Every alternative of an annotation, with its tag where a union has some."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        yield from _options(inner, next((mark.tag for mark in marks if isinstance(mark, Tag)), tag))
    elif get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _options(one)
    else:
        yield tag, annotation


def _kind_of(kind: Any) -> object:
    """What a model's `kind` says, by which unions are told apart; None for other types."""
    field = kind.model_fields.get("kind") if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return None if field is None else field.default
