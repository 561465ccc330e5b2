"""Alternative texts and captions of a batch's images, which functions of yours make."""

from prefect_nanobanana.descriptions._describers import (
    Description,
    ImageToDescribe,
    describer,
    find_describer,
)
from prefect_nanobanana.descriptions._file import DESCRIPTIONS, DescribedImage, Descriptions

__all__ = [
    "DESCRIPTIONS",
    "DescribedImage",
    "Description",
    "Descriptions",
    "ImageToDescribe",
    "describer",
    "find_describer",
]
