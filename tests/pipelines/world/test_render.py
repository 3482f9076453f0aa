"""The pixels carry scene and format, and nothing else repeats."""

import io
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.world.lexicon import FORMATS, SCENES
from pipelines.world.render import jpeg, render

CLASSES = list(product(range(len(SCENES)), range(len(FORMATS))))


def seen(scene: int, format_id: int, seed: int) -> NDArray[np.float64]:
    """What a coarse eye sees of a stored frame: 16 x 16 colours."""
    stored = jpeg(render(scene, format_id, np.random.default_rng([seed, scene, format_id])))
    with Image.open(io.BytesIO(stored)) as image:
        return np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float64).ravel()


@pytest.fixture(scope="module")
def nearest() -> NDArray[np.int64]:
    """For 10 unseen frames of each (scene, format): the class whose mean of 10 others is nearest. [72, 10]"""
    centroids = np.stack([np.mean([seen(s, f, seed) for seed in range(10)], axis=0) for s, f in CLASSES])
    unseen = np.stack([[seen(s, f, 100 + seed) for seed in range(10)] for s, f in CLASSES])
    # Squared distances without the unseen frame's own norm, which all classes share.
    return (np.square(centroids).sum(-1) - 2 * unseen @ centroids.T).argmin(-1)


def test_the_scene_is_read_from_the_pixels(nearest: NDArray[np.int64]):
    right = nearest // len(FORMATS) == np.array([s for s, _ in CLASSES])[:, None]
    assert right.mean() > 0.9
    assert right.reshape(len(SCENES), -1).mean(1).min() > 0.5, "a scene is not recognisable"


def test_the_format_is_read_from_the_pixels(nearest: NDArray[np.int64]):
    right = nearest % len(FORMATS) == np.array([f for _, f in CLASSES])[:, None]
    assert right.mean() > 0.75


def test_every_scene_and_format_is_a_picture_of_its_own():
    frames = np.stack([render(s, f, np.random.default_rng(3)) for s, f in CLASSES]).astype(np.int16)
    for one, other in ((a, b) for a in range(len(frames)) for b in range(a)):
        # Equal draws: any difference is the scene's or the format's.
        changed = np.abs(frames[one] - frames[other]).max(-1) > 20
        assert changed.mean() > 0.02, (CLASSES[one], CLASSES[other])


def test_two_lives_of_one_scene_differ_and_equal_draws_do_not():
    one, same, other = (render(0, 0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (np.abs(one.astype(int) - other) > 20).mean() > 0.02


@pytest.mark.parametrize("size", [16, 32, 64, 96])
def test_a_frame_has_the_size_asked_for(size: int):
    frame = render(3, 1, np.random.default_rng(0), size)
    assert frame.shape == (size, size, 3) and frame.dtype == np.uint8
    with Image.open(io.BytesIO(jpeg(frame))) as image:
        assert (image.format, image.size) == ("JPEG", (size, size))


@pytest.mark.parametrize(("scene", "format_id"), [(len(SCENES), 0), (0, len(FORMATS))])
def test_an_unknown_scene_or_format_is_an_error(scene: int, format_id: int):
    with pytest.raises(IndexError):
        render(scene, format_id, np.random.default_rng(0))
