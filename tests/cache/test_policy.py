"""From YAML to a policy, and what is said about bad YAML."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from wcsim.cache import CacheConfig, DiCache, NoCache, WorldCache, parse_cache, preset, presets
from wcsim.cache.curve import Curve
from wcsim.cache.easycache import EasyCache
from wcsim.cache.firstblock import FirstBlock
from wcsim.cache.interval import Interval
from wcsim.cache.magcache import MagCache
from wcsim.cache.policy import KINDS
from wcsim.cache.seacache import SeaCache
from wcsim.cache.taylorseer import TaylorSeer
from wcsim.cache.teacache import TeaCache
from wcsim.errors import ConfigError


def test_presets_build_their_policies():
    built = {name: type(preset(name).build()) for name in presets()}
    assert built == {
        "none": NoCache,
        "paper": WorldCache,
        "authors_cosmos": WorldCache,
        "authors_wan": WorldCache,
        "worldcache": WorldCache,
        "dicache": DiCache,
        "firstblock": FirstBlock,
        "teacache": TeaCache,
        "seacache": SeaCache,
        "magcache": MagCache,
        "easycache": EasyCache,
        "taylorseer": TaylorSeer,
        "interval": Interval,
        "wcsim": Curve,
    }


def test_defaults_are_the_recommended_presets():
    assert preset("wcsim") == Curve.Config()
    for kind in ("worldcache", "dicache", "firstblock", "seacache", "easycache", "taylorseer", "interval"):
        assert preset(kind) == KINDS[kind]()


def test_every_kind_has_a_preset():
    assert {preset(name).kind for name in presets()} == set(KINDS)


def test_a_preset_with_changes():
    changed = parse_cache({"preset": "worldcache", "threshold": 0.1})
    assert changed == preset("worldcache").model_copy(update={"threshold": 0.1})


def test_a_mapping_of_its_own():
    assert parse_cache({"kind": "dicache", "probe": 3}) == DiCache.Config(probe=3)


def test_every_configuration_survives_its_own_dump():
    for name in presets():
        assert parse_cache(preset(name).model_dump()) == preset(name)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("wordcache", r"preset 'wordcache' is unknown; known: authors_cosmos, authors_wan, dicache, "),
        ({"preset": "fast"}, r"preset 'fast' is unknown; known: "),
        ({"kind": "wordcache"}, r"cache.kind 'wordcache' is unknown; known: none, worldcache, dicache"),
        ({"threshold": 0.1}, r"cache.kind None is unknown"),
        ({"preset": "worldcache", "treshold": 0.1}, r"cache.treshold is unknown; known: kind, .*, threshold, "),
        ({"preset": "none", "threshold": 0.1}, r"cache.threshold is unknown; known: kind"),
        ({"preset": "worldcache", "threshold": -1}, r"cache.threshold: .* greater than or equal to 0, given -1"),
        ({"preset": "worldcache", "threshold": "0.1"}, r"cache.threshold: .* valid number, given '0.1'"),
        ({"preset": "worldcache", "threshold": float("nan")}, r"cache.threshold: .* finite number"),
        ({"preset": "worldcache", "probe": True}, r"cache.probe: .* valid integer, given True"),
        ({"preset": "worldcache", "gain_min": 3.0}, r"gain_min 3.0 is above gain_max 2.0"),
        ({"preset": "worldcache", "beta_d": -1.0}, r"beta_d -1.0 is negative"),
        ({"preset": "worldcache", "rate": 0.5, "error": 0.1}, r"set one of them"),
        ({"kind": "taylorseer", "order": 3}, r"order 3 needs min_warmup 4 or more, given 3"),
        ({"kind": "seacache", "order": 1}, r"order 1 needs min_warmup 2 or more, given 1"),
        ({"kind": "interval", "order": 2}, r"cache.order: .* less than or equal to 1, given 2"),
        ({"kind": "magcache"}, r"cache.ratios: Field required"),
        (None, r"preset None is unknown"),
    ],
)
def test_bad_values_are_named(value, message):
    with pytest.raises(ConfigError, match=message):
        parse_cache(value)


def test_configurations_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        preset("wcsim").threshold = 1.0


def test_embedded_in_another_configuration():
    class Run(BaseModel):
        cache: CacheConfig

    assert Run(cache="wcsim").cache == preset("wcsim")
    assert Run.model_validate({"cache": {"preset": "dicache", "probe": 2}}).cache == DiCache.Config(probe=2)
    with pytest.raises(ValidationError, match=r"cache\n.*preset 'x' is unknown"):
        Run(cache="x")


def test_policies_are_values():
    assert preset("wcsim").build() == preset("wcsim").build()
    assert len({preset(name).build() for name in presets()}) == len(presets())
