"""What several commands ask for: prompts, the account, and where the pictures go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator, PromptTemplate
from prefect_nanobanana.errors import InvalidInput


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Where the pictures go."""

    bucket: str
    """The S3 bucket."""
    folder: Annotated[str, Parameter(show_default=False)] = ""
    """A folder in the bucket."""
    endpoint_url: str | None = None
    """An S3 store other than AWS, as http://127.0.0.1:9000."""
    region: str | None = None
    """The bucket's region."""

    def block(self) -> S3Bucket:
        """The bucket as a block, with the credentials that AWS's own tools would find."""
        parameters = AwsClientParameters(endpoint_url=self.endpoint_url)
        return S3Bucket(
            bucket_name=self.bucket,
            bucket_folder=self.folder,
            credentials=AwsCredentials(region_name=self.region, aws_client_parameters=parameters),
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """How pictures are made."""

    model: str = "nano-banana"
    """Which model makes them."""
    aspect_ratio: str = "default"
    """As 16:9."""
    quantity: int = 1
    """Pictures per prompt, 1 to 4."""
    reference: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """An image to start from: a web or s3:// address, or a file as ./cat.png; may be repeated."""
    mode: Literal["sync", "async", "stream"] = "sync"
    """How the API is asked; async survives a crash without losing a picture."""
    fallback_model: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A model that is asked if the others refuse, each at its price; may be repeated."""
    requests_at_once: int = 1
    """What the account may have open."""

    def generator(self) -> NanoBananaGenerator:
        """The generator block, with the key of the environment."""
        return NanoBananaGenerator(
            credentials=NanoBananaCredentials.from_env(max_concurrent_requests=self.requests_at_once),
            model=self.model,
            mode=self.mode,
            aspect_ratio=self.aspect_ratio,
            quantity=self.quantity,
            reference_image_urls=list(self.reference),
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Work:
    """What is asked for, and within which bounds."""

    prompt: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    """A prompt; may be repeated."""
    max_credits: int | None = None
    """The most that this run may spend."""
    budget: str | None = None
    """What all runs that name it may spend together, as 500/month; kept in the bucket."""
    ask_again: Annotated[
        tuple[Literal["warnings", "failed", "unknown"], ...],
        Parameter(negative=(), show_default=False, consume_multiple=True),
    ] = ()
    """What earlier runs of the batch asked, and is asked, and paid, again."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Template:
    """Prompts with variables."""

    template: str | None = None
    """The text of prompts, with columns of the list or variables of the matrix: "{cup} on {desk}"."""
    matrix: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = field(default=())
    """Values of a variable, as desk=slate,oak: a prompt for every combination; may be repeated."""
    exclude: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = field(default=())
    """A combination to leave out, as product=cup,desk=oak; may be repeated."""
    limit: int | None = None
    """Make at most so many prompts of the template."""

    def value(self) -> PromptTemplate | None:
        """The template that the options describe, if they do.

        Raises:
            InvalidInput: If one of them cannot be read.
            ValidationError: If they do not fit each other.
        """
        if self.template is None and not self.matrix:
            if self.exclude or self.limit:
                raise InvalidInput("--exclude and --limit need --template or --matrix")
            return None
        named = [_named(each) for each in self.matrix]
        if len({name for name, _ in named}) < len(named):
            raise InvalidInput("--matrix has a name twice: give all its values at once, as desk=a,b")
        matrix = {name: values.split(",") for name, values in named}
        exclude = [dict(map(_named, each.split(","))) for each in self.exclude]
        return PromptTemplate(text=self.template, matrix=matrix, exclude=exclude, limit=self.limit)


def _named(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"{text!r} has no name: write it as product=cup,bowl")
    return name.strip(), value
