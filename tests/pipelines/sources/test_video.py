"""Pictures of a video: the same whether found by seeking or by decoding everything."""

from pathlib import Path

import av
import pytest

from pipelines.sources.sampling import Sampling
from pipelines.sources.video import Video
from tests.pipelines.films import film, grey


@pytest.mark.parametrize("ending", [".mp4", ".ts", ".webm", ".flv"])
@pytest.mark.parametrize("gop", [4, 1000])
def test_seeking_gives_the_frames_that_decoding_everything_gives(tmp_path: Path, gop: int, ending: str):
    path = film(tmp_path / f"one{ending}", seconds=20, gop=gop)
    sampling = Sampling(segment_s=6, frames_per_segment=3)
    wanted = [s + o for s, n in ((0, 6), (6, 6), (12, 6), (18, 2)) for o in sampling.offsets_s(n)]
    with av.open(str(path)) as container:
        start_s = float(container.streams.video[0].start_time * container.streams.video[0].time_base)
        everything = [(f.time - start_s, f.to_ndarray(format="gray").mean()) for f in container.decode(video=0)]
    reference = [[level for time_s, level in everything if time_s <= t][-1] for t in wanted]
    got = [grey(jpeg) for piece in Video(str(path), sampling).slices() for _, jpeg in piece.frames]
    assert got == pytest.approx(reference, abs=4)
