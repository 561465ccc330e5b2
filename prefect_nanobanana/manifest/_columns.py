"""The columns of a manifest, version 1: what there is of each prompt, and of each image.

Names are lower case, digits and underscores, as Athena and BigQuery take them. Every column is in every
row; it is null where there is nothing to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SCHEMA_VERSION = 1
"""It rises when a column changes its meaning or goes; within a version there may be new ones."""

Simple = Literal["string", "int64", "double", "boolean", "timestamp"]
"""A timestamp is in UTC, to the microsecond; in JSON it is text, as `2026-11-25T09:30:00.123456Z`."""


@dataclass(frozen=True)
class ListOf:
    """A list; it may be empty.

    Attributes:
        item: The type of what is in it.
    """

    item: Type


@dataclass(frozen=True)
class Struct:
    """An object with columns of its own.

    Attributes:
        columns: Its columns.
    """

    columns: tuple[Column, ...]


Type = Simple | ListOf | Struct


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: Its name.
        type: Of its values.
        about: What it says.
    """

    name: str
    type: Type
    about: str


_VARIABLES = Column(
    "variables",
    ListOf(
        Struct(
            (
                Column("name", "string", "The variable's name."),
                Column("value", "string", "What it stood for."),
            )
        )
    ),
    "What the variables of the prompt's template stood for.",
)
_SCHEMA = Column("schema_version", "int64", "Of these columns: 1.")
_BATCH = Column("batch", "string", "The batch's name.")
_KEY = Column(
    "prompt_key", "string", "The prompt's key, the same in all runs: joins images and prompts."
)
_POSITION = Column(
    "position", "int64", "Its place in the manifest, from 1: first comes the list, as it was given."
)
_STATUS = Column("status", "string", "`stored`, `warning`, `failed`, `unknown` or `skipped`.")
_TEXT = Column("prompt_text", "string", "The text that was asked for.")
_NAME = Column("prompt_name", "string", "The prompt's own name.")
_ASKED = (
    Column("model", "string", "The model that was asked last."),
    Column("aspect_ratio", "string", "As it was asked for, as `16:9`."),
    Column("quantity", "int64", "How many images were asked for."),
    _VARIABLES,
    Column(
        "reference_keys",
        ListOf("string"),
        "The reference images: web addresses without signatures, and `s3://` addresses and paths with "
        "the hash of what they held.",
    ),
    Column("flow", "string", "The flow that had it asked for: the outermost one in its process."),
    Column("deployment", "string", "That flow's deployment."),
    Column("flow_run_id", "string", "The id of that flow's run."),
    Column("account", "string", "What tells accounts apart; it does not give away the key."),
    Column("asked_at", "timestamp", "When the last request left."),
)
_GENERATION_ID = Column("generation_id", "string", "The API's id of what it made.")
_FILE = (
    Column("uri", "string", "Where the image is: `s3://bucket/key`."),
    Column("key", "string", "The same without the bucket."),
    Column("content_type", "string", "From its bytes, as `image/png`."),
    Column("size_bytes", "int64", "Its size."),
    Column("sha256", "string", "The hash of its bytes, in hexadecimal."),
    Column("width", "int64", "In pixels, as a person sees it; null of what was not checked."),
    Column("height", "int64", "The same."),
    Column("source_url", "string", "Where it was fetched from, without signature; dead after 15 days."),
    Column(
        "checked",
        "boolean",
        "Whether it was decoded and is a whole picture; false of films, as an example.",
    ),
    Column("place", "int64", "Which of the prompt's images it is, from 1."),
    Column("stored_at", "timestamp", "When it was in S3."),
    Column(
        "earlier",
        "boolean",
        "Whether an earlier request than the last made it: what that one asked is not said.",
    ),
    Column("digital_source_type", "string", "IPTC's term for what a model has made, as an address."),
    Column(
        "marks",
        ListOf("string"),
        "What the file itself says of where it comes from: `c2pa` (a manifest, not checked), and "
        "`iptc:` with the digital source type.",
    ),
    Column("perceptual_hash", "string", "What it looks like, in 16 hexadecimal digits (a dHash)."),
    Column("similar_to", "string", "The `key` of an earlier image of the batch that looks the same."),
    Column(
        "derived",
        ListOf(
            Struct(
                (
                    Column("uri", "string", "Where the copy is."),
                    Column("key", "string", "The same without the bucket."),
                    Column("content_type", "string", "As `image/webp`."),
                    Column("width", "int64", "In pixels."),
                    Column("height", "int64", "In pixels."),
                    Column("size_bytes", "int64", "Its size."),
                    Column("sha256", "string", "The hash of its bytes."),
                )
            )
        ),
        "Smaller copies of it, made by `derive_sizes`.",
    ),
    Column("alt_text", "string", "What it shows, for people who do not see it; see `describe_images`."),
    Column("caption", "string", "What may stand below it."),
    Column("removed_at", "timestamp", "When it was moved away or deleted; null of what is there."),
    Column("moved_to", "string", "Where it was moved: an `s3://` address."),
    Column("picked", "boolean", "What people decided: kept or rejected; null if nobody has yet."),
    Column("pick_note", "string", "What they noted."),
    Column("picked_at", "timestamp", "When that was taken over."),
)

PROMPT_COLUMNS: tuple[Column, ...] = (
    _SCHEMA,
    _BATCH,
    _KEY,
    _POSITION,
    _STATUS,
    _TEXT,
    _NAME,
    *_ASKED,
    Column("stored_at", "timestamp", "When its last image was in S3."),
    _GENERATION_ID,
    Column("credits_used", "double", "What it has cost, in credits, earlier requests for it included."),
    Column(
        "credits_at_risk", "double", "What may have been paid besides, for requests without an answer."
    ),
    Column("credits_estimated", "boolean", "Whether the cost is an estimate, as the API did not say."),
    Column("reused", "boolean", "Whether another run than the one that wrote this had it asked for."),
    Column("by_other_run", "boolean", "Whether that run was at work at the same time."),
    Column(
        "credits_own", "double", "Of `credits_used`, what the last run has paid before another asked."
    ),
    Column("message", "string", "Why, for everything that is not plainly stored."),
    Column(
        "prompt",
        Struct(
            (
                Column("prompt", "string", "The text."),
                Column("name", "string", "Its own name."),
                Column("model", "string", "Instead of the generator's."),
                Column("aspect_ratio", "string", "Instead of the generator's."),
                Column("quantity", "int64", "Instead of the generator's."),
                Column("reference_image_urls", ListOf("string"), "Instead of the generator's."),
            )
        ),
        "The prompt as it was given.",
    ),
    Column(
        "generation",
        Struct(
            (
                Column("status", "string", "`completed`, `warning` or `failed`."),
                Column("generation_id", "string", "The API's id."),
                Column("image_urls", ListOf("string"), "Where the images were, for 15 days."),
                Column("credits_used", "double", "What the API said that it cost."),
                Column("remaining_credits", "double", "What the account had left, by the API."),
                Column("message", "string", "The API's words."),
                Column("model", "string", "The model that was asked."),
                Column("mode", "string", "`sync`, `async` or `stream`."),
            )
        ),
        "What the API answered last.",
    ),
    Column("images", ListOf(Struct(_FILE)), "Its images in S3; the same are rows of the images' table."),
    Column(
        "tries",
        ListOf(
            Struct(
                (
                    Column("model", "string", "Which model was asked."),
                    Column("status", "string", "What became of it."),
                    Column("credits_used", "double", "What it cost, in credits."),
                    Column("credits_at_risk", "double", "What it may have cost besides."),
                    Column("images", "int64", "How many images it yielded that are in S3."),
                )
            )
        ),
        "All requests for it, where there were several.",
    ),
)
"""Of `manifest.jsonl` and `prompts.parquet`: a row for each prompt."""

IMAGE_COLUMNS: tuple[Column, ...] = (
    _SCHEMA,
    _BATCH,
    _KEY,
    _POSITION,
    *_FILE,
    _STATUS,
    _TEXT,
    _NAME,
    *_ASKED,
    _GENERATION_ID,
    Column(
        "prompt_credits_used",
        "double",
        "What its prompt has cost, all its images together, in credits: add up prompts, not images.",
    ),
)
"""Of `images.jsonl` and `images.parquet`: a row for each image."""
