"""How well clicks of a simulated world could be ranked by all that its anchors say: upper bounds, nothing is learnt."""

import importlib
from functools import partial

from pipelines.studies.references.reference import Material, Ranked

WHERE = "pipelines.world.ceilings"
"""Knows the world's laws; ceilings(config, seed, storage, day, columns) -> {title: click scores [n]}."""
TITLES = {"content_in_force": "content in force", "content_of_today": "content of today"}


def rank(given: Material, title: str) -> Ranked:
    """Ranks clicks alone."""
    ceilings = importlib.import_module(WHERE).ceilings
    settings = given.settings
    said = ceilings(settings.world, settings.seed, given.storage, given.day, given.columns)
    return Ranked(scores={"click": said[title]})


ROWS = {name: partial(rank, title=title) for name, title in TITLES.items()}
"""By the name of the reference row."""
