"""Events that automations can wait for; docs/events.md lists them with their payloads.

Prefect sends them in the background. One that cannot be made or sent raises nothing: Prefect logs it.
"""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from prefect_nanobanana._common.text import shortened, without_signatures
from prefect_nanobanana.models import Credits, Outcome, RunReport, StoredImage, json_number

IMAGE_STORED = "nanobanana.image.stored"
IMAGE_WARNING = "nanobanana.image.warning"
IMAGE_FAILED = "nanobanana.image.failed"
BATCH_PUBLISHED = "nanobanana.batch.published"
RUN_FINISHED = "nanobanana.run.finished"
CREDITS_LOW = "nanobanana.credits.low"


def emit_image_stored(
    batch: str, position: int, prompt: str, credits: Credits, image: StoredImage
) -> None:
    """Tell that an image is in S3.

    Args:
        batch: The batch's name.
        position: The prompt's place in the list, from 1.
        prompt: Its text.
        credits: What the prompt's generation has cost, all its images together, in credits.
        image: What is stored.
    """
    payload = {
        **_prompt(batch, position, prompt, credits),
        **image.model_dump(mode="json", exclude={"source_url"}),
    }
    emit_event(IMAGE_STORED, batch_resource(batch), payload=payload)


def emit_image_missing(batch: str, outcome: Outcome) -> None:
    """Tell that a prompt has ended without all its images: as a warning, or failed.



    Args:
        batch: The batch's name.
        outcome: The prompt's end.
    """
    generation = outcome.generation
    payload = {
        **_prompt(batch, outcome.position, outcome.prompt.prompt, outcome.credits_used),
        "status": outcome.status,
        "message": without_signatures(outcome.message) if outcome.message else None,
        "model": generation.model if generation else None,
        "generation_id": generation.generation_id if generation else None,
    }
    name = IMAGE_WARNING if outcome.status == "warning" else IMAGE_FAILED
    emit_event(name, batch_resource(batch), payload=payload)


def emit_run_finished(report: RunReport, summary: str) -> None:
    """Tell that a run has ended, whatever its end.

    Args:
        report: Its report.
        summary: The same in one line.
    """
    emit_event(
        RUN_FINISHED, batch_resource(report.batch), payload={**numbers(report), "summary": summary}
    )


def emit_batch_published(report: RunReport) -> None:
    """Tell that a batch's gallery and manifest were written anew, and not at the end of a run.

    Args:
        report: What its records say.
    """
    emit_event(BATCH_PUBLISHED, batch_resource(report.batch), payload=numbers(report))


def numbers(report: RunReport) -> dict[str, Any]:
    """The report without its outcomes, for events and the asset."""
    left_out = {"outcomes"} if report.unpublished else {"outcomes", "unpublished"}
    return report.model_dump(mode="json", exclude=left_out)


def emit_credits_low(account: str, batch: str, remaining: Credits, bound: Credits) -> None:
    """Tell that an account has few credits left.

    Args:
        account: What tells accounts apart, without giving away the key.
        batch: The batch after which it was noticed.
        remaining: What the account has, in credits.
        bound: What it was to have at least, in credits.
    """
    resource = {
        "prefect.resource.id": f"nanobanana.account.{account}",
        "prefect.resource.name": f"Nano Banana account {account}",
    }
    payload = {
        "batch": batch,
        "remaining_credits": json_number(remaining),
        "low_credits": json_number(bound),
    }
    emit_event(CREDITS_LOW, resource, payload=payload)


def batch_resource(batch: str) -> dict[str, str]:
    """The resource that events of a batch are about."""
    return {"prefect.resource.id": f"nanobanana.batch.{batch}", "prefect.resource.name": batch}


def _prompt(batch: str, position: int, prompt: str, credits: Credits) -> dict[str, Any]:
    return {
        "batch": batch,
        "position": position,
        "prompt": shortened(prompt),
        "credits_used": json_number(credits),
    }
