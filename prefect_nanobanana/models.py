"""The values that the package hands around. Those that it hands to users are frozen."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from prefect_nanobanana._common.amounts import exact_sum
from prefect_nanobanana._common.text import shortened

Mode = Literal["sync", "async", "stream"]
GenerationStatus = Literal["completed", "warning", "failed"]
OutcomeStatus = Literal["stored", "warning", "failed", "unknown", "skipped"]

Credits = int | float
"""The API says "number"; whole in every example seen (seed document)."""

DEFAULT_MODEL = "nano-banana"
"""What the API takes when no model is named (seed document)."""
DEFAULT_ASPECT_RATIO = "default"
MAX_QUANTITY = 4
"""Images per generation; the API clamps to 1..4 (vendor's documentation)."""
MAX_PROMPT_CHARACTERS = 8000
"""Our own bound, to catch a file pasted into a cell; the API documents none."""


def refuse_half_characters(value: str) -> str:
    """Refuse text that cannot be written as UTF-8.

    Raises:
        ValueError: If it holds half of a character, as JSON of careless programs does.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} is half of one (a lone surrogate): write the text anew"
        ) from None
    return value


Text = Annotated[str, AfterValidator(refuse_half_characters)]


def clean_reference_urls(urls: list[str]) -> list[str]:
    """Strip the URLs and check that each is http(s).

    Raises:
        ValueError: If one is not an http(s) URL; the message says which and what is expected.
    """
    cleaned = [url.strip() for url in urls]
    for url in cleaned:
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError(
                f"{shortened(url, 80)!r} is not a web address: the API fetches references itself, so "
                "each must be an http:// or https:// URL that it can reach"
            )
    return cleaned


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImagePrompt(_Frozen):
    """What to draw, and what to draw it with where that differs from the generator block.

    Attributes:
        prompt: The text to draw.
        name: A name of your own; it names the files, and the prompt keeps its identity (and what was
            already paid for it) when its text changes.
        model: Overrides the generator's model.
        aspect_ratio: Overrides the generator's aspect ratio.
        quantity: Overrides the generator's number of images (1 to 4).
        reference_image_urls: Overrides the generator's reference images.
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
        description="Instead of the generator's; web addresses that the API can fetch.",
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


class ImageRequest(_Frozen):
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


class Generation(_Frozen):
    """What the API made of one request.

    Attributes:
        status: `completed`, `warning` (the safety check refused it: paid, no image), or `failed`.
        generation_id: The API's id, if it named one.
        image_urls: Where the images are, for 15 days (vendor's documentation).
        credits_used: What it cost in credits; None if the API did not say.
        remaining_credits: What the account had left after it; None if the API did not say.
        message: The API's words, for a warning or a failure.
        model: The model that was asked.
        mode: How it was asked.
    """

    status: GenerationStatus
    generation_id: str | None = None
    image_urls: tuple[str, ...] = ()
    credits_used: Credits | None = None
    remaining_credits: Credits | None = None
    message: str | None = None
    model: str = DEFAULT_MODEL
    mode: Mode = "sync"


class Submission(_Frozen):
    """A generation that the API has begun, and whose end can be asked for by its id.

    Attributes:
        generation_id: The API's id.
        credits_used: What it cost in credits; None if the API did not say.
        remaining_credits: What the account had left after it; None if the API did not say.
        model: The model that was asked.
        mode: How it was asked.
    """

    generation_id: str
    credits_used: Credits | None = None
    remaining_credits: Credits | None = None
    model: str = DEFAULT_MODEL
    mode: Mode = "async"


class StoredImage(_Frozen):
    """An image in S3.

    Attributes:
        uri: `s3://bucket/key`.
        key: The whole key, the bucket's folder included.
        content_type: From its bytes, as `image/png`.
        size_bytes: Its size in bytes.
        sha256: The hash of its bytes, in hexadecimal.
        width: In pixels.
        height: In pixels.
        source_url: Where it was fetched from; a `data:` URL is cut short.
        checked: Whether it was found to be a whole picture; a film, for one, is stored unchecked.
    """

    uri: str
    key: str
    content_type: str
    size_bytes: int
    sha256: str
    width: int
    height: int
    source_url: str
    checked: bool = True


class Outcome(_Frozen):
    """What became of one prompt of a run.

    Attributes:
        position: Its place in the list, from 1.
        prompt: The prompt; its text is `.prompt`.
        status: `stored` (all its images are in S3), `warning` (paid, refused by the safety check),
            `failed`, `unknown` (asked, maybe paid, no answer), `skipped` (never asked).
        generation: What the API made of it, if it was asked and answered.
        images: Its images in S3.
        credits_used: What it cost in credits, by this run or, if `reused`, by an earlier one.
        credits_at_risk: What may have been paid besides: the price of each request without an answer.
        credits_estimated: Whether `credits_used` is an estimate, as the API did not say.
        reused: Whether it was an earlier run of the batch that asked for it.
        message: Why, for everything but `stored`.
    """

    position: int
    prompt: ImagePrompt
    status: OutcomeStatus
    generation: Generation | None = None
    images: tuple[StoredImage, ...] = ()
    credits_used: Credits = 0
    credits_at_risk: Credits = 0
    credits_estimated: bool = False
    reused: bool = False
    message: str | None = None


class RunReport(_Frozen):
    """What a run did, and what it cost in credits.

    Attributes:
        batch: The name of the piece of work.
        prompts: How many prompts there were; the five counts that follow add up to it.
        stored: Prompts whose images are all in S3.
        warnings: Prompts that the safety check refused; paid.
        failed: Prompts that failed, or whose images could not be copied.
        unknown: Prompts that were asked and maybe paid, without an answer.
        skipped: Prompts that were never asked.
        images: Images in S3.
        credits_used: Paid by this run, warnings and failed generations included.
        credits_reused: Paid by earlier runs of the batch for what this one reused.
        credits_without_image: The part of `credits_used` that no stored image came of.
        remaining_credits: What the account has left, as last seen.
        balance_before: The account's credits before the run; None if it could not be read.
        balance_after: The account's credits after the run; None if it could not be read.
        manifest_uri: `s3://` address of `manifest.jsonl`.
        gallery_uri: `s3://` address of `index.html`.
        outcomes: One per prompt, in the order of the list.
        unpublished: What of the run could not be published, as `index.html`; the log says why.
    """

    batch: str
    prompts: int
    stored: int
    warnings: int
    failed: int
    unknown: int
    skipped: int
    images: int
    credits_used: Credits
    credits_reused: Credits
    credits_without_image: Credits
    remaining_credits: Credits | None
    balance_before: Credits | None
    balance_after: Credits | None
    manifest_uri: str | None
    gallery_uri: str | None
    outcomes: tuple[Outcome, ...]
    unpublished: tuple[str, ...] = ()

    @property
    def credits_unexplained(self) -> Credits | None:
        """Credits that the account lost and this run does not account for; None if not known."""
        if self.balance_before is None or self.balance_after is None:
            return None
        return exact_sum((self.balance_before, -self.balance_after, -self.credits_used))

    @property
    def credits_at_risk(self) -> Credits:
        """What this run may have paid besides `credits_used`, at worst: requests without an answer."""
        return exact_sum(o.credits_at_risk for o in self.outcomes if not o.reused)

    @property
    def prompts_estimated(self) -> int:
        """Prompts of which the API did not say what they cost this run."""
        return sum(1 for o in self.outcomes if o.credits_estimated and not o.reused)

    @property
    def credits_of_others(self) -> Credits | None:
        """Credits that somebody else spent from the account meanwhile, at least; None if not known.

        While a cost is an estimate, what the account lost besides may be of that, and is nobody else's.
        """
        gap = self.credits_unexplained
        if gap is None or self.prompts_estimated:
            return None
        return max(0, exact_sum((gap, -self.credits_at_risk)))

    @property
    def credits_by_status(self) -> dict[str, Credits]:
        """What was paid, split by outcome: `reused` by earlier runs, the rest by this one."""
        split: dict[str, Credits] = dict.fromkeys((*get_args(OutcomeStatus), "reused"), 0)
        for outcome in self.outcomes:
            end = "reused" if outcome.reused else outcome.status
            split[end] = exact_sum((split[end], outcome.credits_used))
        return split


class PendingReport(_Frozen):
    """What `copy_pending` found, and what became of it.

    Attributes:
        batches: The batches in which images were owed.
        generations: Paid generations whose images were not all in S3.
        images: Images that were copied now.
        waiting: Generations that still owe images; the next run tries them again.
        lost: Generations whose images are gone: their URLs died before they were copied.
        credits_lost: What the lost ones had cost, in credits.
        messages: One line per generation that still owes images or lost them.
    """

    batches: tuple[str, ...]
    generations: int
    images: int
    waiting: int
    lost: int
    credits_lost: Credits
    messages: tuple[str, ...] = ()


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


def describe_errors(error: Any) -> list[str]:
    """Say pydantic's errors as `field: what is wrong`, without the values, which may be secret."""
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        # Union branches put the branch's name into the location; only field names help a person.
        place = ".".join(str(p) for p in item["loc"] if not str(p).startswith(("constrained", "is-")))
        text = item["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {text}" if place else text)
    return lines
