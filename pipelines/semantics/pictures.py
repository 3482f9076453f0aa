"""Frames from bytes that anybody may have made: bounded before they are decoded, and made smaller once, as they are.

Bytes are mostly JPEG, whose decoder can give a picture at an eighth of its size; of other formats every pixel has to be
held, so that they may have fewer of them.
"""

import contextlib
import io
import warnings

from PIL import Image, ImageOps, WebPImagePlugin

from pipelines.semantics.image_sizes import MAX_ASPECT, ImageSizes

FORMATS = ("JPEG", "PNG", "GIF", "BMP", WebPImagePlugin.WebPImageFile.format)
"""What is read. Pillow knows more, some of which run other programs."""
MAX_PIXELS = 40_000_000
"""Most that are decoded of one frame; of a JPEG, after it was made smaller in decoding."""


def looked_at(data: bytes) -> Image.Image:
    """A picture of which only the header is read.

    Raises ValueError, OSError or one of Pillow's errors for what is no picture, for a bomb and for a strip.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # half a bomb: we look at the size ourselves
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"{image.width} x {image.height} pixels: wanted sides that differ less")
    return image


def opened(data: bytes, size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture that is ready to decode, at `size` or larger where its format can be made smaller in decoding.

    Raises what `looked_at` raises, and ValueError for one of too many pixels.
    """
    image = looked_at(data)
    whole = f"{image.width} x {image.height} pixels of {image.format}"
    image.draft(mode, size)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{whole}: wanted at most {MAX_PIXELS:,} pixels to decode; store smaller frames, as JPEG")
    return image


def rgb(image: Image.Image) -> Image.Image:
    """Pixels as models read them, as vLLM decodes them: upright, what is transparent on white."""
    with contextlib.suppress(Exception):  # an orientation that cannot be read is none
        image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def grey(data: bytes, side: int) -> Image.Image:
    """A frame as `side` x `side` grey pixels. Raises what `opened` raises."""
    with opened(data, (side * 2, side * 2), "L") as image:
        # A palette may hold transparency, which Pillow only drops by way of RGBA.
        flat = image.convert("RGBA") if image.mode == "P" else image
        return flat.convert("L").resize((side, side))


def grey_frame(size: tuple[int, int]) -> bytes:
    """A JPEG that shows nothing."""
    sink = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(sink, "JPEG")
    return sink.getvalue()


def decoded(data: bytes) -> Image.Image:
    """The pixels of a frame that `fitted` gave."""
    with looked_at(data) as image:
        return rgb(image)


def fitted(data: bytes, images: ImageSizes, tokens: int) -> bytes:
    """A frame that costs a model at most `tokens`: the same bytes, or a smaller PNG where it has more pixels than that.

    The size is one that the model's processor leaves as it is. Raises what `opened` raises.
    """
    width, height = looked_at(data).size
    size = images.read_at(width, height, tokens)
    longest = MAX_ASPECT * min(size)  # rounding to blocks can make a strip of what was none
    size = (min(size[0], longest), min(size[1], longest))
    if width * height <= size[0] * size[1]:
        return data
    with opened(data, size) as image:
        drafted, small = image.size, rgb(image)
    if (drafted[0] < drafted[1]) != (small.width < small.height):  # it lay on its side
        size = (size[1], size[0])
    sink = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(sink, "PNG", compress_level=1)
    return sink.getvalue()
