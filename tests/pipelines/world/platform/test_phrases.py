"""Phrases that compose: many strings from few attribute values, in two languages."""

from collections import Counter

import numpy as np

from pipelines.tables.contract import FIELDS
from pipelines.world.authors import true_anchor
from pipelines.world.config import WorldConfig
from pipelines.world.lexicon import FORMATS, SCENES
from pipelines.world.lives import segment_rows
from pipelines.world.platform.authors import make_authors, plan_day
from pipelines.world.platform.phrases import LANGUAGES, WORDINGS, attributes

CONFIG = WorldConfig(laws="platform", num_authors=400, num_days=2, num_points=48)
EVERYONE, BOOK = make_authors(CONFIG, seed=1)
VALUES = BOOK.attributes


def test_no_word_says_two_values():
    said = Counter(word for value in VALUES.words for language in value for word in language)
    assert [word for word, count in said.items() if count > 1] == []
    assert all(len(value) == len(LANGUAGES) for value in VALUES.words)
    assert all(2 <= len(words) <= 4 for value in VALUES.words for words in value)
    assert all(word.isascii() and word == word.lower() for word in said)


def test_there_are_far_more_phrases_than_values():
    assert 100 <= len(VALUES.words) <= 150
    strings = {*BOOK.themes, *BOOK.topics, *BOOK.points_of_interest}
    assert len(strings) > 20 * len(VALUES.words)


def test_a_phrase_is_used_by_few_authors_and_a_word_by_many():
    phrases, words = Counter[str](), Counter[str]()
    for author in EVERYONE:
        own = {BOOK.themes[t + i] for t in author.themes for i in range(WORDINGS)}
        phrases.update(own)
        words.update({word for phrase in own for word in phrase.split()})
    assert np.median(list(phrases.values())) == 1
    assert np.median(list(words.values())) >= 5


def test_a_phrase_consists_of_words_for_its_values():
    known = {word: value for value, sides in enumerate(VALUES.words) for words in sides for word in words}
    for texts, values in ((BOOK.themes, BOOK.theme_values), (BOOK.topics, BOOK.topic_values)):
        for text, of in zip(texts, values.tolist(), strict=True):
            assert {known[word] for word in text.split() if word in known} == set(of)
    names = {f: VALUES.first_name + i for i, f in enumerate(VALUES.names)}
    for text, (name, kind) in zip(BOOK.points_of_interest, BOOK.point_values.tolist(), strict=True):
        assert {names.get(w, known.get(w)) for w in text.split()} == {name, kind}


def test_the_wordings_of_a_habit_say_the_same():
    theme = EVERYONE[0].themes[0]
    wordings = range(theme, theme + WORDINGS)
    assert len({tuple(BOOK.theme_values[i]) for i in wordings}) == 1
    assert len({BOOK.themes[i] for i in wordings}) > 1


def test_an_author_speaks_one_language_and_both_are_spoken():
    language = {word: i for sides in VALUES.words for i, words in enumerate(sides) for word in words}
    spoken = [{language[w] for t in a.themes for w in BOOK.themes[t].split() if w in language} for a in EVERYONE]
    assert all(len(of) == 1 for of in spoken)
    assert 0.15 < np.mean([1 in of for of in spoken]) < 0.4


def test_equal_arguments_give_equal_attributes_and_another_seed_other_names():
    again = attributes.__wrapped__(48, 7)
    assert again is not attributes(48, 7) and again.names == VALUES.names and again.words == VALUES.words
    assert len(set(attributes(48, 8).names) & set(VALUES.names)) < 5


def test_a_live_says_the_phrases_of_its_anchor_and_shows_format_and_scene_alone():
    plan = plan_day(EVERYONE, 0, CONFIG, seed=1)[0]
    rows = segment_rows(plan, BOOK, np.random.default_rng(0), recorded=6, frames=1, frame_size=16)
    text = "\n".join([r["speech"] for r in rows] + [c["text"] for r in rows for c in r["comments"]])
    truth = true_anchor(plan, BOOK)
    assert list(truth) == list(FIELDS)
    for name in ("point_of_interest", "theme", "topic", "target_audience"):
        assert all(phrase in text for phrase in truth[name]), name
    assert not [phrase for phrase in (*FORMATS, *SCENES) if phrase in text]
