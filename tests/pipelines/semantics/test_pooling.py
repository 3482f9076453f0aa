"""What the engine is told where it is to give vectors."""

import pytest

from pipelines.runtime.config import ConfigError
from pipelines.semantics.author_day import PromptConfig
from pipelines.semantics.engine_config import EngineConfig
from pipelines.semantics.pooling import check_pooling, pooling_kwargs


@pytest.mark.parametrize("pooling", ["MEAN", "LAST"])
def test_a_prompt_is_computed_in_one_piece(pooling: str) -> None:
    told = pooling_kwargs("model", PromptConfig(num_frames=3), EngineConfig(), pooling, "embed_segments")
    assert told["task_type"] == "embed" and told["engine_kwargs"]["pooler_config"]["pooling_type"] == pooling
    assert told["engine_kwargs"]["enable_chunked_prefill"] is False
    assert told["engine_kwargs"]["enable_prefix_caching"] is False
    assert told["engine_kwargs"]["limit_mm_per_prompt"] == {"image": 3, "video": 0}


def test_the_engine_s_own_arguments_stand_but_for_pieces() -> None:
    config = EngineConfig(engine_kwargs={"max_num_batched_tokens": 9000})
    told = pooling_kwargs("model", PromptConfig(), config, "MEAN", "embed")
    assert told["engine_kwargs"]["max_num_batched_tokens"] == 9000
    pieces = EngineConfig(engine_kwargs={"enable_chunked_prefill": True})
    with pytest.raises(ConfigError, match="^embed.engine.engine_kwargs.enable_chunked_prefill: wanted false"):
        pooling_kwargs("model", PromptConfig(), pieces, "LAST", "embed")


def test_other_poolings_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted MEAN or LAST, got 'MAX'"):
        check_pooling("MAX")
