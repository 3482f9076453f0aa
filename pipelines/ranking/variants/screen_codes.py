"""What was on screen as a source, by codes that examples carry: LLM codes of segments' own embeddings, and LARM codes
of the vectors that retrieval has aligned with who watches them."""

from pathlib import Path

import torch

from models import HISTORY
from models.artifacts.codebook import Codebook
from models.artifacts.manifest import Manifest
from models.larm.screen_codes import ScreenCodes, ScreenCodesConfig, ScreenCodesFacts
from models.sources import Inputs
from models.sources import Source as Module
from pipelines.ranking.variants.source import Context, Source, State
from pipelines.samples.on_screen import codebook_key
from pipelines.tables.artifacts import Artifacts
from pipelines.tables.columns import Columns
from pipelines.tables.contract import ContractError
from pipelines.tables.days import day_of
from pipelines.tables.storage import Storage


class CodesInExamples(State):
    """What the codes of examples are. They come with the batches: by author row there is nothing to say."""

    def __init__(self, name: str, table: str, codebook: Path, context: Context) -> None:
        """Args: `name` is that of the source, `codebook` the folder of the one whose codes the ranker reads."""
        quantizer, run_id = Codebook.load(codebook).quantizer, Manifest.verify(codebook).run_id
        self._name = name
        self.facts = ScreenCodesFacts(table=table, codebook=run_id, clusters=quantizer.clusters)
        self._storage, self._authors = context.storage, context.catalog.num_authors
        self._known: dict[str, str] = {}

    def advance(self, before: str) -> Inputs:
        """[N+1, 0]."""
        return (torch.zeros(self._authors + 1, 0),)

    def check(self, key: str, columns: Columns) -> None:
        """Raises ContractError for codes of another codebook, and for those that a level does not have."""
        table, wanted = self.facts.table, self.facts.codebook
        if (got := self._codebook_of(day_of(key))) != wanted:
            raise ContractError(
                f"table examples, day {day_of(key)}: wanted codes of the codebook {wanted} in {table}, as the ranker "
                f"reads them, got {got or 'those of an unknown one'}; run the job examples again, with the codes that "
                "the job codes has published last, and train again where it is another codebook"
            )
        for name in (table, f"{HISTORY}{table}"):
            codes = columns[name].reshape(-1, len(self.facts.clusters)) if len(columns[name]) else columns[name]
            if len(codes) and ((codes < -1) | (codes >= self.facts.clusters)).any():
                raise ContractError(
                    f"table examples, day {day_of(key)}, column {name}: wanted codes of levels of "
                    f"{', '.join(map(str, self.facts.clusters))}, got up to {codes.max(axis=0).tolist()}; run the jobs "
                    "codes and examples again"
                )

    def go_on(self, module: Module, before: Module) -> None:
        """Codes of another codebook mean something else: what was learnt of them is worth nothing."""
        assert isinstance(module, ScreenCodes) and isinstance(before, ScreenCodes)
        if module.facts != before.facts:
            raise ValueError(
                f"source {self._name}: wanted the codebook {before.facts.codebook}, as the ranker has learnt, got "
                f"{module.facts.codebook}; train it from the beginning"
            )

    def _codebook_of(self, day: str) -> str:
        if day not in self._known:
            commit = self._storage.commit_of("examples", day)
            self._known[day] = commit.made_from.get(codebook_key(self.facts.table), "") if commit else ""
        return self._known[day]


class ScreenCodesSource(Source):
    """Codes of one table, which examples carry."""

    module: type[Module] = ScreenCodes
    can_follow = True

    def __init__(self, name: str, label: str, table: str, kind: str) -> None:
        """Args: `kind` is that of the artifact with the codebook."""
        self.name, self.label, self._table, self._kind = name, label, table, kind
        self.reads: tuple[str, ...] = (table,)
        self.screens = (table,)

    def depends_on(self, storage: Storage, before: str) -> dict[str, str]:
        """Nothing beside the examples, which carry the codes of their moments."""
        return {}

    def pinned(self, artifacts: Artifacts) -> dict[str, str]:
        """The codebook. Raises ArtifactError where none is published."""
        return {self._lineage: artifacts.manifest(self._kind).run_id}

    def open(self, config: ScreenCodesConfig, context: Context) -> CodesInExamples:
        """Raises ArtifactError where the codebook of the lineage is gone."""
        codebook = context.artifacts.fetch(self._kind, context.made_from[self._lineage])
        return CodesInExamples(self.name, self._table, codebook, context)

    @property
    def _lineage(self) -> str:
        """Where a ranker's lineage names its codebook."""
        return f"{self.name}/codebook"


SOURCES = (
    ScreenCodesSource("llm_codes", "LLM codes", "segment_codes", "codebook"),
    ScreenCodesSource("larm_codes", "LARM codes", "item_codes", "codebook.items"),
)
