"""The bytes of an image in S3, as its record knows them."""

# No `from __future__ import annotations` here, as in every module of the flows.

import hashlib

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import StoredImage
from prefect_nanobanana.s3 import ObjectStore


def read_image(store: ObjectStore, image: StoredImage) -> bytes:
    """Read an image, and see that it is what its record says.

    Raises:
        InvalidInput: If it is not.
        StorageError: If it cannot be read.
    """
    content = b"".join(store.read(image.key))
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise InvalidInput("is not what was stored: its hash is another")
    return content
