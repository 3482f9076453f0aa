"""What a ranker costs: parameters, and FLOPs per impression and per encoded author, by block.

Counted by `torch.utils.flop_counter` while the model runs: matrix products, at two operations for a multiplication
and its addition. Norms, activations, softmaxes and table lookups count as nothing. Forward only; the backward pass
costs about twice as much again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.batch import RankingBatch
from models.composed import ComposedRanker
from models.embeddings import IdTable
from models.sources import Inputs

TOTAL = "total"
"""Block of the last row."""
_OPENED = "encoder"  # the child of a source that is shown by its own children
_OUTSIDE = "(outside blocks)"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockCost:
    """One row of the table."""

    block: str
    """Name of the block in the model; the parts of the base ranker have the same names in every model."""
    id_parameters: int
    """Parameters in tables of ids, buckets and tokens, of which an impression or author reads a few rows."""
    dense_parameters: int
    """All others, which every impression or author goes through."""
    flops_per_impression: float
    """To score one impression whose author vectors are at hand; padded history items are computed, and count."""
    flops_per_author: float
    """To encode one author without padding; 0 where nothing is encoded. Training shares work between authors."""


def cost_table(
    model: ComposedRanker, batch: RankingBatch, inputs: Mapping[str, Inputs] | None = None
) -> list[BlockCost]:
    """One row for each block, in the order of the model, and the row TOTAL.

    `inputs` are those of the model's sources, by name. FLOPs are means over the impressions of `batch` and over its
    authors, each encoded once. What impressions of one request may share, such as [UIN], counts for each of them. The
    model is left as it was. Raises ValueError where a source has no inputs, or those of other author rows.
    """
    inputs = inputs or {}
    model.check_inputs(inputs)
    authors = torch.unique(batch.author)
    training = model.training
    model.eval()
    try:
        impressions, encoding = _passes(model, batch, authors, inputs)
        impression_flops, encoding_flops = _flops(model, impressions), _flops(model, encoding)
    finally:
        model.train(training)
    ids, dense = _parameters(model)
    rows = [
        BlockCost(
            block=block,
            id_parameters=ids[block],
            dense_parameters=dense[block],
            flops_per_impression=impression_flops[block] / batch.size,
            flops_per_author=encoding_flops[block] / len(authors),
        )
        for block in _blocks(model)
        if ids[block] or dense[block] or impression_flops[block] or encoding_flops[block]
    ]
    return [*rows, _total(rows)]


def markdown(rows: Sequence[BlockCost]) -> str:
    """The rows as a Markdown table, FLOPs in whole numbers."""
    head = ("block", "id parameters", "dense parameters", "FLOPs / impression", "FLOPs / author")
    lines = [" | ".join(head), " | ".join(["---", *["--:"] * 4])]
    for row in rows:
        figures = (row.id_parameters, row.dense_parameters, row.flops_per_impression, row.flops_per_author)
        lines.append(" | ".join([row.block, *(f"{figure:,.0f}" for figure in figures)]))
    return "".join(f"| {line} |\n" for line in lines)


def _passes(
    model: ComposedRanker, batch: RankingBatch, authors: Tensor, inputs: Mapping[str, Inputs]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """The two passes to count: over the impressions, and over the authors."""
    ids = model.ranker.authors
    tables = {name: source.table(inputs[name], ids) for name, source in model.items()}
    targets = {name: table[batch.author] for name, table in tables.items()}
    read = {name: source.of_history(tables[name]) for name, source in model.items()}
    histories = {name: None if part is None else part[batch.history] for name, part in read.items()}

    def impressions() -> None:
        model(batch, model.read(batch, targets, histories))
        for name, source in model.items():
            source.auxiliary(targets[name])

    def encoding() -> None:
        for name, source in model.items():
            source.encode_plainly(authors, inputs[name], ids)

    return impressions, encoding


def _block(path: str) -> str | None:
    """The block that a module or parameter belongs to; None for what holds blocks.

    `home` of the base ranker, `sarm.interest` of a source, and one level more of what is opened: `sarm.encoder.blocks`.
    """
    first, *below = path.split(".")
    if first == "ranker":
        return below[0] if below else None
    depth = 3 if below[1:2] == [_OPENED] else 2
    return ".".join(below[:depth]) if len(below) >= depth else None


def _blocks(model: nn.Module) -> list[str]:
    paths = [path for path, _ in (*model.named_modules(), *model.named_parameters())]
    return [*dict.fromkeys(block for path in paths if (block := _block(path))), _OUTSIDE]


def _parameters(model: nn.Module) -> tuple[Counter[str], Counter[str]]:
    """Of id tables and of the rest, by block."""
    in_tables = {id(p) for module in model.modules() if isinstance(module, IdTable) for p in module.parameters()}
    ids: Counter[str] = Counter()
    dense: Counter[str] = Counter()
    for path, parameter in model.named_parameters():
        (ids if id(parameter) in in_tables else dense)[_block(path) or _OUTSIDE] += parameter.numel()
    return ids, dense


def _flops(model: nn.Module, run: Callable[[], object]) -> Counter[str]:
    """FLOPs of `run` by block."""
    flops: Counter[str] = Counter()
    inside: list[str] = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:

        def enter(block: str) -> None:
            flops[block] -= counter.get_total_flops() if block not in inside else 0
            inside.append(block)

        def leave(block: str) -> None:
            inside.remove(block)
            flops[block] += counter.get_total_flops() if block not in inside else 0

        hooks = []
        for path, module in model.named_modules():
            if block := _block(path):
                hooks.append(module.register_forward_pre_hook(lambda *_, block=block: enter(block)))
                hooks.append(module.register_forward_hook(lambda *_, block=block: leave(block)))
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        flops[_OUTSIDE] = counter.get_total_flops() - flops.total()
    return flops


def _total(rows: Sequence[BlockCost]) -> BlockCost:
    return BlockCost(
        block=TOTAL,
        id_parameters=sum(row.id_parameters for row in rows),
        dense_parameters=sum(row.dense_parameters for row in rows),
        flops_per_impression=sum(row.flops_per_impression for row in rows),
        flops_per_author=sum(row.flops_per_author for row in rows),
    )
