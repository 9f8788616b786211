"""The terms of a step: which sequences they read, over how many positions, and their sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from knowsub.discovery import objective
from knowsub.discovery.data import TrainingData
from knowsub.discovery.drawn import Drawn
from knowsub.discovery.options import Suppression, TrainOptions
from knowsub.lm.encode import Batch
from knowsub.lm.placing import beside, rows_of

Terms = dict[str, Float[Tensor, ""]]
"""Terms by name, where the model is: to look at them is to wait for it."""
Figures = dict[str, float]
"""Their values."""
Group = dict[str, Batch]
"""Sequences of about one width, by the term that is read there."""


def read(terms: Terms, step: int) -> Figures:
    """Return the values of a step's terms, in one question to the device.

    Args:
        terms: The terms, in float64.
        step: 1-based step.

    Returns:
        Their values by name.

    Raises:
        ValueError: If one is not finite.
    """
    figures = dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
    if not all(math.isfinite(value) for value in figures.values()):
        raise ValueError(f"step {step}: a term of the objective is not finite: {figures}")
    return figures


class DataTerms:
    """The data terms of the objective.

    Args:
        data: The training data.
        options: Coefficients, and which term suppresses.
        head: The LM head.
    """

    def __init__(self, data: TrainingData, options: TrainOptions, head: nn.Linear) -> None:
        self.data, self.options, self.head = data, options, head
        self.target = data.target
        if options.suppression is not Suppression.UNIFORM:
            # The uniform term acts on every token of a tail; the others on the first, where the
            # answer is chosen.
            self.target = replace(data.target, reads=data.target.first_reads)
        self.kept = {"maintenance": data.control, "text": data.text}
        if data.near is not None:
            self.kept["near"] = data.near
        self.weights = {
            "suppression": options.suppression_weight,
            "trace": options.trace_weight,
            "maintenance": options.maintenance_weight,
            "near": options.near_weight,
            "text": options.text_weight,
        }

    def positions(self, drawn: Drawn) -> dict[str, int]:
        """Return over how many positions each term is a mean.

        Args:
            drawn: The sequences of a whole step.

        Returns:
            The numbers by term.
        """
        rows = drawn.by_term()
        found = {"suppression": int(self.target.reads[drawn.target].sum())}
        found |= {name: int(one.batch.reads[rows[name]].sum()) for name, one in self.kept.items()}
        if self.options.trace_weight > 0:
            found["trace"] = found["suppression"]
        return found

    def groups(self, part: Drawn) -> list[Group]:
        """Return the statements of a piece, and its text if it has some.

        Args:
            part: The sequences of the piece.

        Returns:
            The batches, by the term that is read there.
        """
        rows = part.by_term()
        told = {"suppression": self.target[part.target]}
        told |= {name: one.batch[rows[name]] for name, one in self.kept.items() if name != "text"}
        read = {"text": self.data.text.batch[part.text]} if len(part.text) else {}
        return [group for group in (told, read) if group]

    def sums(self, part: Drawn, states: Mapping[str, Tensor]) -> Terms:
        """Return the terms of some or all groups of a piece, summed over positions.

        Args:
            part: The sequences of the piece.
            states: Final states where they are read, by the same names.

        Returns:
            The sums, unweighted [nats].
        """
        rows = part.by_term()
        found = {
            name: self.kept[name].divergence(self.head, states[name], rows[name])
            for name in states
            if name in self.kept
        }
        if "suppression" in states:
            found |= self._forgotten(part.target, states["suppression"])
        return found

    def _forgotten(self, rows: Int[Tensor, " row"], states: Tensor) -> Terms:
        """Return the summed terms that act on the target's tails."""
        options, known = self.options, self.data.ignorance
        told = Batch(self.target.tokens[rows], self.target.reads[rows])
        kind, labels = options.suppression, beside(told.labels[told.reads], states)
        standings = rows_of(known.standings, rows)
        suppressed = objective.suppression(self.head, states, labels, kind, known, standings)
        if options.trace_weight == 0:
            return {"suppression": suppressed}
        trace = objective.trace(self.head, states, labels, known.targets)
        return {"suppression": suppressed, "trace": trace}
