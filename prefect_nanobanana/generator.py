"""The block that says how images are made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from prefect.blocks.abstract import JobBlock
from pydantic import ConfigDict, Field, ValidationError, field_validator

from prefect_nanobanana._common.dispatch import async_dispatch
from prefect_nanobanana.client import GenerationHooks
from prefect_nanobanana.credentials import DOCUMENTATION_URL, LOGO_URL, NanoBananaCredentials
from prefect_nanobanana.errors import InvalidInput
from prefect_nanobanana.generation_run import GenerationRun
from prefect_nanobanana.models import (
    DEFAULT_ASPECT_RATIO,
    DEFAULT_MODEL,
    MAX_QUANTITY,
    Credits,
    Generation,
    ImageModel,
    ImagePrompt,
    ImageRequest,
    Mode,
    Submission,
    clean_reference_urls,
    describe_errors,
    prompt_problems,
)


class NanoBananaGenerator(JobBlock):  # type: ignore[type-arg]  # a parametrized model is a block type more
    """Says how images are made: with which account, model, aspect ratio and references.

    Attributes:
        credentials: The account that pays.
        model: The model's name, as `GET /models` lists it.
        mode: How the API is asked: `sync`, `async` or `stream`.
        aspect_ratio: As `16:9`.
        quantity: How many images per prompt, 1 to 4.
        reference_image_urls: Images to start from; see `ImagePrompt`.

    Example:
        Load a stored generator and have an image made:
        ```python
        from prefect_nanobanana import NanoBananaGenerator

        generator = NanoBananaGenerator.load("BLOCK_NAME")
        print(generator.generate("a lighthouse in fog").image_urls)
        ```

        Begin a generation, and fetch it later, from its id alone if need be:
        ```python
        run = generator.trigger("a lighthouse in fog")
        run.wait_for_completion()
        print(run.generation_id, run.fetch_result().image_urls)
        ```
    """

    _block_type_name = "Nano Banana Generator"
    _block_type_slug = "nano-banana-generator"
    _logo_url = LOGO_URL  # type: ignore[assignment]  # Prefect checks and converts it
    _documentation_url = DOCUMENTATION_URL  # type: ignore[assignment]
    _description = "Says how images are made: with which account, model, aspect ratio and references."

    model_config = ConfigDict(hide_input_in_errors=True)

    credentials: NanoBananaCredentials = Field(title="Credentials", description="The account that pays.")
    model: str = Field(
        default=DEFAULT_MODEL,
        title="Model",
        description="The model's name, as the API lists it.",
    )
    mode: Mode = Field(
        default="sync",
        title="Mode",
        description="How the API is asked: sync waits for the image in one request; async submits, "
        "frees the account's slot at once, and survives a crash; stream tells of its progress.",
    )
    aspect_ratio: str = Field(
        default=DEFAULT_ASPECT_RATIO,
        title="Aspect ratio",
        description="As 1:1, 2:3, 3:2 or 16:9; default leaves it to the model.",
    )
    quantity: int = Field(
        default=1,
        ge=1,
        le=MAX_QUANTITY,
        title="Images per prompt",
        description="How many images each prompt yields, 1 to 4; each costs credits.",
    )
    reference_image_urls: list[str] = Field(
        default_factory=list,
        title="Reference images",
        description="Images to start from: web addresses, or s3:// ones that the bucket block can read.",
    )

    @field_validator("model", "aspect_ratio")
    @classmethod
    def _has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("must not be empty: remove it to take the default")
        return value.strip()

    @field_validator("reference_image_urls")
    @classmethod
    def _references_are_urls(cls, value: list[str]) -> list[str]:
        return clean_reference_urls(value)

    def request(self, prompt: str | ImagePrompt, **overrides: Any) -> ImageRequest:
        """Fill in a prompt with this generator's settings.

        Args:
            prompt: The text, or a prompt with settings of its own.
            **overrides: `model`, `aspect_ratio`, `quantity`, `reference_image_urls`; they win over both.

        Returns:
            What the API will be asked.

        Raises:
            InvalidInput: If a value is wrong; the message names the field.
        """
        try:
            given = ImagePrompt(prompt=prompt) if isinstance(prompt, str) else prompt
            given = ImagePrompt.model_validate({**given.model_dump(), **overrides})
        except ValidationError as error:
            raise InvalidInput(*describe_errors(error)) from None
        quantity = given.quantity or self.quantity
        if self.mode == "stream" and quantity > 1:
            raise InvalidInput(
                f"quantity: stream mode makes one image, not {quantity}: set it to 1, or the generator "
                "to sync or async"
            )
        references = given.reference_image_urls
        request = ImageRequest(
            prompt=given.prompt,
            model=given.model or self.model,
            aspect_ratio=given.aspect_ratio or self.aspect_ratio,
            quantity=quantity,
            reference_image_urls=tuple(self.reference_image_urls if references is None else references),
        )
        if problems := prompt_problems(request):
            raise InvalidInput(*problems)
        return request

    def generate(
        self,
        prompt: str | ImagePrompt,
        *,
        hooks: GenerationHooks | None = None,
        witness: GenerationHooks | None = None,
        **overrides: Any,
    ) -> Generation:
        """Have images made. Costs credits, whether images come of it or not.

        Args:
            prompt: The text, or a prompt with settings of its own.
            hooks: Is told before a request leaves, and what came of it.
            witness: The former name of `hooks`; goes with the next version.
            **overrides: `model`, `aspect_ratio`, `quantity`, `reference_image_urls`.

        Returns:
            The generation; a refusal by the safety check is one with `status="warning"`.

        Raises:
            InvalidInput: If a value is wrong; nothing was sent.
            NotCharged: If the API refused it, or was not reached for as long as the client tries.
            UnknownOutcome: If no usable answer came; maybe charged, and not sent again.
        """
        told, request = _hooks(hooks, witness), self.request(prompt, **overrides)
        with self.credentials.get_client() as client:
            return client.generate(**dict(request), mode=self.mode, hooks=told)

    async def agenerate(
        self,
        prompt: str | ImagePrompt,
        *,
        hooks: GenerationHooks | None = None,
        witness: GenerationHooks | None = None,
        **overrides: Any,
    ) -> Generation:
        """Have images made, from async code; see `generate`.

        Raises:
            InvalidInput: If a value is wrong; nothing was sent.
            NotCharged: If the API refused it, or was not reached for as long as the client tries.
            UnknownOutcome: If no usable answer came; maybe charged, and not sent again.
        """
        told, request = _hooks(hooks, witness), self.request(prompt, **overrides)
        async with self.credentials.get_async_client() as client:
            return await client.generate(**dict(request), mode=self.mode, hooks=told)

    async def atrigger(self, prompt: str | ImagePrompt, **overrides: Any) -> GenerationRun:
        """Begin a generation in async mode, from async code; see `trigger`.

        Raises:
            InvalidInput: If a value is wrong; nothing was sent.
            NotCharged: If the API refused it, or was not reached for as long as the client tries.
            UnknownOutcome: If no usable answer came; maybe charged, and not sent again.
        """
        request = self.request(prompt, **overrides)
        async with self.credentials.get_async_client() as client:
            return _run_of(self.credentials, await client.submit(**dict(request)))

    @async_dispatch(atrigger)
    def trigger(self, prompt: str | ImagePrompt, **overrides: Any) -> GenerationRun:  # type: ignore[override]
        """Begin a generation in async mode, whatever the block's own mode. Costs credits.

        From async code this returns an awaitable, as Prefect's job blocks do; `atrigger` always does.

        Args:
            prompt: The text, or a prompt with settings of its own.
            **overrides: `model`, `aspect_ratio`, `quantity`, `reference_image_urls`.

        Returns:
            The run; its `generation_id` is all that is needed to fetch the result later.

        Raises:
            InvalidInput: If a value is wrong; nothing was sent.
            NotCharged: If the API refused it, or was not reached for as long as the client tries.
            UnknownOutcome: If no usable answer came; maybe charged, and not sent again.
        """
        request = self.request(prompt, **overrides)
        with self.credentials.get_client() as client:
            return _run_of(self.credentials, client.submit(**dict(request)))

    def wait(
        self,
        submission: Submission,
        *,
        elapsed_seconds: float | None = None,
        hooks: GenerationHooks | None = None,
        witness: GenerationHooks | None = None,
    ) -> Generation:
        """Wait for the end of a generation that was begun earlier. Costs nothing.

        Args:
            submission: What was submitted.
            elapsed_seconds: How long ago that was, in seconds, if it is known.
            hooks: Is told of the end.
            witness: The former name of `hooks`; goes with the next version.

        Raises:
            StillRunning: If it has not ended in time.
        """
        with self.credentials.get_client() as client:
            told = _hooks(hooks, witness)
            return client.wait(submission, elapsed_seconds=elapsed_seconds, hooks=told)

    def generation_run(self, generation_id: str, mode: Mode = "async") -> GenerationRun:
        """Return the run of a generation that was begun earlier, on any machine.

        Args:
            generation_id: The API's id of it.
            mode: How it was asked; `trigger` asks in async mode.
        """
        return GenerationRun(self.credentials, generation_id, model=self.model, mode=mode)

    def estimate_credits(
        self, *prompts: str | ImagePrompt, models: Sequence[ImageModel] | None = None
    ) -> Credits | None:
        """Say what prompts will cost, by the prices that the API lists. Costs nothing.

        Args:
            *prompts: The prompts.
            models: The models, if they are known already; else the API is asked.

        Returns:
            Credits; None if the API does not list the price of a model.

        Raises:
            ApiError: If the models cannot be read.
        """
        if models is None:
            with self.credentials.get_client() as client:
                models = client.models()
        listed = {model.name: model for model in models}
        requests = [self.request(prompt) for prompt in prompts]
        costs = [r.cost(listed[r.model]) if r.model in listed else None for r in requests]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None


def _run_of(credentials: NanoBananaCredentials, found: Submission | Generation) -> GenerationRun:
    if isinstance(found, Submission):
        return GenerationRun(credentials, found.generation_id, submission=found)
    return GenerationRun(credentials, found.generation_id or "", result=found)


def _hooks(hooks: GenerationHooks | None, witness: GenerationHooks | None) -> GenerationHooks | None:
    if witness is not None:
        warnings.warn("witness= is called hooks= now", FutureWarning, stacklevel=3)
    return hooks or witness
