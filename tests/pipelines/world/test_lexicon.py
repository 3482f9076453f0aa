"""The words: one language for every world, no phrase in two fields."""

from typing import Any

import pytest

from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import CATEGORIES, FORMATS, SCENES, lexicon


def test_equal_arguments_give_equal_words_and_another_seed_other_names():
    again = lexicon.__wrapped__(48, 7)
    assert again is not lexicon(48, 7) and again == lexicon(48, 7)
    shared = set(lexicon(48, 8).points_of_interest) & set(lexicon(48, 7).points_of_interest)
    assert len(shared) < 5


def test_every_phrase_stands_once_in_one_field():
    phrases = [phrase for field in lexicon(300).values() for phrase in field]
    assert len(phrases) == len(set(phrases))
    assert all(phrase == " ".join(phrase.split()) and phrase for phrase in phrases)


def test_every_category_has_themes_topics_and_points():
    words = lexicon(36)
    for owners in (words.theme_category, words.topic_category, words.point_category):
        assert set(owners) == set(range(len(CATEGORIES)))
    assert len(words.points_of_interest) == len(words.point_category) == 36
    assert (len(SCENES), len(FORMATS)) == (12, 6)


def test_a_point_of_interest_says_what_it_is_in_its_category():
    words = lexicon(48)
    kinds = {
        c: {p.split()[-1] for p, own in zip(words.points_of_interest, words.point_category, strict=True) if own == c}
        for c in range(len(CATEGORIES))
    }
    assert all(len(kind) == 1 for kind in kinds.values())
    assert len(set().union(*kinds.values())) == len(CATEGORIES)


@pytest.mark.parametrize(
    "wrong", [{"num_points": 35}, {"num_days": 0}, {"on_air_share": 1.1}, {"category_error": -0.1}]
)
def test_a_wrong_size_is_named(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=f"world.{next(iter(wrong))}: wanted .* got"):
        WorldConfig(**wrong)
