"""`nanobanana automations`: tell people that credits run low, or that a run failed or waits for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation, EventTrigger
from prefect.client.orchestration import get_client
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.exceptions import ObjectNotFound

from prefect_nanobanana.errors import InvalidInput

FLOWS = ["generate_images", "generate_in_parts", "daily_images", "copy_pending"]
QUIET_HOURS = 6
LINK = "{% set link = flow_run | ui_url %}{% if link %} {{ link }}{% endif %}"


@dataclass(frozen=True)
class Notice:
    """What is told, and when.

    Attributes:
        name: Of the automation.
        description: What it is for, as shown in the UI.
        trigger: When.
        text: What, as a Jinja template over the event.
    """

    name: str
    description: str
    trigger: EventTrigger
    text: str


def notices(warnings: int, minutes: int) -> list[Notice]:
    """Say what is told.

    Args:
        warnings: How many warnings are many,
        minutes: in how many minutes.
    """
    return [
        Notice(
            "Nano Banana: credits are low",
            "After a run the account has fewer credits than its credentials block calls low. "
            f"At most every {QUIET_HOURS} hours per account.",
            EventTrigger(
                expect={"nanobanana.credits.low"},
                match={"prefect.resource.id": "nanobanana.account.*"},
                for_each={"prefect.resource.id"},
                threshold=1,
                within=timedelta(hours=QUIET_HOURS),
            ),
            "The Nano Banana account has {{ event.payload.remaining_credits }} credits left, fewer than "
            "{{ event.payload.low_credits }}, after batch {{ event.payload.batch }}. "
            "Without credits the prompts that are left are skipped; the same batch again asks for them.",
        ),
        Notice(
            "Nano Banana: many warnings",
            f"The safety check refused {warnings} prompts within {minutes} minutes. Each costs credits "
            "and yields no image.",
            EventTrigger(
                expect={"nanobanana.image.warning"},
                match={"prefect.resource.id": "nanobanana.batch.*"},
                threshold=warnings,
                within=timedelta(minutes=minutes),
            ),
            f"The safety check refused {warnings} prompts within {minutes} minutes; each cost credits "
            "and yielded no image. One of them was prompt {{ event.payload.position }} of batch "
            "{{ event.payload.batch }}: {{ event.payload.prompt }}",
        ),
        Notice(
            "Nano Banana: a run failed",
            "A run ended as Failed or Crashed. What was stored stays stored; Retry goes on from there.",
            EventTrigger(
                expect={"prefect.flow-run.*"},
                match={
                    "prefect.resource.id": "prefect.flow-run.*",
                    # By type: a run that timed out is a failed one with another name.
                    "prefect.state-type": ["FAILED", "CRASHED"],
                    # The run inside a daily run: that one is told of already.
                    "prefect.resource.name": "!images of *",
                },
                match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
                threshold=1,
                within=timedelta(0),
            ),
            "{{ flow.name }} run {{ flow_run.name }} ended as {{ flow_run.state.name }}: "
            "{{ flow_run.state.message }}" + LINK,
        ),
        Notice(
            "Nano Banana: a run waits for approval",
            "A run would cost more than its `approve_above`, and waits until a person approves or "
            "refuses it.",
            EventTrigger(
                expect={"prefect.flow-run.Suspended"},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
                threshold=1,
                within=timedelta(0),
            ),
            "{{ flow.name }} run {{ flow_run.name }} would cost more than needs no approval. Its "
            "artifact says how much; to approve or refuse it, choose Resume on its page." + LINK,
        ),
    ]


def call_webhook(name: str) -> Callable[[Notice], ActionTypes]:
    """Call a Webhook block with a JSON object; chat services show its `text`.

    Raises:
        ObjectNotFound: If there is no such block.
    """
    block = _block("webhook", name, "")

    def action(notice: Notice) -> ActionTypes:
        # A prompt may hold quotes and line breaks: each value is made JSON as a whole.
        payload = (
            "{% set text %}" + notice.text + "{% endset %}"
            '{"automation": {{ automation.name | tojson }}, "text": {{ text | string | tojson }}, '
            '"event": {{ event.event | tojson }}, "payload": {{ event.payload | tojson }}}'
        )
        return CallWebhook(block_document_id=block, payload=payload)

    return action


def notification(slug: str) -> Callable[[Notice], ActionTypes]:
    """Send through a notification block, as `slack-webhook/art-team`.

    Raises:
        ObjectNotFound: If there is no such block.
        InvalidInput: If it is no notification block, or its name has no type.
    """
    kind, _, name = slug.partition("/")
    if not name:
        raise InvalidInput(f"--notify takes type and name of a block, as slack-webhook/{slug}")
    block = _block(kind, name, "notify")

    def action(notice: Notice) -> ActionTypes:
        return SendNotification(block_document_id=block, subject=notice.name, body=notice.text)

    return action


def _block(kind: str, name: str, capability: str) -> UUID:
    with get_client(sync_client=True) as client:
        block = client.read_block_document_by_name(name, kind)
    schema = block.block_schema
    if capability and (schema is None or capability not in schema.capabilities):
        raise InvalidInput(f"{kind}/{name} is no notification block")
    return block.id


def save(notice: Notice, action: ActionTypes) -> Automation:
    """Create an automation, or bring the one of this name up to date."""
    wanted = Automation(
        name=notice.name,
        description=notice.description,
        trigger=notice.trigger,
        actions=[action],
    )
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(notice.name)
    if not there:
        wanted.create()
        return wanted
    wanted.id, wanted.enabled = there[0].id, there[0].enabled
    wanted.update()
    return wanted


def automations(
    *,
    webhook: str | None = None,
    notify: str | None = None,
    warnings: int = 10,
    minutes: int = 60,
) -> int:
    """Make automations that tell people: credits run low, warnings pile up, a run failed or waits.

    They are made in the Prefect server in use. Run again, this brings them up to date, and leaves a
    paused one paused.

    Args:
        webhook: The name of a Webhook block to call.
        notify: Type and name of a notification block to send through, as slack-webhook/art-team.
        warnings: How many warnings are many.
        minutes: In how many minutes.
    """
    if (webhook is None) == (notify is None):
        raise InvalidInput("give --webhook or --notify: who is told?")
    try:
        action = call_webhook(webhook) if webhook else notification(notify or "")
    except ObjectNotFound:
        raise InvalidInput(f"there is no such block: {webhook or notify}") from None
    for notice in notices(warnings, minutes):
        save(notice, action(notice))
        print(notice.name)
    return 0
