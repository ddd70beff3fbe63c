"""The evaluation of a pre-training run: k-NN while it trains; k-NN, linear probe and baselines after it.

Ranks share the work: each embeds its part of both sets; queries go to everybody, of the bank only each
rank's nearest neighbours travel. The figures do not depend on the number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..methods import Method, build_method
from ..methods.normalise import normalise
from ..spec.errors import DataError
from ..spec.job import PretrainSpec
from ..storage import Store
from .features import Embed, FeatureChunk, Ranks, chunks, raw_pixels
from .knn import Neighbours, StreamingKnn, knn_top1
from .known_rows import known_row, leave_row, row_name
from .labelled import LabelledSet
from .linear_probe import linear_probe

TRAINED, RANDOM, PIXELS = "trained encoder", "random encoder", "raw pixels"


@dataclass(frozen=True)
class Evaluation:
    """What to measure on, and how."""

    job: PretrainSpec
    bank: LabelledSet
    queries: LabelledSet
    shared: Store | None = None
    """Where the trials of a search leave the rows of baselines, which they have in common."""

    def during_training(self, method: Method, ranks: Ranks) -> dict[str, Any] | None:
        """k-NN top-1 of the online encoder; figures on rank 0, None elsewhere."""
        rows = self._measure({TRAINED: _embedding(method)}, ranks, linear=False)
        return {"knn": rows[0]["knn_top1_percent"]} if rows else None

    def after_training(self, method: Method, ranks: Ranks) -> list[dict[str, Any]] | None:
        """k-NN and linear probe of the trained encoder and of the baselines; rows on rank 0."""
        embeds: dict[str, Embed] = {TRAINED: _embedding(method)}
        names = (
            {PIXELS: self._name(PIXELS), RANDOM: self._name(RANDOM)} if self.job.evaluate.baselines else {}
        )
        known = self._known(names, ranks)
        if RANDOM in names and RANDOM not in known:
            untrained = build_method(self.job.method, self.job.augment.image_size, self.job.seed)
            embeds[RANDOM] = _embedding(untrained.to(ranks.device))
        if PIXELS in names and PIXELS not in known:
            embeds[PIXELS] = raw_pixels
        measured = self._measure(embeds, ranks, linear=self.job.evaluate.linear is not None)
        if measured is None:
            return None
        rows = {row["features"]: row for row in measured}
        if self.shared is not None:
            for features in rows.keys() & names.keys():
                leave_row(self.shared, names[features], rows[features])
        rows |= known
        return [rows[features] for features in (TRAINED, RANDOM, PIXELS) if features in rows]

    def _name(self, features: str) -> str:
        return row_name(self.job, self.bank, self.queries, features, untrained=features == RANDOM)

    def _known(self, names: dict[str, str], ranks: Ranks) -> dict[str, dict[str, Any]]:
        """Rows that another trial measured, as rank 0 finds them: all ranks must leave out the same."""
        if self.shared is None or not names:
            return {}
        found = {}
        if ranks.rank == 0:
            rows = {features: known_row(self.shared, name) for features, name in names.items()}
            found = {features: row for features, row in rows.items() if row is not None}
        return ranks.gathered(found)[0]

    def _measure(
        self, embeds: dict[str, Embed], ranks: Ranks, *, linear: bool
    ) -> list[dict[str, Any]] | None:
        everybodys = ranks.gathered(list(chunks(self.queries, embeds, ranks)))
        queries = _joined([chunk for part in everybodys for chunk in part], "data.eval")
        settings = self.job.evaluate.knn
        searches = {
            name: StreamingKnn(queries.features[name].to(ranks.device), max(settings.neighbours))
            for name in embeds
        }
        kept: list[FeatureChunk] = []
        bank_rows = 0
        for chunk in chunks(self.bank, embeds, ranks):
            for name, search in searches.items():
                search.add(chunk.features[name], chunk.labels, chunk.numbers)
            bank_rows += len(chunk.numbers)
            if linear:
                kept.append(chunk)
        mine = {name: _on_cpu(search.neighbours()) for name, search in searches.items()} if bank_rows else {}
        found = ranks.collected(mine)
        banks = ranks.collected(kept) if linear else None
        # Ranks wait for rank 0 here, so that none runs ahead into a collective and times out there.
        rows = None
        if found is not None:
            bank = _joined([chunk for part in banks for chunk in part], "data.eval_bank") if banks else None
            rows = [self._row(name, searches[name], found[1:], queries, bank, ranks) for name in embeds]
        ranks.gathered(None)
        return rows

    def _row(
        self,
        name: str,
        search: StreamingKnn,
        others: list[dict[str, Neighbours]],
        queries: FeatureChunk,
        bank: FeatureChunk | None,
        ranks: Ranks,
    ) -> dict[str, Any]:
        for other in others:
            if name in other:
                search.merge(other[name])
        neighbours = _on_cpu(search.neighbours())
        known = [neighbours.labels.flatten(), queries.labels] + ([bank.labels] if bank else [])
        classes, numbered = torch.unique(torch.cat(known), return_inverse=True)
        split = numbered.split([len(part) for part in known])
        settings = self.job.evaluate
        top1 = knn_top1(
            neighbours._replace(labels=split[0].view_as(neighbours.labels)),
            split[1],
            len(classes),
            settings.knn.neighbours,
            settings.knn.temperature,
        )
        row: dict[str, Any] = {"features": name, "knn_top1_percent": {str(k): v for k, v in top1.items()}}
        row["linear_top1_percent"] = None
        if bank is not None and settings.linear is not None:
            device, features = ranks.device, bank.features[name]
            found = linear_probe(
                features.to(device),
                split[2].to(device),
                queries.features[name].to(device),
                split[1].to(device),
                len(classes),
                settings.linear,
                self.job.seed,
            )
            row["linear_top1_percent"] = found.top1_percent
            row["linear_learning_rate"] = found.learning_rate
        return row


def _embedding(method: Method) -> Embed:
    def embed(images: Tensor) -> Tensor:
        with torch.no_grad():
            return method.features(normalise(images))

    return embed


def _joined(parts: list[FeatureChunk], where: str) -> FeatureChunk:
    """Chunks of all ranks as one, in the order of the set (so no figure depends on who read what)."""
    if not parts:
        raise DataError(where, "no image could be decoded", "at least one", "check the files of this source")
    numbers = torch.cat([part.numbers for part in parts])
    order = numbers.argsort()
    names = parts[0].features
    return FeatureChunk(
        numbers[order],
        torch.cat([part.labels for part in parts])[order],
        {name: torch.cat([part.features[name] for part in parts])[order] for name in names},
    )


def _on_cpu(neighbours: Neighbours) -> Neighbours:
    return Neighbours(*(part.cpu() for part in neighbours))
