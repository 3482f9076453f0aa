"""How well clicks of a simulated world could be ranked by all that its anchors say: upper bounds, nothing is learnt."""

from functools import partial

from pipelines.studies.references.reference import Material, Ranked
from pipelines.world import ceilings as world

TITLES = {"content_in_force": world.IN_FORCE, "content_of_today": world.TODAY}


def rank(given: Material, title: str) -> Ranked:
    """Ranks clicks alone."""
    settings = given.settings
    said = world.ceilings(settings.world, settings.seed, given.storage, given.day, given.columns)
    return Ranked(scores={"click": said[title]})


ROWS = {name: partial(rank, title=title) for name, title in TITLES.items()}
"""By the name of the reference row."""
