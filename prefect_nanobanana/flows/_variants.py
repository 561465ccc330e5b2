"""Prompts that are asked for again, as people have rejected all their images."""

# No `from __future__ import annotations` here, as in every module of the flows.

import re
from collections.abc import Collection, Mapping, Sequence

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.references import is_private, split_hash
from prefect_nanobanana.flows._caller import outermost_flow
from prefect_nanobanana.models import MAX_QUANTITY, Credits, ImagePrompt
from prefect_nanobanana.picks import ImageId, Pick
from prefect_nanobanana.report import GalleryItem

_VARIANT = re.compile(r"(.+) variant ([1-9])", re.DOTALL)


def variants_of(
    items: Sequence[GalleryItem],
    decided: Mapping[ImageId, Pick],
    most: int,
    own_references: str,
    asked: Collection[str],
) -> tuple[list[ImagePrompt], list[str]]:
    """Say what to ask for: new variants, and those that an earlier run has not brought to an end.

    What is asked comes from records, which whoever may write the bucket may have written: references are
    web addresses, or the batch's own copies, and never other objects or files of this machine.

    Args:
        items: The batch's outcomes.
        decided: What people have decided.
        most: How many times a prompt is asked for again.
        own_references: The address of the folder of the batch's own references.
        asked: The names of variants that this run has asked for already.

    Returns:
        The prompts, and why others are not asked for.
    """
    names = {item.outcome.prompt.name for item in items}
    found: dict[str, ImagePrompt] = {}
    problems = []
    for item in items:
        prompt, provenance = item.outcome.prompt, item.provenance
        if provenance is None:
            continue
        match = _VARIANT.fullmatch(prompt.name or "")
        if match and int(match[2]) <= most and item.outcome.status in ("failed", "unknown", "skipped"):
            found[str(prompt.name)] = prompt  # its images may wait, or it was never charged
            continue
        known = [decided.get(key) if key else None for key in item.image_ids]
        if not known or not all(pick is not None and not pick.picked for pick in known):
            continue
        number = int(match[2]) + 1 if match else 1
        named = prompt.name or f"{slug(prompt.prompt, 40)}-{provenance.key[:8]}"
        name = f"{match[1] if match else named} variant {number}"
        if number > most or name in names:
            continue
        request = provenance.request
        urls = [_reference(url, own_references) for url in request.reference_image_urls]
        if None in urls:
            problems.append(
                f"{name!r}: a reference image is neither on the web nor the batch's own copy"
            )
            continue
        found[name] = ImagePrompt(
            prompt=request.prompt,
            name=name,
            model=request.model,
            aspect_ratio=request.aspect_ratio,
            quantity=max(1, min(MAX_QUANTITY, request.quantity)),
            reference_image_urls=[url for url in urls if url is not None],
        )
    return [prompt for name, prompt in found.items() if name not in asked], problems


def own_variants(items: Sequence[GalleryItem], run_id: str) -> list[GalleryItem]:
    """The variants that a run has asked for."""
    outermost = outermost_flow()
    above = outermost.flow_run if outermost is not None else None
    runs = {run_id, str(above.id) if above is not None else run_id}
    return [
        item
        for item in items
        if item.provenance is not None
        and item.provenance.flow_run_id in runs
        and _VARIANT.fullmatch(item.outcome.prompt.name or "")
    ]


def spent_on(variants: Sequence[GalleryItem]) -> Credits:
    """What they have cost at worst, in credits."""
    return sum(item.outcome.credits_used + item.outcome.credits_at_risk for item in variants)


def _reference(url: str, own: str) -> str | None:
    if not is_private(url):
        return url
    uri, _ = split_hash(url)
    return uri if uri.startswith(own) and "/" not in uri.removeprefix(own) else None
