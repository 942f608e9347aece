"""Policies by name: YAML to a typed configuration, whose `build()` makes the policy.  A new one is a line in `CONFIGS`.

Easy to get wrong: a mapping without `preset` starts from the defaults of its `kind`, not from the preset of that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from wcsim.cache.curve import Curve
from wcsim.cache.dicache import DiCache
from wcsim.cache.easycache import EasyCache
from wcsim.cache.firstblock import FirstBlock
from wcsim.cache.gate import PolicyConfig
from wcsim.cache.interval import Interval
from wcsim.cache.magcache import MagCache
from wcsim.cache.none import NoCache
from wcsim.cache.seacache import SeaCache
from wcsim.cache.taylorseer import TaylorSeer
from wcsim.cache.teacache import TeaCache
from wcsim.cache.worldcache import WorldCache
from wcsim.errors import ConfigError
from wcsim.strict_yaml import parse_yaml

CONFIGS: tuple[type[PolicyConfig], ...] = (
    NoCache.Config,
    WorldCache.Config,
    DiCache.Config,
    FirstBlock.Config,
    TeaCache.Config,
    SeaCache.Config,
    MagCache.Config,
    EasyCache.Config,
    TaylorSeer.Config,
    Interval.Config,
    Curve.Config,
)

KINDS: dict[str, type[PolicyConfig]] = {config.model_fields["kind"].default: config for config in CONFIGS}


def presets() -> list[str]:
    """Names that `preset` knows: the packaged files `cache_<name>.yaml`."""
    names = (file.name for file in files("wcsim.configs").iterdir())
    return sorted(name[len("cache_") : -len(".yaml")] for name in names if name.startswith("cache_"))


def preset(name: str) -> PolicyConfig:
    """The configuration of this name; ConfigError names the known ones."""
    return parse_cache(name)


def parse_cache(value: str | Mapping[str, Any] | PolicyConfig) -> PolicyConfig:
    """A preset's name, or a mapping: either `kind` and its settings, or `preset` and what differs from it.

    Raises ConfigError naming the setting, what was given and what is known.
    """
    if isinstance(value, PolicyConfig):
        return value
    settings = _settings(value)
    kind = settings.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"cache.kind {kind!r} is unknown; known: {', '.join(KINDS)}; or give a cache.preset")
    config_class = KINDS[kind]
    try:
        return config_class.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_explain(error, config_class)) from None


def _settings(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """The mapping that a value stands for, its preset resolved."""
    if isinstance(value, Mapping):
        settings = dict(value)
        return {**_settings(settings.pop("preset")), **settings} if "preset" in settings else settings
    if value not in presets():
        raise ConfigError(f"cache preset {value!r} is unknown; known: {', '.join(presets())}")
    loaded: dict[str, Any] = parse_yaml(files("wcsim.configs").joinpath(f"cache_{value}.yaml").read_bytes(),
                                        what=f"cache preset {value!r}")
    return loaded


def _explain(error: ValidationError, config_class: type[PolicyConfig]) -> str:
    """One line per bad setting."""
    lines = []
    for item in error.errors():
        path = ".".join(["cache", *map(str, item["loc"])])
        if item["type"] == "extra_forbidden":
            lines.append(f"{path} is unknown; known: {', '.join(config_class.model_fields)}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {message}" + (f", given {item['input']!r}" if item["loc"] else ""))
    return "\n".join(lines)


CacheConfig = Annotated[SerializeAsAny[PolicyConfig], BeforeValidator(parse_cache)]
"""The field type for a configuration that holds a cache policy: accepts all that `parse_cache` does."""
