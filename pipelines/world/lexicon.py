"""The words of the simulated platform: categories, themes, topics, audiences, formats, scenes, and coined names.

The lexicon has a seed of its own, apart from the world's, so that worlds with different authors and users share one
language and a model distilled on one world can read another.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

FORMATS = ("single host", "two host duet", "outdoor walk", "unattended camera", "screen capture", "product table")
SCENES = (
    "home kitchen",
    "living room",
    "virtual studio",
    "public gym",
    "mobile screen",
    "night market",
    "river bank",
    "workshop bench",
    "classroom",
    "farm field",
    "concert stage",
    "car interior",
)
AUDIENCES = (
    "night shift nurses",
    "college students",
    "new parents",
    "retired teachers",
    "office workers",
    "truck drivers",
    "competitive gamers",
    "home cooks",
    "budget shoppers",
    "fitness beginners",
    "folk music fans",
    "exam candidates",
    "pet owners",
    "amateur painters",
    "anglers",
    "car enthusiasts",
    "small farmers",
    "language learners",
    "dance lovers",
    "tech hobbyists",
    "stock watchers",
    "history readers",
    "bargain travellers",
    "makeup learners",
)

# category: (themes, topics, what a point of interest of that category is)
_CATEGORIES: dict[str, tuple[str, str, str]] = {
    "gaming": (
        "battle royale climb|retro arcade revival|strategy siege night|speed run marathon|farm builder evening|card duel ladder"
        "|racing league heat|puzzle tower rush",
        "weapon balance|map rotation|combo timing|patch notes|team drafting|controller setup|boss patterns|season rewards"
        "|hidden levels|economy opening|lap records|deck building",
        "showdown",
    ),
    "music": (
        "acoustic ballad hour|folk drum circle|bar singer requests|piano improvisation|opera aria practice|rap cypher battle"
        "|violin street set|karaoke challenge",
        "breathing technique|chord changes|lyric writing|stage fright|vocal warmups|tuning tricks|cover requests|harmony parts"
        "|rhythm games|old hits|song stories|microphone choice",
        "encore",
    ),
    "dance": (
        "beauty group dance|square dance lesson|street breaking jam|ballet barre class|latin partner steps|line dance party"
        "|fan dance rehearsal|shuffle step clinic",
        "footwork drills|costume change|partner timing|floor moves|warm up stretch|choreography notes|turn balance"
        "|group formation|music counts|spin control|beginner mistakes|show schedule",
        "routine",
    ),
    "cooking": (
        "noodle pulling show|hotpot feast night|street grill tour|bakery morning shift|spicy stew challenge|tea ceremony class"
        "|dumpling folding race|pickle jar stories",
        "knife skills|dough resting|sauce ratios|charcoal heat|market prices|family recipes|steam control|spice roasting"
        "|leftover ideas|sweet fillings|soup stock|plating style",
        "recipe",
    ),
    "shopping": (
        "jade bracelet auction|winter coat sale|kitchen tool bargains|shoe factory direct|tea farm harvest|phone case outlet"
        "|toy warehouse clearance|skincare bundle drop",
        "return policy|size guide|coupon stacking|material quality|shipping time|gift packing|price history|stock count"
        "|brand comparison|warranty terms|color choice|care instructions",
        "bundle",
    ),
    "education": (
        "entrance exam guide|english phrase class|math problem clinic|calligraphy practice|history storytelling|coding for beginners"
        "|physics at home|essay review desk",
        "application deadlines|pronunciation tips|memory methods|proof strategy|brush control|dynasty trivia|loop exercises"
        "|unit conversion|thesis structure|mock tests|study plans|reading lists",
        "workbook",
    ),
    "fitness": (
        "morning yoga flow|kettlebell circuit|marathon training log|boxing pad rounds|home stretching hour|cycling trainer ride"
        "|climbing wall session|jump rope contest",
        "rest intervals|grip strength|protein meals|heart rate zones|knee care|breath rhythm|posture check|gear advice"
        "|hill repeats|sleep habits|core stability|beginner plan",
        "workout",
    ),
    "outdoor": (
        "river fishing dawn|mountain trail walk|city night stroll|bird watching hide|camping stove test|beach treasure hunt"
        "|village market visit|snow sled outing",
        "bait choice|weather window|trail safety|tent setup|lens settings|tide tables|local snacks|map reading"
        "|night lights|animal tracks|packing list|sunrise spots",
        "trail",
    ),
    "crafts": (
        "wood carving bench|clay wheel studio|knitting circle chat|leather stitching hour|model ship building|paper cutting art"
        "|jewelry soldering class|oil painting session",
        "tool sharpening|glaze mixing|yarn weight|edge finishing|scale accuracy|fold patterns|stone setting|color layering"
        "|sanding grit|kiln schedule|mistake repair|gift ideas",
        "piece",
    ),
    "cars": (
        "angry car review|engine rebuild diary|used car inspection|truck route companion|electric bike tuning|drift day paddock"
        "|classic restoration|road trip planning",
        "oil change|battery range|tire wear|paint matching|insurance traps|gearbox noise|fuel cost|parking tricks"
        "|auction prices|brake bleeding|loading rules|toll roads",
        "model",
    ),
    "talk": (
        "dialect comedy chat|late night advice|local news desk|matchmaking corner|stock market recap|travel story swap"
        "|parenting roundtable|dream interpretation",
        "family budgets|first dates|housing prices|job interviews|school choice|festival plans|neighbor disputes|savings goals"
        "|health checkups|village gossip|retirement ideas|moving abroad",
        "story",
    ),
    "animals": (
        "kitten rescue room|sheepdog training|aquarium aquascape|parrot talking class|horse stable morning|panda camera watch"
        "|beekeeper rounds|puppy grooming day",
        "feeding schedule|vet advice|tank cycling|leash manners|nest boxes|coat brushing|treat recipes|adoption rules"
        "|hive checks|sound mimicry|hoof care|play time",
        "companion",
    ),
}
CATEGORIES = tuple(_CATEGORIES)

_ONSETS = ("Zel", "Kro", "Vai", "Mor", "Tun", "Bex", "Ska", "Ply", "Dro", "Fen", "Gri", "Hux", "Jav", "Lur", "Nyx", "Qua")
_MIDDLES = ("va", "ni", "ro", "ki", "lu", "ta", "mo", "xi", "be", "do")
_ENDS = ("nto", "rix", "zal", "mek", "dor", "lune", "pia", "goth", "sun", "wyn")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Every phrase that may stand in an anchor, with the category it belongs to."""

    themes: tuple[str, ...]
    theme_category: tuple[int, ...]
    topics: tuple[str, ...]
    topic_category: tuple[int, ...]
    points_of_interest: tuple[str, ...]
    point_category: tuple[int, ...]
    audiences: tuple[str, ...] = AUDIENCES
    formats: tuple[str, ...] = FORMATS
    scenes: tuple[str, ...] = SCENES

    def values(self) -> tuple[tuple[str, ...], ...]:
        """Phrases of the six fields in canonical order."""
        return (self.points_of_interest, self.themes, self.topics, self.audiences, self.formats, self.scenes)


def _coined_names(count: int, rng: np.random.Generator) -> list[str]:
    """Names that a general BPE splits: acronyms like PUBG, and coined words like Zelvanto."""
    names: dict[str, None] = {}
    letters = np.array(list("BCDFGHKLMNPQRSTVWXZAEIOU"))
    while len(names) < count:
        if rng.random() < 0.4:
            name = "".join(rng.choice(letters, size=4))
        else:
            name = str(rng.choice(_ONSETS)) + str(rng.choice(_MIDDLES)) + str(rng.choice(_ENDS))
        names[name] = None
    return list(names)


@cache
def lexicon(num_points: int = 300, seed: int = 7) -> Lexicon:
    """The lexicon with `num_points` points of interest; equal arguments give equal words."""
    rng = np.random.default_rng([seed, num_points])
    themes = [(t, c) for c, name in enumerate(CATEGORIES) for t in _CATEGORIES[name][0].split("|")]
    topics = [(t, c) for c, name in enumerate(CATEGORIES) for t in _CATEGORIES[name][1].split("|")]
    points = [(n, i % len(CATEGORIES)) for i, n in enumerate(_coined_names(num_points, rng))]
    return Lexicon(
        themes=tuple(t for t, _ in themes),
        theme_category=tuple(c for _, c in themes),
        topics=tuple(t for t, _ in topics),
        topic_category=tuple(c for _, c in topics),
        points_of_interest=tuple(f"{n} {_CATEGORIES[CATEGORIES[c]][2]}" for n, c in points),
        point_category=tuple(c for _, c in points),
    )
