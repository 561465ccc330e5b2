"""The functions that describe images, by name.

A run names a function; which ones there are, the installed packages say. So whoever may start a run
cannot have any other code run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.models import StoredImage, Text

GROUP = "prefect_nanobanana.describers"
"""The group of entry points in which packages name their functions."""
PROMPT = "prompt"
_MOST_ALT_TEXT = 1_000


class Description(BaseModel):
    """What is said of an image.

    Attributes:
        alt_text: For people who do not see it: what it shows, in a sentence or two.
        caption: What stands below it; None for nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

    alt_text: Annotated[Text, Field(min_length=1, max_length=_MOST_ALT_TEXT)] | None = None
    caption: Annotated[Text, Field(min_length=1, max_length=5_000)] | None = None


@dataclass(frozen=True)
class ImageToDescribe:
    """An image that is to be described.

    Attributes:
        image: What is stored: its address, type, size in bytes and pixels.
        prompt: The text that was asked for.
        name: The prompt's own name, if it has one.
        read: Reads the image's bytes from the bucket.
    """

    image: StoredImage
    prompt: str
    name: str | None
    read: Callable[[], bytes]


Describer = Callable[[ImageToDescribe], Description]
_HERE: dict[str, Describer] = {}


def describer(name: str) -> Callable[[Describer], Describer]:
    """Make a function known to runs in this process: a decorator.

    For workers, name it in a package's entry points, in the group `prefect_nanobanana.describers`.

    Args:
        name: By which runs name it.
    """

    def register(function: Describer) -> Describer:
        _HERE[name] = function
        return function

    return register


def find_describer(name: str) -> Describer:
    """Find a function by its name.

    Args:
        name: `prompt` says what was asked for; others are said by this process, or by packages.

    Raises:
        InvalidInput: If there is none, or it cannot be imported.
    """
    if name in _HERE:
        return _HERE[name]
    offered = entry_points(group=GROUP)
    for entry in offered:
        if entry.name == name:
            try:
                found: Describer = entry.load()
            except Exception as error:
                raise InvalidInput(f"describer: {name!r} cannot be imported: {error!r}") from None
            return found
    if name == PROMPT:
        return _prompt
    known = ", ".join(sorted({PROMPT, *_HERE, *(entry.name for entry in offered)}))
    raise InvalidInput(
        f"describer: there is no {name!r}: there are {known}; packages name theirs in the entry points "
        f"{GROUP}"
    )


def _prompt(image: ImageToDescribe) -> Description:
    return Description(alt_text=image.prompt[:_MOST_ALT_TEXT].strip() or None)
