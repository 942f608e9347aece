"""When to skip transformer blocks, and what to use instead: one file per policy."""

from wcsim.cache.dicache import DiCache
from wcsim.cache.none import NoCache
from wcsim.cache.policy import CacheConfig, parse_cache, preset, presets
from wcsim.cache.worldcache import WorldCache

__all__ = ["CacheConfig", "DiCache", "NoCache", "WorldCache", "parse_cache", "preset", "presets"]
