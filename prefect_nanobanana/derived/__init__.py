"""What was made of a batch's images besides: smaller copies."""

from prefect_nanobanana.derived._file import DERIVED, DerivedImage, DerivedImages

__all__ = ["DERIVED", "DerivedImage", "DerivedImages"]
