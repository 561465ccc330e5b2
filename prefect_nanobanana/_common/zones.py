"""Time zones by the names that people give them."""

from __future__ import annotations

from zoneinfo import ZoneInfo


def find_zone(name: str) -> ZoneInfo | None:
    """The time zone of a name, as `Europe/Berlin`; None if there is none."""
    try:
        return ZoneInfo(name.strip())
    except (KeyError, ValueError, OSError):  # the last for names of folders, as "Europe"
        return None
