"""What is known of a batch's images besides their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prefect_nanobanana.derived import DerivedImage
from prefect_nanobanana.descriptions import DescribedImage
from prefect_nanobanana.picks import ImageId, Pick
from prefect_nanobanana.retention import RemovedImage


@dataclass(frozen=True)
class Besides:
    """What is known of images besides their records.

    Attributes:
        bucket: The address of the bucket, as `s3://bucket/`.
        picks: What people have decided.
        derived: Smaller copies, by the image's key.
        removed: What was moved away or deleted, by the image's key.
        descriptions: What is said of images, by the hash of their bytes.
    """

    bucket: str = "s3:///"
    picks: Mapping[ImageId, Pick] = field(default_factory=dict)
    derived: Mapping[str, Sequence[DerivedImage]] = field(default_factory=dict)
    removed: Mapping[str, RemovedImage] = field(default_factory=dict)
    descriptions: Mapping[str, DescribedImage] = field(default_factory=dict)
