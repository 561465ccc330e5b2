"""What people have picked of a batch's images: kept, rejected, or not decided yet."""

from prefect_nanobanana.picks._file import PICKS, Picks
from prefect_nanobanana.picks._handed_over import MOST_BYTES, Decision, read_decisions
from prefect_nanobanana.picks._pick import ImageId, Pick

__all__ = ["MOST_BYTES", "PICKS", "Decision", "ImageId", "Pick", "Picks", "read_decisions"]
