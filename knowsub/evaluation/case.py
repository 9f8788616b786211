"""One mask's examination, from files and texts to the bench and the exam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from knowsub.anatomy import block_count, sites
from knowsub.evaluation.bench import open_bench, text_blocks
from knowsub.evaluation.damage import at_equal_damage, control_set, damage
from knowsub.evaluation.exam import set_exam
from knowsub.evaluation.finding import Finding
from knowsub.evaluation.options import TestOptions
from knowsub.evaluation.suite import compare
from knowsub.kg.triple import Statement
from knowsub.masks.io import load_mask
from knowsub.masks.mask import Mask


class Case:
    """A model, the knowledge graph of one target, and the questions about one of its masks.

    Everything is cached when it is made, under the original weights.

    Args:
        model: The original model.
        tokenizer: Its tokenizer.
        mask: The critical subnetwork; its sites are the maskable matrices.
        target: The target that it was trained to remove.
        told: Name of every target -> statements of its knowledge graph.
        texts: Name -> running text.
        options: The groups wanted.

    Raises:
        ValueError: If a set that is needed is empty, or a text or a statement does not fit.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        mask: Mask,
        target: str,
        told: Mapping[str, Sequence[Statement]],
        texts: Mapping[str, str],
        options: TestOptions,
    ) -> None:
        self.options = options
        self.generator = torch.Generator().manual_seed(options.seed)
        every = sites(model, range(block_count(model)))
        blocks = {
            name: text_blocks(tokenizer, text, options.block_tokens, options.text_blocks)
            for name, text in texts.items()
        }
        self.bench = open_bench(
            model,
            tokenizer,
            [site for site in every if site.name in mask.bits],
            told[target],
            blocks,
            options.control_prompts,
        )
        others = {name: rows for name, rows in told.items() if name != target}
        self.exam = set_exam(self.bench, options, others, self.generator)

    def compared(
        self, folder: Path, methods: Sequence[str], factors: Sequence[float], trained: Finding
    ) -> dict[str, Finding]:
        """Return the figures of other methods' masks.

        Args:
            folder: Where the stage `baseline` wrote them.
            methods: Names of the methods.
            factors: Further sizes, as multiples of the trained mask's.
            trained: Figures of the trained mask.

        Returns:
            Method -> its figures; among them `target_dnll_at_equal_control`, its dNLL on the target
            at the size at which it damages held-out control facts as much as the trained mask
            does (`damage.at_equal_damage`) [nats per tail token].

        Raises:
            FileNotFoundError: If a mask is missing.
            ValueError: If a mask is corrupt.
        """
        if not self.options.baselines:
            return {}
        masks = {method: load_mask(folder / f"{method}.safetensors") for method in methods}
        control = trained.figures[f"{control_set(self.bench)}_dnll"]
        found = compare(self.bench, masks, self.options, self.exam)
        for method in methods if self.options.sizes else ():
            files = [folder / f"sizes/{method}-{factor}.safetensors" for factor in factors]
            tried = [masks[method], *(load_mask(file) for file in files)]
            sizes = [damage(self.bench, mask) for mask in tried]
            equal = at_equal_damage(sizes, control)
            found[method].figures["target_dnll_at_equal_control"] = equal
        return found
