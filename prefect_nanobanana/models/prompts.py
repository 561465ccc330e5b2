"""What the API is asked for: prompts, requests, and the models that it offers."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_nanobanana._common.characters import can_be_seen, control_problem
from prefect_nanobanana._common.references import bare_reference, is_private, reference_problem
from prefect_nanobanana.models.base import Credits, Frozen, Text

DEFAULT_MODEL = "nano-banana"
"""What the API takes when no model is named (seed document)."""
DEFAULT_ASPECT_RATIO = "default"
MAX_QUANTITY = 4
"""Images per generation; the API clamps to 1..4 (vendor's documentation)."""
MAX_PROMPT_CHARACTERS = 8000
"""Our own bound, to catch a file pasted into a cell; the API documents none."""
_FILMS = re.compile(r"video|seedance|jimeng|grok-imagine", re.IGNORECASE)
_TIME = re.compile(r"0\d:\d\d|\d\d?:0\d|\d\d?:\d\d(:\d\d|\s*[AP]M)+", re.IGNORECASE)
"""What spreadsheets make of 16:9 and 2:3."""


def clean_reference_urls(urls: list[str]) -> list[str]:
    """Strip the URLs and check that each is one of the web, an `s3://` address, or a local path.

    Raises:
        ValueError: If one is not; the message says which and what is expected.
    """
    cleaned = [url.strip() for url in urls]
    for url in cleaned:
        if not url.lower().startswith(("http://", "https://")) and not is_private(url):
            raise ValueError(reference_problem(url))
    return cleaned


class ImagePrompt(Frozen):
    """What to draw, and what to draw it with where that differs from the generator block.

    Attributes:
        prompt: The text to draw.
        name: A name of your own; it names the files, and the prompt keeps its identity (and what was
            already paid for it) when its text changes.
        model: Overrides the generator's model.
        aspect_ratio: Overrides the generator's aspect ratio.
        quantity: Overrides the generator's number of images (1 to 4).
        reference_image_urls: Overrides the generator's reference images: web addresses that the API can
            fetch; in the flows also `s3://` addresses and local files, as `./cat.png`.
    """

    # Prefect's form shows this, else all of the docstring.
    model_config = ConfigDict(
        json_schema_extra={"description": "What to draw, and what differs from the generator block."}
    )

    # Titles label the form in Prefect's UI, which shows class names where they are missing.
    prompt: Text = Field(title="Prompt", description="The text to draw.")
    name: Text | None = Field(
        default=None,
        title="Name",
        description="A name of your own; it names the files.",
    )
    model: Text | None = Field(
        default=None, title="Model", description="Instead of the generator's model."
    )
    aspect_ratio: Text | None = Field(
        default=None, title="Aspect ratio", description="Instead of the generator's, as 16:9."
    )
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] | None = Field(
        default=None, title="Images", description="Instead of the generator's, 1 to 4."
    )
    reference_image_urls: list[Text] | None = Field(
        default=None,
        title="Reference images",
        description="Instead of the generator's: web addresses that the API can fetch, or s3:// ones.",
    )

    @field_validator("prompt")
    @classmethod
    def _prompt_has_text(cls, value: str) -> str:
        value = value.strip()
        if not value:
            raise ValueError("the prompt is empty: say what to draw, or remove it")
        if len(value) > MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"the prompt has {len(value)} characters: shorten it to at most {MAX_PROMPT_CHARACTERS}"
            )
        return value

    @field_validator("name", "model", "aspect_ratio")
    @classmethod
    def _blank_is_none(cls, value: str | None) -> str | None:
        # Forms and CSV cells send "" for "not set".
        return (value or "").strip() or None

    @field_validator("reference_image_urls")
    @classmethod
    def _references_are_urls(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else clean_reference_urls(value)


def unsigned_prompt(prompt: ImagePrompt) -> ImagePrompt:
    """The prompt without userinfo and signatures of addresses, as it may be shown and kept."""
    if not prompt.reference_image_urls:
        return prompt
    urls = [bare_reference(url) for url in prompt.reference_image_urls]
    return prompt.model_copy(update={"reference_image_urls": urls})


class ImageRequest(Frozen):
    """A prompt with the generator's settings filled in: what the API is asked.

    Attributes:
        prompt: The text to draw.
        model: The model's name.
        aspect_ratio: As `16:9`.
        quantity: How many images.
        reference_image_urls: Images to start from.
    """

    prompt: str
    model: str = DEFAULT_MODEL
    aspect_ratio: str = DEFAULT_ASPECT_RATIO
    quantity: int = 1
    reference_image_urls: tuple[str, ...] = ()

    def cost(self, model: ImageModel) -> Credits | None:
        """What it costs in credits, by the vendor's formula; None if the model's price is unknown."""
        if model.credits_cost is None:
            return None
        return (model.credits_cost + max(0, len(self.reference_image_urls) - 1)) * self.quantity


def prompt_problems(prompt: ImagePrompt | ImageRequest) -> list[str]:
    """Say what of a prompt the API cannot be asked for: control characters, addresses that cannot work.

    A model takes them, since what earlier versions have asked for, paid and recorded is read, too.
    """
    texts = {
        field: getattr(prompt, field, None) for field in ("prompt", "name", "model", "aspect_ratio")
    }
    problems = {field: control_problem(text) for field, text in texts.items() if text is not None}
    told = [f"{field}: {problem}" for field, problem in problems.items() if problem]
    if not problems["prompt"] and not can_be_seen(prompt.prompt):
        told.append("prompt: holds nothing that can be seen: say what to draw, or remove it")
    if _TIME.fullmatch(prompt.aspect_ratio or ""):
        told.append(
            f"aspect_ratio: {prompt.aspect_ratio!r} is a time, as spreadsheets make of 16:9: format the "
            "column as text, and write it anew"
        )
    references = map(reference_problem, prompt.reference_image_urls or ())
    return told + [f"reference_image_urls: {problem}" for problem in references if problem]


class ImageModel(BaseModel):
    """A model that the API offers, from `GET /models` (vendor's documentation).

    Attributes:
        name: What to ask for.
        display_name: What to show.
        credits_cost: Credits per image.
        supports_image_input: Whether it takes reference images.
        supports_aspect_ratio: Whether it takes an aspect ratio.
        requires_pro: Whether the account needs a paid plan for it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    display_name: str = ""
    credits_cost: Credits | None = None
    supports_image_input: bool = True
    supports_aspect_ratio: bool = True
    requires_pro: bool = False

    @property
    def makes_films(self) -> bool:
        """Whether it makes films, by its name: the catalogue does not say (seen in public clients)."""
        return bool(_FILMS.search(f"{self.name} {self.display_name}"))
