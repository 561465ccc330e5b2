"""What the API answers to a request, and what is stored of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from prefect_nanobanana.models.base import Credits, Frozen
from prefect_nanobanana.models.prompts import DEFAULT_MODEL

Mode = Literal["sync", "async", "stream"]
GenerationStatus = Literal["completed", "warning", "failed"]


DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for what a model has made, which all of the API's images are."""
URL_LIFETIME_DAYS = 15
"""After this the API's image URLs are dead (vendor's documentation)."""


class Generation(Frozen):
    """What the API made of one request.

    Attributes:
        status: `completed`, `warning` (the safety check refused it: paid, no image), or `failed`.
        generation_id: The API's id, if it named one.
        image_urls: Where the images are, for 15 days (vendor's documentation).
        credits_used: What it cost in credits; None if the API did not say.
        remaining_credits: What the account had left after it; None if the API did not say.
        message: The API's words, for a warning or a failure.
        model: The model that was asked.
        mode: How it was asked.
    """

    status: GenerationStatus
    generation_id: str | None = None
    image_urls: tuple[str, ...] = ()
    credits_used: Credits | None = None
    remaining_credits: Credits | None = None
    message: str | None = None
    model: str = DEFAULT_MODEL
    mode: Mode = "sync"


class Submission(Frozen):
    """A generation that the API has begun, and whose end can be asked for by its id.

    Attributes:
        generation_id: The API's id.
        credits_used: What it cost in credits; None if the API did not say.
        remaining_credits: What the account had left after it; None if the API did not say.
        model: The model that was asked.
        mode: How it was asked.
    """

    generation_id: str
    credits_used: Credits | None = None
    remaining_credits: Credits | None = None
    model: str = DEFAULT_MODEL
    mode: Mode = "async"


class StoredImage(Frozen):
    """An image in S3.

    Attributes:
        uri: `s3://bucket/key`.
        key: The whole key, the bucket's folder included.
        content_type: From its bytes, as `image/png`.
        size_bytes: Its size in bytes.
        sha256: The hash of its bytes, in hexadecimal.
        width: In pixels, as a person sees it; 0 if it was not checked.
        height: The same.
        source_url: Where it was fetched from; a `data:` URL is cut short.
        checked: Whether it was decoded and is known to be a whole picture. If not, it is a film or of a
            kind that cannot be checked here, stored as its host served it.
        marks: What the file says of where it comes from: `c2pa`, and `iptc:` with IPTC's digital source
            type.
        perceptual_hash: What it looks like, in 16 hexadecimal digits: those of pictures that look alike
            differ in few bits. None if no small picture was made of it.
    """

    uri: str
    key: str
    content_type: str
    size_bytes: int
    sha256: str
    width: int
    height: int
    source_url: str
    checked: bool = True
    marks: tuple[str, ...] = ()
    perceptual_hash: str | None = None

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Written only where it says something, so that what earlier versions wrote stays as it is.
        written: dict[str, Any] = handler(self)
        if self.checked:
            written.pop("checked", None)
        for name in ("marks", "perceptual_hash"):
            if not written.get(name):
                written.pop(name, None)
        return written
