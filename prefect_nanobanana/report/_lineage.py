"""Prefect's asset of a folder's pictures: stable from day to day, with what it was made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.assets import Asset, AssetProperties, materialize
from prefect.cache_policies import NO_CACHE
from pydantic import ValidationError

from prefect_nanobanana._common.addresses import without_signature
from prefect_nanobanana._common.references import absolute_path, split_hash
from prefect_nanobanana.models import Caller, RunReport
from prefect_nanobanana.report._events import numbers
from prefect_nanobanana.report._item import GalleryItem
from prefect_nanobanana.report._summary import summary
from prefect_nanobanana.s3 import ObjectStore

MOST_DEPENDENCIES = 50
"""Prefect's server takes a hundred related resources of an event, and some are the run's own."""
_LONGEST = 512
"""Of an asset's key (Prefect)."""
_RESTRICTED = re.compile(r"[\s\0#?&%\"'<>\[\]{}|\\^`]+")
"""What Prefect takes in no asset's key."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def materialize_asset(
    report: RunReport,
    items: Iterable[GalleryItem],
    store: ObjectStore,
    caller: Caller,
    source: str | None,
) -> None:
    """Have Prefect's catalogue of assets know what a run has made, and of what.

    The asset is the bucket's folder; of a run of a deployment, what that makes there. So its key is the
    same each day, and each day's batch is a partition, which the metadata name.

    Args:
        report: The run's report; without images in it nothing was made.
        items: The run's outcomes.
        store: Where the batch lies.
        caller: Whom it was made for.
        source: Where the list of prompts came from, if it was a file.
    """
    if not report.images:
        return
    key = asset_key(store, caller)
    of = (caller.flow or "").replace("/", " / ")
    made_of = dependencies(source, items)
    try:
        description = f"Pictures{f' by {of}' if of else ''}. Last: {report.batch}, {summary(report)}"
        asset = Asset(key=key, properties=AssetProperties(name=key, description=description[:2_500]))
        upstream = [Asset(key=each) for each in made_of[:MOST_DEPENDENCIES]]
    except ValidationError:  # a folder whose name is too long for a key
        return
    day = _DAY.search(report.batch)
    partition = day[0] if day else f"{datetime.now(UTC):%Y-%m-%d}"

    def publish() -> None:
        asset.add_metadata({**numbers(report), "partition": partition, "dependencies": len(made_of)})

    settings: dict[str, Any] = {
        "name": "publish",
        "task_run_name": "publish",
        "retries": 0,
        "cache_policy": NO_CACHE,
        "persist_result": False,
        "asset_deps": upstream,
    }
    materialize(asset, by="prefect-nanobanana", **settings)(publish)()


def asset_key(store: ObjectStore, caller: Caller) -> str:
    """The key of the asset that a caller's runs make: `s3://bucket/folder`, and the deployment."""
    folder = store.uri(store.key()).rstrip("/")
    flow, _, deployment = (caller.flow or "").partition("/")
    return _key(f"{folder}/{flow}/{deployment}" if deployment else folder)


def dependencies(source: str | None, items: Iterable[GalleryItem]) -> Sequence[str]:
    """The keys of what a run was made of: its list, and the reference images.

    Args:
        source: Where the list came from, if it was a file.
        items: The run's outcomes.
    """
    found = [source.strip()] if source and source.strip() else []
    for item in items:
        if item.provenance is not None:
            found += item.provenance.request.reference_image_urls
    # Dictionaries keep the order: the list first.
    keys = dict.fromkeys(_key(_address(each)) for each in found)
    return [key for key in keys if len(key) <= _LONGEST]


def _address(place: str) -> str:
    """Where something lies, without what is secret in it, and without the hash of what it held."""
    place = split_hash(place)[0]
    if "://" in place and not place.lower().startswith("file:"):
        return without_signature(place).partition("?")[0]
    return Path(absolute_path(place)).absolute().as_uri().replace("%20", " ")


def _key(address: str) -> str:
    scheme, mark, rest = address.partition("://")
    return scheme.lower() + mark + _RESTRICTED.sub("-", rest)
