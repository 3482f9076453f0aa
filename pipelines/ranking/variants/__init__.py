"""Sources of a ranker, one file per idea, and the registry that finds them: a ranker is Base plus a list of these."""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pipelines.ranking.variants.source import Source

BASE = "base"
"""Name of the ranker without sources."""
_JOIN = "+"


def _found() -> dict[str, Source]:
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return {source.name: source for module in modules for source in getattr(module, "SOURCES", ())}


SOURCES: Mapping[str, Source] = MappingProxyType(_found())
"""By name, every source of the modules in this folder."""


def ranker_name(sources: Iterable[str]) -> str:
    """What a ranker with these sources is called, as artifact kind too: "sarm", "sarm+tags"; BASE without any."""
    return _JOIN.join(sources) or BASE


def sources_of(ranker: str) -> tuple[str, ...]:
    """The sources in a ranker's name. Raises ValueError for one that does not exist."""
    names = () if ranker == BASE else tuple(ranker.split(_JOIN))
    if unknown := [name for name in names if name not in SOURCES]:
        raise ValueError(f"ranker {ranker}: unknown source(s) {', '.join(unknown)}; known are {', '.join(SOURCES)}")
    return names


def screens_of(sources: Iterable[str]) -> tuple[str, ...]:
    """Tables of codes that examples must carry for a ranker with these sources, each once."""
    return tuple(dict.fromkeys(table for name in sources for table in SOURCES[name].screens))


def ranker_label(ranker: str) -> str:
    """What reports call a ranker: "Base", "SARM", "SARM + tags"."""
    return " + ".join(SOURCES[name].label for name in sources_of(ranker)) or "Base"
