"""Batches in parts, the parts in threads of this process; tests/live/test_parts.py has work pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from prefect import flow, get_run_logger
from prefect_aws import S3Bucket

from prefect_nanobanana import NanoBananaGenerator, RunReport
from prefect_nanobanana._common.runs_above import runs_above
from prefect_nanobanana.budget import NanoBananaBudget
from prefect_nanobanana.flows import generate_part
from prefect_nanobanana.flows._call import Call
from prefect_nanobanana.flows._work import Work
from prefect_nanobanana.models import Part
from prefect_nanobanana.s3 import ObjectStore


@dataclass
class Divided:
    """Runs batches in parts as `generate_in_parts` does, the parts in threads.

    Attributes:
        leave_out: The numbers of parts that never run.
        budget: What all share.
        parts: What ran.
        messages: How the parts ended.
    """

    generator: NanoBananaGenerator
    bucket: S3Bucket
    leave_out: Sequence[int] = ()
    budget: NanoBananaBudget | None = None
    parts: list[Part] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def run(
        self, *prompts: Any, parts: int = 3, before: Callable[[], None] | None = None, **changes: Any
    ) -> RunReport:
        @flow(name="generate_in_parts")
        def parent() -> RunReport:
            store = ObjectStore(self.bucket)
            again = frozenset(changes.get("ask_again", ()))
            most, logger = changes.get("max_credits"), get_run_logger()
            others = tuple(changes.get("fallback_models", ()))
            call = Call(
                *(prompts, None, self.generator, store, again, most, logger),
                budget=self.budget,
                fallback_models=others,
            )
            work = Work(call, call.ledger(runs_above(), "b"))

            def run(some: list[Part], fallbacks: list[str]) -> None:
                self._run_parts(some, prompts, again, fallbacks)

            return work.finish_in_parts(parts, run)

        return parent()

    def part(
        self, part: Part, prompts: Sequence[Any], again: Any = (), fallbacks: Sequence[str] = ()
    ) -> Any:
        state = generate_part(
            prompts=list(prompts),
            generator=self.generator,
            bucket=self.bucket,
            batch="b",
            part=part,
            ask_again=list(again),
            budget=self.budget,
            fallback_models=list(fallbacks),
            return_state=True,
        )
        self.messages.append(f"{state.name}: {state.message}")
        return state

    def _run_parts(
        self, parts: list[Part], prompts: Sequence[Any], again: Any, fallbacks: Sequence[str]
    ) -> None:
        self.parts = parts
        with ThreadPoolExecutor(8) as pool:
            for part in parts:
                if part.number not in self.leave_out:
                    pool.submit(copy_context().run, self.part, part, prompts, again, fallbacks)
