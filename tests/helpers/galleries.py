"""Batches to make gallery pages of, in a folder as they lie in a bucket."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prefect_nanobanana import Generation, ImagePrompt, Outcome, StoredImage
from prefect_nanobanana.images._picture import inspect
from prefect_nanobanana.manifest._jsonl import jsonl
from prefect_nanobanana.manifest._rows import prompt_rows
from prefect_nanobanana.report._gallery import gallery_page
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._report import build_report
from prefect_nanobanana.s3._store import ObjectStore
from prefect_nanobanana.sandbox.pictures import draw

PIXELS = 320
"""More than a preview has, so that the two can be told apart."""

LINES = "First line\n    an indented one\n\nand the last, after a blank"
HEBREW = "שלום עולם, ציור של מגדלור"
PROMPTS = [
    "<img src=x onerror=alert(1)>|**b**",
    "\"><script>alert(2)</script>' onmouseover='alert(3)",
    "</p></summary></details></article></main></body><svg/onload=alert(4)>",
    "</script><script>alert(5)</script><!-- ]]> --!>",
    "{{ 7 * 7 }} {% raw %} ${alert(6)} &amp; &lt;b&gt; &#60;",
    "# [x](javascript:alert(7)) ~~s~~ `c` $x$ \\ | --- |",
    LINES,
    HEBREW,
    "منارة في الضباب، ألوان مائية",
    "a sign that reads שלום and then مرحبا, on a door",
    "\u202ean override that nobody ends",
    "🦊👩\u200d🚀 a fox on a stamp",
    "x" * 4000,
    "a harbour at dusk, with boats, gulls and nets, " * 85,
]
"""All that has ever broken a page."""


@functools.cache
def picture(seed: int) -> tuple[bytes, str]:
    """A picture, and its preview."""
    content = draw(f"picture {seed}", seed=str(seed), longest=PIXELS)
    return content, inspect(io.BytesIO(content)).thumbnail


def image(key: str, content: bytes = b"") -> StoredImage:
    return StoredImage(
        uri=f"s3://pictures/{key}",
        key=key,
        content_type="image/png",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        width=PIXELS,
        height=PIXELS,
        source_url="https://images.example/1",
    )


def gallery_item(
    position: int, prompt: str = "a cat", status: Any = "stored", pictures: int = 1, **changes: Any
) -> GalleryItem:
    """An outcome and its previews, of pictures that `write` puts into the folder."""
    stored = range(pictures) if status == "stored" else range(0)
    made = [picture((position + n) % 5) for n in stored]
    fields: dict[str, Any] = {
        "images": tuple(
            image(f"f/b/images/{position}-{n}.png", content) for n, (content, _) in enumerate(made)
        ),
        "credits_used": {"stored": pictures, "warning": 1}.get(status, 0),
        "message": None if status == "stored" else f"why it is {status}",
        **changes,
    }
    settings = fields.pop("settings", {})
    outcome = Outcome(
        position=position, prompt=ImagePrompt(prompt=prompt, **settings), status=status, **fields
    )
    return GalleryItem(outcome, tuple(preview for _, preview in made))


def page(items: Sequence[GalleryItem], prompts: int | None = None, **changes: Any) -> str:
    """The page of a batch `b` in the folder `f`; `prompts` of its items are this run's."""
    its = items[:prompts]
    used = sum(i.outcome.credits_used for i in its if not i.outcome.reused)
    settings: dict[str, Any] = {
        "balance_before": 10_000,
        "balance_after": 10_000 - used,
        "manifest_uri": "s3://pictures/f/b/manifest.jsonl",
        "gallery_uri": "s3://pictures/f/b/index.html",
        **changes,
    }
    block: Any = SimpleNamespace(bucket_name="pictures", bucket_folder="f")
    report = build_report("b", len(its), its, **settings)
    return gallery_page(report, items, ObjectStore(block)).decode()


def manifest(items: Sequence[GalleryItem]) -> bytes:
    """The manifest of a batch `b`."""
    return jsonl(prompt_rows("b", items))


def write(folder: Path, items: Sequence[GalleryItem]) -> Path:
    """Put the page and its pictures into a folder.

    Returns:
        The page.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for item in items:
        for n, stored in enumerate(item.outcome.images):
            content, _ = picture((item.outcome.position + n) % 5)
            (folder / "images" / stored.key.rpartition("/")[2]).write_bytes(content)
    (folder / "manifest.jsonl").write_text("{}\n")
    (folder / "index.html").write_text(page(items), "utf-8")
    return folder / "index.html"


def dozens() -> list[GalleryItem]:
    """24 prompts with every kind of end."""
    generation = Generation(status="completed", generation_id="gen_1", model="nano-banana-pro")
    ends = {4: "warning", 6: "failed", 11: "unknown", 13: "warning", 24: "skipped"}
    items = [gallery_item(n, f"a cat, number {n}", ends.get(n, "stored")) for n in range(1, 25)]
    items[1] = gallery_item(2, LINES, settings={"name": "Postcard-Two"}, generation=generation)
    items[2] = gallery_item(3, "a fox, four times", pictures=4)
    items[4] = gallery_item(5, HEBREW, reused=True, credits_used=3)
    items[10] = gallery_item(11, "a train", "unknown", credits_at_risk=2)
    return items
