"""The account's request slots."""

from prefect_nanobanana.slots._account import Slots, slots_for

__all__ = ["Slots", "slots_for"]
