from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.sarm.live_tokenizer.field_encoder import FieldEncoder
from tests.models.sarm import bases

FIELDS = st.lists(
    st.one_of(st.sampled_from(["pubg home", " gym", "gym", "\u0301", "", "a\U0010ffffb"]), st.text(max_size=4))
)


@pytest.mark.parametrize("base", [bases.gpt2, bases.qwen, bases.metaspace, bases.whole])
@settings(deadline=None)
@given(batch=st.lists(FIELDS, max_size=3))
def test_every_field_is_encoded_as_if_alone(base: Callable[[], Tokenizer], batch: list[list[str]]) -> None:
    """Whatever the normalizer, and even where a field holds the character that separates fields."""
    plain = Tokenizer.from_str(base().to_str())
    ids, counts = FieldEncoder(plain).ids(batch)
    wanted = [[i for field in fields for i in plain.encode(field, add_special_tokens=False).ids] for fields in batch]
    assert counts.tolist() == [len(anchor) for anchor in wanted]
    assert ids.tolist() == [i for anchor in wanted for i in anchor]
