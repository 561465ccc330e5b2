"""Copies of pictures for tests, and what stores were asked."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from prefect_aws import S3Bucket
from servers import FaultyS3, Seen

from prefect_nanobanana import StorageOptions
from prefect_nanobanana.images import Copier
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.sandbox.pictures import draw

PNG = draw("a cat", seed="1", longest=96)
JPEG = draw("a dog", seed="2", longest=96, image_format="jpeg")
WEBP = draw("a bird", seed="3", longest=96, image_format="webp")


def gif() -> bytes:
    """A small GIF."""
    out = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(out, "GIF")
    return out.getvalue()


def copy_image(
    bucket: S3Bucket,
    url: str,
    key: str = "images/x",
    retry: float = 0.3,
    options: StorageOptions | None = None,
    thumbnail: bool = False,
    **metadata: str,
) -> Any:
    """Copy one image from this machine."""
    patient = (options or StorageOptions()).model_copy(update={"retry_for_seconds": retry})
    opened = ObjectStore(bucket, patient)
    with Copier.for_bucket(opened, ["127.0.0.1"]) as copier:
        return copier.copy(url, opened.key(key), metadata, thumbnail=thumbnail)


def opaque(_: Seen, headers: dict[str, str]) -> None:
    """Answer as a store that makes its tags in a way of its own."""
    for name in headers:
        if name.lower() == "etag":
            headers[name] = '"of-its-own-0"'


def of_images(proxy: FaultyS3, method: str) -> list[Seen]:
    """The requests that were about images."""
    return [seen for seen in proxy.seen if seen.method == method and "/images/" in seen.path]
