"""Tell people what needs them: credits run low, warnings pile up, a run failed, or waits for approval.

    python deployments/automations.py --webhook nanobanana

makes four automations in the Prefect server in use (`PREFECT_API_URL`), which call the Webhook block of
that name; `--notify slack-webhook/art-team` takes a notification block instead. Run again, it brings
them up to date, and leaves a paused one paused. What they send is said in docs/deployments.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation, EventTrigger
from prefect.client.orchestration import get_client
from prefect.events.actions import ActionTypes, CallWebhook, SendNotification
from prefect.exceptions import ObjectNotFound

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
            f"GalleryItem at most every {QUIET_HOURS} hours per account.",
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


def webhook(name: str) -> Callable[[Notice], ActionTypes]:
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
        ValueError: If it is no notification block, or its name has no type.
    """
    kind, _, name = slug.partition("/")
    if not name:
        raise ValueError(f"--notify takes type and name of a block, as slack-webhook/{slug}")
    block = _block(kind, name, "notify")

    def action(notice: Notice) -> ActionTypes:
        return SendNotification(block_document_id=block, subject=notice.name, body=notice.text)

    return action


def _block(kind: str, name: str, capability: str) -> UUID:
    with get_client(sync_client=True) as client:
        block = client.read_block_document_by_name(name, kind)
    schema = block.block_schema
    if capability and (schema is None or capability not in schema.capabilities):
        raise ValueError(f"{kind}/{name} is no notification block")
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


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make automations that tell people what needs them.")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--webhook", metavar="BLOCK", help="name of a Webhook block to call")
    how.add_argument("--notify", metavar="TYPE/BLOCK", help="a notification block to send through")
    parser.add_argument("--warnings", type=int, default=10, help="how many are many (default: 10)")
    parser.add_argument("--minutes", type=int, default=60, help="in how many minutes (default: 60)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make the automations.

    Returns:
        0, or 2 if the block cannot be used.
    """
    options = parse(argv)
    try:
        action = webhook(options.webhook) if options.webhook else notification(options.notify)
    except ObjectNotFound:
        print(f"there is no such block: {options.webhook or options.notify}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for notice in notices(options.warnings, options.minutes):
        save(notice, action(notice))
        print(notice.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
