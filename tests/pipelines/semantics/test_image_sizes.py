"""What a picture costs, against the processor of transformers itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from pipelines.semantics.image_sizes import MARKS, ImageSizes

QWEN2 = ImageSizes.of({"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056})
QWEN3 = ImageSizes.of({"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}})
sides = st.integers(1, 5000)


def by_transformers(images: ImageSizes, width: int, height: int) -> tuple[int, int]:
    limits = {"min_pixels": images.min_pixels, "max_pixels": images.max_pixels}
    return smart_resize(height, width, factor=images.block, **limits)[::-1]


@given(st.sampled_from([QWEN2, QWEN3]), sides, sides)
def test_pictures_are_read_at_the_size_that_the_processor_takes(images: ImageSizes, width: int, height: int):
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ValueError, match="200"):
            images.read_at(width, height)
    else:
        assert images.read_at(width, height) == by_transformers(images, width, height)


@given(st.sampled_from([QWEN2, QWEN3]), st.integers(8, 5000), st.integers(8, 5000), st.integers(64, 1024))
def test_a_fitted_size_costs_no_more_and_stays(images: ImageSizes, width: int, height: int, most: int):
    if max(width, height) > 100 * min(width, height):
        return
    size = images.read_at(width, height, most)
    if size[0] * size[1] >= images.min_pixels:
        assert by_transformers(images, *size) == size
    if width * height >= images.min_pixels:
        assert images.tokens(width, height, most) <= most + MARKS


@pytest.mark.parametrize(("width", "height", "tokens"), [(448, 252, 144), (448, 336, 192), (448, 448, 256)])
def test_the_frames_of_ingest_cost_what_qwen2_vl_makes_of_them(width: int, height: int, tokens: int):
    assert QWEN2.tokens(width, height) == tokens + MARKS


def test_both_forms_of_settings_and_none_are_read():
    assert QWEN3 == ImageSizes(block=32, min_pixels=65536, max_pixels=16777216)
    assert ImageSizes.of({}) == ImageSizes(block=28, min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    assert (QWEN3.fewest_tokens, QWEN2.most_tokens) == (64, 16384)
