"""Facial mask embeddings: K learned queries look at the whole face through a small transformer decoder.

MaskFormer's "transformer predictor" without its class and mask heads (supplement 5.1; spec fra.md, section 3).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fra.recipe import Count, Settings, Share


@dataclass(frozen=True)
class DecoderConfig(Settings):
    """The transformer decoder that turns K queries into facial mask embeddings."""

    layers: Count = 1
    """Decoder layers (supplement 5.1: one; the released code has two)."""
    width: Count = 256
    """Hidden width of the feed-forward network (released code; MaskFormer's own is 2048)."""
    heads: Count = 8
    """Attention heads (MaskFormer)."""
    dropout: Share = 0.1
    """Dropout in attention and feed-forward network (MaskFormer)."""
    content: Literal["zeros", "queries"] = "zeros"
    """Initial content of the decoder: with zeros (released code) all K outputs are nearly equal; with the queries
    themselves regions differ from the first step (ours, docs/explain/how_fra_works.md)."""
    mask_mlp: Literal["default", "orthogonal"] = "default"
    """Initial weights of the mask MLP: PyTorch's default (released code), or orthogonal with gain 1.4 and no biases
    (ours)."""


def sine_encoding(
    height: int, width: int, channels: int, *, device: torch.device | str = "cpu"
) -> Float[Tensor, "P D"]:
    """DETR's normalised 2-D sine encoding, one row per position; the first half of the channels encodes y."""
    half = channels // 2
    each = torch.arange(half, device=device)
    divisor = 10000 ** (2 * (each // 2).double() / half)

    def axis(length: int) -> Tensor:
        angle = torch.arange(1, length + 1, device=device).double() / (length + 1e-6) * 2 * math.pi
        phases = angle[:, None] / divisor
        return torch.where(each % 2 == 0, phases.sin(), phases.cos())

    rows, columns = axis(height), axis(width)
    grid = torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)
    return grid.flatten(0, 1).float()


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and a feed-forward network, each followed by a layer norm (DETR)."""

    def __init__(self, channels: int, *, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.first = nn.Linear(channels, width)
        self.last = nn.Linear(width, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Float[Tensor, "B K D"],
        queries: Float[Tensor, "B K D"],
        memory: Float[Tensor, "B P D"],
        keys: Float[Tensor, "B P D"],
    ) -> Float[Tensor, "B K D"]:
        asked = content + queries
        found, _ = self.self_attention(asked, asked, content, need_weights=False)
        content = self.norms[0](content + self.dropout(found))
        found, _ = self.cross_attention(content + queries, keys, memory, need_weights=False)
        content = self.norms[1](content + self.dropout(found))
        found = self.last(self.dropout(F.relu(self.first(content))))
        return self.norms[2](content + self.dropout(found))


class MaskDecoder(nn.Module):
    """Encoder maps (B, C, h, w) to one embedding per region and image (B, K, D)."""

    def __init__(self, channels: int, config: DecoderConfig, *, regions: int = 8, dim: int = 256) -> None:
        super().__init__()
        self.content = config.content
        self.input = nn.Conv2d(channels, dim, 1)
        self.queries = nn.Embedding(regions, dim)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, heads=config.heads, width=config.width, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.mask_mlp = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))
        self._initialise(config.mask_mlp)

    def _initialise(self, mask_mlp: str) -> None:
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.kaiming_uniform_(self.input.weight, a=1)
        nn.init.zeros_(self.input.bias)  # type: ignore[arg-type]
        if mask_mlp == "orthogonal":
            for linear in self.mask_mlp:
                nn.init.orthogonal_(linear.weight, gain=1.4)  # type: ignore[arg-type]
                nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K D"]:
        memory = self.input(maps).flatten(2).transpose(1, 2)
        # Made where it is needed: to send it there, a GPU would be waited for. Apple's has no double precision.
        device = "cpu" if memory.device.type == "mps" else memory.device
        places = sine_encoding(maps.shape[2], maps.shape[3], memory.shape[2], device=device).to(memory)
        queries = self.queries.weight.expand(len(maps), -1, -1)
        content = queries if self.content == "queries" else torch.zeros_like(queries)
        for layer in self.layers:
            content = layer(content, queries, memory, memory + places)
        content = self.norm(content)
        for linear in self.mask_mlp[:-1]:
            content = F.relu(linear(content))
        return self.mask_mlp[-1](content)
