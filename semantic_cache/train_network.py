"""The cross-encoder's network in torch, for training; `semantic_cache.cross_encoder` serves what is exported of it."""

from __future__ import annotations

import torch
from torch import nn

from backends.embedder import DIMENSIONS

WIDTH = 128
HEADS = 4
LAYERS = 2
DROPOUT = 0.1


class Layer(nn.Module):  # type: ignore[misc]  # torch is absent where mypy runs
    """One transformer layer, normalised before each half (Xiong et al., arXiv:2002.04745)."""

    def __init__(self) -> None:
        super().__init__()
        self.before_mixing, self.before_thinking = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.asked, self.mixed = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.think = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, words: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return float32[b, n, WIDTH]; `mask` is bool[b, n], True where there is a word, or None."""
        query, key, value = (
            part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for part in self.asked(self.before_mixing(words)).chunk(3, dim=-1)
        )
        alike = query @ key.transpose(2, 3) * (WIDTH // HEADS) ** -0.5
        if mask is not None:
            alike = alike.masked_fill(~mask[:, None, None, :], -1e4)
        seen = self.drop(alike.softmax(dim=-1)) @ value
        words = words + self.drop(self.mixed(seen.transpose(1, 2).flatten(2)))
        return words + self.drop(self.think(self.before_thinking(words)))


class Network(nn.Module):  # type: ignore[misc]  # as above
    """Reads the word states of two texts; takes padded batches, or one pair without masks."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.matched = nn.Linear(DIMENSIONS, WIDTH), nn.Linear(2, WIDTH)
        self.side = nn.Parameter(torch.randn(2, WIDTH) * 0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.judge = nn.Sequential(nn.Linear(3 * WIDTH, 64), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(64, 1))

    def forward(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        first_mask: torch.Tensor | None = None,
        second_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return float32[b], the log-odds that one answer serves both.

        Args:
            first: float32[b, n, 384], word states of one text.
            second: float32[b, m, 384], of the other.
            first_mask: bool[b, n], True where there is a word; None where every place has one.
            second_mask: bool[b, m], likewise.
        """
        alike = first @ second.transpose(1, 2)
        mask = None
        if first_mask is not None and second_mask is not None:
            alike = alike.masked_fill(~(first_mask[:, :, None] & second_mask[:, None, :]), -1.0)
            mask = torch.cat([first_mask, second_mask], dim=1)
        sides = [
            3 * self.narrow(words) + self.side[at] + self.matched(torch.stack([2 * best, 1 - best], dim=-1))
            for at, (words, best) in enumerate(((first, alike.amax(dim=2)), (second, alike.amax(dim=1))))
        ]
        words = torch.cat(sides, dim=1)
        for layer in self.layers:
            words = layer(words, mask)
        length = first.shape[1]
        one, other = _mean(words[:, :length], first_mask), _mean(words[:, length:], second_mask)
        most = (words if mask is None else words.masked_fill(~mask[..., None], -9.0)).amax(dim=1)
        said: torch.Tensor = self.judge(torch.cat([one + other, (one - other).abs(), most], dim=-1))[:, 0]
        return said


def _mean(words: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return words.mean(dim=1)
    counted = mask[..., None].to(words.dtype)
    return (words * counted).sum(dim=1) / counted.sum(dim=1)
