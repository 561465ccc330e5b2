"""The JSON of the API's contract: what a request asks for, and what answers say of a generation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from prefect_nanobanana.sandbox.account import GenerationRow, SandboxModel


def read_request(body: bytes, models: Mapping[str, SandboxModel]) -> dict[str, Any] | str:
    """Read the body of `POST /generate`.

    Args:
        body: As it arrived.
        models: Those on offer, by name.

    Returns:
        The arguments of `Account.charge`, or what is wrong with the request.
    """
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return "The body must be a JSON object"
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        return "prompt is required"
    model = models.get(fields.get("selectedModel") or "nano-banana")
    if model is None:
        return f"Unknown model: {fields['selectedModel']}"
    references = fields.get("referenceImageUrls") or []
    if not isinstance(references, list) or not all(isinstance(r, str) for r in references):
        return "referenceImageUrls must be a list of strings"
    if references and not model.supports_image_input:
        return f"{model.name} does not take reference images"
    quantity = fields.get("quantity", 1)
    if isinstance(quantity, bool) or not isinstance(quantity, int):
        return "quantity must be a number"
    mode = fields.get("mode", "sync")
    if mode not in ("sync", "stream", "async"):
        return f"Unknown mode: {mode}"
    return {
        "prompt": prompt,
        "model": model.name,
        "mode": mode,
        "quantity": 1 if mode == "stream" else min(4, max(1, quantity)),
        "references": references,
        "aspect_ratio": str(fields.get("aspectRatio") or "default"),
    }


def result_body(row: GenerationRow, urls: list[str], remaining: int, envelope: bool) -> dict[str, Any]:
    """Answer of a sync request, and the last event of a stream.

    Args:
        row: The generation, which has ended.
        urls: Addresses of its images.
        remaining: The account's credits.
        envelope: Whether it comes wrapped in `data`, as public clients have seen.
    """
    credits = {"creditsUsed": row.credits, "remainingCredits": remaining}
    if envelope:
        data: dict[str, Any] = {
            "id": row.generation_id,
            "outputImageUrls": urls or None,
            "modelUsed": row.model,
        }
        data["processingStatus"] = "completed" if row.status == "completed" else "failed"
        if row.message:
            data["errorMessage"] = row.message
        if row.status == "warning":
            data["warning"] = True
        return {"data": {**data, **credits}}
    if row.status == "completed":
        return {"success": True, "generationId": row.generation_id, "imageUrls": urls, **credits}
    failure: dict[str, Any] = {"success": False, "generationId": row.generation_id, **credits}
    if row.status == "warning":
        return {**failure, "warning": True, "message": row.message}
    return {**failure, "error": row.message}


def submitted_body(row: GenerationRow, remaining: int) -> dict[str, Any]:
    """Answer of an async request."""
    return {
        "success": True,
        "async": True,
        "generationId": row.generation_id,
        "message": "Generation started",
        "creditsUsed": row.credits,
        "remainingCredits": remaining,
    }


def status_body(row: GenerationRow, url: Callable[[str], str]) -> dict[str, Any]:
    """Answer of `GET /generate?id=`; `url` makes an image's path an address."""
    data: dict[str, Any] = {
        "id": row.generation_id,
        "prompt": row.prompt,
        "outputImageUrls": [url(path) for path in row.files] or None,
        "modelUsed": row.model,
        "processingStatus": "failed" if row.status == "warning" else row.status,
        "creditsUsed": row.credits,
        "createdAt": datetime.fromtimestamp(row.created_at, UTC).isoformat(),
    }
    if row.message:
        data["errorMessage"] = row.message
    return {"data": data}
