"""One way to read or to plan a list, in a process of its own: what it takes in CPU and memory."""

from __future__ import annotations

import csv
import json
import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from slot_variants import bucket_at

from prefect_nanobanana import NanoBananaCredentials, NanoBananaGenerator
from prefect_nanobanana.batch import Ledger, gather_prompts
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.report._plan_page import plan_markdown
from prefect_nanobanana.s3 import ObjectStore


@dataclass(frozen=True)
class PlanWork:
    """What a process is to do.

    Attributes:
        variant: `reader` (csv.DictReader alone), `parsing` (our check of the list), or `plan`.
        path: The list.
        base_url: Where the API is.
        api_key: The account's key.
        s3_url: Where the S3 server is.
    """

    variant: str
    path: str
    base_url: str
    api_key: str
    s3_url: str


def _reader(work: PlanWork) -> int:
    with Path(work.path).open(encoding="utf-8", newline="") as file:
        return len([row["prompt"] for row in csv.DictReader(file)])


def _parsing(work: PlanWork) -> int:
    store = ObjectStore(bucket_at(work.s3_url))
    with Fetcher([], connections=1) as fetcher:
        return len(gather_prompts([], work.path, store.uris.read, fetcher))


def _plan(work: PlanWork) -> int:
    credentials = NanoBananaCredentials(api_key=SecretStr(work.api_key), base_url=work.base_url)
    generator, store = NanoBananaGenerator(credentials=credentials), ObjectStore(bucket_at(work.s3_url))
    call = Call([], work.path, generator, store, frozenset(), None, logging.getLogger("plan"))
    plan = Work(call, Ledger.open(store, "b"), dry=True).preview()
    plan_markdown(plan)
    return len(plan.prompts)


VARIANTS: dict[str, Callable[[PlanWork], int]] = {"reader": _reader, "parsing": _parsing, "plan": _plan}


def main() -> None:
    """Measure one variant once, and print it."""
    work = PlanWork(**json.loads(sys.argv[1]))
    # Its modules and connections are there.
    small = Path(work.path).with_name("one.csv")
    VARIANTS[work.variant](PlanWork(**{**work.__dict__, "path": str(small)}))
    print("ready", flush=True)
    sys.stdin.readline()
    memory, cpu = _peak_kb(), time.process_time()
    prompts = VARIANTS[work.variant](work)
    result: dict[str, Any] = {
        "prompts": prompts,
        "cpu": time.process_time() - cpu,
        "kb": _peak_kb() - memory,
    }
    print(json.dumps(result), flush=True)


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
