"""The blocks of a world as modules, for caches that hook modules: the world's weights, arithmetic and cost.

diffusers finds its places by class (registered blocks, attention) and by name (`transformer_blocks`, `attn1`), so both
are kept here.  Easy to get wrong: `Block` must hold nothing of a world, because a model outlives the denoise step.

Shape suffixes: N lanes, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor, nn

from wcsim.backbones.backbone import Conditioning
from wcsim.backbones.cosmos2.attention import cross_attention, self_attention
from wcsim.backbones.cosmos2.conditioning import Conditioning as CosmosConditioning
from wcsim.backbones.cosmos2.conditioning import add_gated, modulate
from wcsim.errors import ConfigError
from wcsim.world.stack import TransformerStack


@dataclass(slots=True)
class Site:
    """Where the modules of a model find the present denoise step.  ran: how many of them it has called.  turn: which
    denoise loop of the model's it belongs to."""

    stack: Any = None
    ran: int = 0
    turn: int = 0


class Block(nn.Module):
    """A block of the world as a module."""

    def __init__(self, index: int, site: Site) -> None:
        super().__init__()
        self.index, self.site = index, site

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[N, L, D]`."""
        self.site.ran += 1
        out: Tensor = self.site.stack.run(hidden_states, self.index, self.index + 1)
        return out


class OpenBlock(nn.Module):
    """The same for caches that reach inside a block: its attentions and its feed-forward net are modules too."""

    def __init__(self, index: int, site: Site) -> None:
        super().__init__()
        self.index, self.site = index, site
        self.attn1 = Attention(site, lambda x, block, given: self_attention(block.attn1, x, given.position.rope))
        self.attn2 = Attention(site, lambda x, block, given: cross_attention(block.attn2, x, given.text, index))
        self.attn2.is_cross_attention = True
        self.ff = Part(site, lambda x, block, given: block.ff(x))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[N, L, D]`."""
        if not isinstance(self.site.stack, TransformerStack):
            raise ConfigError("a cache that reaches inside the blocks needs a world's transformer")
        out: Tensor = self.site.stack.act(hidden_states, self.index, self._act)
        return out

    def _act(self, block: Any, tokens_NLD: Tensor, given: Conditioning) -> Tensor:
        if not isinstance(given, CosmosConditioning):
            raise ConfigError(f"a cache that reaches inside the blocks needs a Cosmos transformer, given one that "
                              f"conditions by {type(given).__name__}")
        frames = given.grid[0]
        x = given.position.add_to(tokens_NLD.unflatten(1, (frames, -1)))
        sublayers = ((block.norm1, self.attn1), (block.norm2, self.attn2), (block.norm3, self.ff))
        for number, (norm, part) in enumerate(sublayers):
            normed, gate = modulate(norm, x, given, 3 * self.index + number)
            x = add_gated(x, gate, part(normed.flatten(1, 2), block, given))
        out: Tensor = x.flatten(1, 2)
        return out


class Part(nn.Module):
    """What a sub-layer of a block adds, before its gate."""

    def __init__(self, site: Site, act: Callable[[Tensor, Any, CosmosConditioning], Tensor]) -> None:
        super().__init__()
        self.site, self.act = site, act

    def forward(self, hidden_states: Tensor, block: Any, given: CosmosConditioning) -> Tensor:
        """`[N, L, D]`; `[N, 1, D]` where one text token answers for all places."""
        self.site.ran += 1
        return self.act(hidden_states, block, given)


class Attention(Part, AttentionModuleMixin):  # type: ignore[misc]  # diffusers is untyped
    """Known to diffusers as attention."""

    is_cross_attention = False


class Model(nn.Module, CacheMixin):  # type: ignore[misc]  # diffusers is untyped
    """The blocks in a row, as a hook finds them.  opened: whether down to the sub-layers."""

    def __init__(self, depth: int, *, opened: bool) -> None:
        super().__init__()
        self.site = Site()
        self.units = 3 * depth if opened else depth
        kind = OpenBlock if opened else Block
        self.transformer_blocks = nn.ModuleList([kind(index, self.site) for index in range(depth)])
        self.proj_out = nn.Identity()  # TaylorSeer's lite form forecasts a module of this name

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embedded tokens `[N, L, D]` to output tokens."""
        for block in self.transformer_blocks:
            hidden_states = block(hidden_states)
        out: Tensor = self.proj_out(hidden_states)
        return out

    def install(self, config: Any) -> None:
        """Hook a cache of diffusers' onto the modules."""
        CacheMixin.enable_cache(self, config)

    def forget(self) -> None:
        """Reset what a cache of diffusers' remembers."""
        CacheMixin._reset_stateful_cache(self)

    def step(self, stack: Any, tokens: Tensor) -> Tensor:
        """One denoise step on the blocks of `stack`."""
        self.site.stack, self.site.ran = stack, 0
        with CacheMixin.cache_context(self, "conditional") if self._cache_config else nullcontext():
            out: Tensor = self(tokens)
        return out

    def timestep(self) -> float:
        """Noise level in thousandths, as diffusers counts."""
        return 1000.0 * float(self.site.stack.sigma)


def cached_tensors(model: Model) -> Iterator[Tensor]:
    """What a cache has left on a model's modules."""
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        for hook in registry.hooks.values() if registry else ():
            states = [hook.state] if hasattr(hook, "state") else hook.state_manager._state_cache.values()
            for state in states:
                yield from _tensors(vars(state))
    manager = getattr(model, "_context_manager", None)
    for context in manager._cached_context_manager.values() if manager else ():
        yield from _tensors(context.buffers)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
