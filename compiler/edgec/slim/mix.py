"""A mix of ways to make a model smaller, and the model that it makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgec.compress.prune.blocks import blocks
from edgec.compress.prune.depth import remove_blocks
from edgec.compress.prune.importance import Importance
from edgec.compress.prune.token_choice import Vocabulary, most_useful_ids, smallest_vocabulary
from edgec.compress.prune.tokenizer import prune_tokenizer
from edgec.compress.prune.vocabulary import prune_vocabulary, vocabulary_size
from edgec.compress.prune.width import (
    Scores,
    attentions,
    feature_scores,
    fewer_heads,
    kept_features,
    kept_groups,
    mlps,
    narrow_mlps,
)
from edgec.ir.model import ModelIR, TokenizerAssets


@dataclass(frozen=True, order=True)
class Mix:
    """What stays: tokens (0: all), blocks, the share of the features of MLPs, groups of attention heads (0: all)."""

    vocabulary: int = 0
    removed_blocks: int = 0
    mlp_share: float = 1.0
    head_groups: int = 0


@dataclass(frozen=True)
class Slimmed:
    """`kept` has the original id of each token, None when all are there.

    After a search, `losses` are those of the whole model's matrices, by which bits are allocated, and `judge` tells
    what any model with these tokens loses, on texts that nothing was chosen by.
    """

    model: ModelIR
    kept: tuple[int, ...] | None = None
    losses: Mapping[str, float] | None = None
    judge: Callable[[ModelIR], float] | None = None


@dataclass
class Slimmer:
    """Makes mixes of one model, by what is important in it."""

    model: ModelIR
    importance: Importance
    texts: Sequence[str] = ()  # where the model reads text: by their tokens the vocabulary is chosen
    _scores: tuple[list[Scores], list[Scores]] | None = None
    _kept: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _tokenizers: dict[tuple[int, ...], TokenizerAssets] = field(default_factory=dict)
    _structures: dict[tuple[float, int, tuple[int, ...]], ModelIR] = field(default_factory=dict)

    def removed(self, count: int) -> list[int]:
        """The numbers of the `count` blocks of least influence; the first and the last one always stay."""
        influence = self.importance.influence
        order = sorted(range(1, len(influence) - 1), key=lambda number: (influence[number], number))
        return sorted(order[:count])

    def kept(self, count: int) -> tuple[int, ...]:
        """The `count` most useful ids."""
        if count not in self._kept:
            assert self.model.tokenizer is not None
            self._kept[count] = tuple(most_useful_ids(self.model.tokenizer, count, "\n".join(self.texts)))
        return self._kept[count]

    def apply(self, mix: Mix, kept: Sequence[int] | None = None, removed: Sequence[int] | None = None) -> Slimmed:
        """The model of this mix; `kept` replaces its choice of tokens, `removed` that of blocks."""
        model = self.structure(mix, removed)
        if kept is None and mix.vocabulary:
            kept = self.kept(mix.vocabulary)
        if kept is None:
            return Slimmed(model)
        chosen = tuple(kept)
        if chosen not in self._tokenizers:
            assert model.tokenizer is not None
            self._tokenizers[chosen] = prune_tokenizer(model.tokenizer, chosen)
        return Slimmed(prune_vocabulary(model, chosen, self._tokenizers[chosen]), chosen)

    def structure(self, mix: Mix, removed: Sequence[int] | None = None) -> ModelIR:
        """The model of this mix with all of its tokens; searches come back to the same ones."""
        gone = tuple(self.removed(mix.removed_blocks) if removed is None else removed)
        key = (mix.mlp_share, mix.head_groups, gone)
        if key not in self._structures:
            model = self.model
            if mix.mlp_share < 1 or mix.head_groups:
                features, groups = self.scores()
                if mix.mlp_share < 1:
                    model = narrow_mlps(model, features, mix.mlp_share)
                if mix.head_groups:
                    model = fewer_heads(model, groups, mix.head_groups)
            self._structures[key] = remove_blocks(model, gone) if gone else model
        return self._structures[key]

    def scores(self) -> tuple[list[Scores], list[Scores]]:
        """Of features and of groups of heads, see `edgec.compress.prune.width`."""
        if self._scores is None:
            self._scores = feature_scores(self.model, self.importance.powers)
        return self._scores

    def powers(self, mix: Mix) -> dict[str, Scores]:
        """Mean squares of what the matrices of this mix are multiplied with."""
        found = dict(self.importance.powers)
        features, groups = self.scores() if mix.mlp_share < 1 or mix.head_groups else ([], [])
        if mix.mlp_share < 1:
            for mlp, score in zip(mlps(self.model), features, strict=True):
                name = str(mlp.down.name)
                found[name] = found[name][kept_features(score, mix.mlp_share)]
        if mix.head_groups:
            for heads, score in zip(attentions(self.model), groups, strict=True):
                name = str(heads.output.name)
                kept = kept_groups(score, mix.head_groups)
                found[name] = found[name].reshape(heads.kv_heads, -1)[kept].reshape(-1)
        return found


@dataclass(frozen=True)
class Levels:
    """The choices of each part of a mix, the whole model first."""

    vocabulary: tuple[int, ...]
    removed_blocks: tuple[int, ...]
    mlp_share: tuple[float, ...]
    head_groups: tuple[int, ...]

    def mix(self, at: tuple[int, ...]) -> Mix:
        """The mix of these indices, in the order of the fields."""
        return Mix(self.vocabulary[at[0]], self.removed_blocks[at[1]], self.mlp_share[at[2]], self.head_groups[at[3]])

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, field.name)) for field in dataclasses.fields(self))


_SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # of blocks that may go
_VOCABULARIES = (1 / 2, 1 / 4, 1 / 8)
_MLP_SHARES = (1.0, 0.75, 0.5, 0.375)


def levels(slimmer: Slimmer, *, keep_vocabulary: bool = False) -> Levels:
    """What can be taken away of this model; `keep_vocabulary` where its tokens are chosen already."""
    model = slimmer.model
    tokens: list[int] = [0]
    size = None if keep_vocabulary else vocabulary_size(model)
    if size is not None and model.tokenizer is not None:
        needed = smallest_vocabulary(model.tokenizer)
        known = min(size, len(Vocabulary(model.tokenizer).texts))
        tokens += [count for count in (int(size * share) for share in _VOCABULARIES) if needed < count < known]
    count = len(blocks(model))
    removable = sorted({round(share * count) for share in _SHARES} | {0})
    found = attentions(model)
    heads = {attention.kv_heads for attention in found}
    every = sum(node.op_type == "Attention" for node in model.model.graph) == len(found)
    groups = next(iter(heads)) if len(heads) == 1 and every else 1
    narrow = bool(mlps(model)) and (model.decoder is None or len(mlps(model)) == model.decoder.layers)
    some = sorted({round(groups * share) for share in (0.75, 0.5)} - {0, groups}, reverse=True)
    return Levels(
        tuple(tokens),
        tuple(removable) if count > 3 else (0,),
        _MLP_SHARES if narrow else (1.0,),
        (0, *some),
    )


__all__ = ["Levels", "Mix", "Slimmed", "Slimmer", "levels"]
