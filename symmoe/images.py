"""Images from clients: decoded, scaled down and re-encoded before an expert sees them."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

from symmoe.errors import RequestError
from symmoe.limits import IMAGE_BYTES, IMAGE_PIXELS, IMAGE_SIDE
from symmoe.types import Message, Picture, Query

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""What is decoded, by Pillow's names; anything else is no image here, and none of these holds a program."""
_DATA = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.ASCII)


def is_data(url: str) -> bool:
    """Whether a URL contains its image itself."""
    return url.startswith("data:")


def data_in(url: str) -> bytes:
    """The bytes of an image's data URL. Raises `RequestError`."""
    head = _DATA.match(url)
    if head is None:
        raise refused("a data URL of an image begins with data:image/png;base64, or the like")
    if (len(url) - head.end()) * 3 // 4 > IMAGE_BYTES:
        raise refused(f"an image has at most {IMAGE_BYTES} bytes")
    try:
        return b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused("the data URL is not valid base64") from error


def looked_at(raw: bytes) -> str:
    """An image's bytes re-encoded as a data URL: upright, its first frame, at most `IMAGE_SIDE` pixels a side.

    Uses no more memory than `IMAGE_PIXELS` need, whatever the bytes claim. Raises `RequestError`.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(raw), formats=FORMATS) as image:
            width, height = image.size
            if width * height > IMAGE_PIXELS:
                raise refused(f"an image of {width} by {height} is too large: {IMAGE_PIXELS} pixels are the most")
            photo = image.format == "JPEG"
            image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
            upright = ImageOps.exif_transpose(image)
            return _written(upright.convert("RGB" if photo else _mode(upright)), "JPEG" if photo else "PNG")
    except RequestError:
        raise
    except Exception as error:  # a decoder raises what it likes for bytes that are no image
        names = ", ".join(FORMATS)
        raise refused(f"it cannot be read as an image: {names} can") from error


def opened(url: str) -> Image:
    """The image in a data URL of `looked_at`, as models take it."""
    from PIL import Image

    with Image.open(BytesIO(b64decode(url.partition(",")[2])), formats=FORMATS) as image:
        return image.convert("RGB")


def settled(query: Query) -> Query:
    """The query with its images checked and re-encoded; all of them must be data URLs. Raises `RequestError`."""
    return showing(query, [looked_at(data_in(picture.url)) for picture in query.images])


def showing(query: Query, urls: list[str]) -> Query:
    """The query with its images replaced by these, in order."""
    left = iter(urls)

    def turn(message: Message) -> Message:
        return replace(message, images=tuple(Picture(next(left), each.at) for each in message.images))

    return replace(query, messages=tuple(turn(message) if message.images else message for message in query.messages))


def refused(why: str) -> RequestError:
    """The error for an image that is not accepted."""
    return RequestError(f"image_url: {why}", code="invalid_image", param="messages")


def _mode(image: Image) -> str:
    """Transparent images stay so."""
    return "RGBA" if image.has_transparency_data else "RGB"


def _written(image: Image, form: str) -> str:
    file = BytesIO()
    image.save(file, form, **({"quality": 95} if form == "JPEG" else {"compress_level": 1}))
    return f"data:image/{form.lower()};base64,{b64encode(file.getvalue()).decode()}"
