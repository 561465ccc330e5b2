"""The steps of a review. Each can be done again: a run that was suspended, or died, begins anew."""

# No `from __future__ import annotations` here, as in every module of the flows.

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import suspend_flow_run

from prefect_nanobanana._common.naming import slug
from prefect_nanobanana._common.text import counted
from prefect_nanobanana.batch import Ledger, recorded_outcomes
from prefect_nanobanana.errors import InvalidInput, LedgerError, StorageError
from prefect_nanobanana.flows._asked import answer_to, can_be_suspended, was_asked
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._review_form import Seen, decisions_of, form_of
from prefect_nanobanana.models import ImagePrompt, ReviewReport
from prefect_nanobanana.picks import Decision, ImageId, Pick, Picks, read_decisions
from prefect_nanobanana.report import GalleryItem, Publisher
from prefect_nanobanana.s3 import ObjectStore

KeepAs = Literal["copy", "tag", "record"]
_VARIANT = re.compile(r"(.+) variant ([1-9])")


class ReviewSteps:
    """One review of a batch.

    Args:
        store: Where the batch is.
        batch: Its name.
        run: The flow run.
        keep_as: What becomes of what is kept.
        seconds: How long a person has to decide.
        logger: The flow run's.

    Raises:
        InvalidInput: If there is no such batch, or what was decided of it before cannot be read.
        StorageError: If the bucket cannot be used.
        LedgerError: If a record cannot be read.
    """

    def __init__(
        self,
        store: ObjectStore,
        batch: str,
        run: FlowRun | None,
        keep_as: KeepAs,
        seconds: int,
        logger: Logger,
    ) -> None:
        self._store = store
        self._ledger = Ledger.open(store, batch)
        self._run = run
        self._keep_as: KeepAs = keep_as
        self._seconds = seconds
        self._logger = logger
        self._publisher = Publisher(store, self._ledger.batch, logger)
        self._picks = Picks(store, self._ledger.batch)
        self._decided = self._picks.read()
        self._items: list[GalleryItem] = []
        self.reload()

    @property
    def _run_id(self) -> str:
        return str(self._run.id) if self._run is not None else ""

    @property
    def _own(self) -> list[Pick]:
        """What this run has decided so far."""
        return [pick for pick in self._decided.values() if pick.review == self._run_id]

    def reload(self) -> None:
        """Read what the batch's records say now."""
        recorded = recorded_outcomes(self._ledger, self._logger)
        if recorded is None:
            raise LedgerError(
                f"the records of batch {self._ledger.batch!r} could not be read: see the log"
            )
        if not recorded.items:
            raise InvalidInput(
                f"batch: there is no batch {self._ledger.batch!r} in {self._store.uri('')}"
            )
        self._items = recorded.items

    def read(self, picks: str) -> dict[ImageId, Decision]:
        """Read a `picks.json`.

        Args:
            picks: Its path or `s3://` address.

        Raises:
            InvalidInput: If it cannot be read, or is about another batch.
        """
        if picks.startswith("s3://"):
            content = self._store.uris.read(picks, parameter="picks")
        else:
            try:
                content = Path(picks).read_bytes()
            except OSError as error:
                raise InvalidInput(f"picks: {picks} cannot be read: {error.strerror}") from None
        hashes = Seen(self._items, {}).hashes
        return read_decisions(content, picks, self._ledger.batch, hashes)

    def carry_out(self) -> None:
        """Do with the images what was decided, as far as it is not done yet.

        Raises:
            StorageError: If the store does not let us.
        """
        images = {key: i for key, i, *_ in Seen(self._items, {}).pictures}
        decided = [(images[p.image], p) for p in self._decided.values() if p.image in images]
        marks = self._store.marks
        if self._keep_as == "tag":
            for image, pick in decided:
                if pick.review == self._run_id:
                    marks.tag(image.key, "picked", str(pick.picked).lower())
        if self._keep_as == "copy":
            folder = self._ledger.key("picked") + "/"
            there = {each.key for each in self._store.keys(folder)} if decided else set()
            for image, pick in decided:
                key = folder + image.key.rpartition("/")[2]
                if pick.picked and key not in there:
                    marks.copy(image.key, key)
                elif not pick.picked and key in there:
                    self._store.remove(key)  # the copy: the image itself stays where it is

    def variants(self, most: int) -> list[ImagePrompt]:
        """The prompts to ask for again: all their images are rejected, and they have no variant yet.

        Args:
            most: How many times one is asked for again.
        """
        names = {item.outcome.prompt.name for item in self._items}
        found = []
        for item in self._items:
            known = [self._decided.get(key) if key else None for key in item.image_ids]
            if not known or not all(pick is not None and not pick.picked for pick in known):
                continue
            prompt, provenance = item.outcome.prompt, item.provenance
            assert provenance is not None
            match = _VARIANT.fullmatch(prompt.name or "")
            number = int(match[2]) + 1 if match else 1
            named = prompt.name or f"{slug(prompt.prompt, 40)}-{provenance.key[:8]}"
            name = f"{match[1] if match else named} variant {number}"
            if number > most or name in names:
                continue
            request = provenance.request
            asked = {"model": request.model, "aspect_ratio": request.aspect_ratio}
            found.append(prompt.model_copy(update={**asked, "name": name, "quantity": request.quantity}))
        return found

    def decide(self, decisions: Mapping[ImageId, Decision]) -> list[Pick]:
        """Take decisions over.

        Returns:
            Those that are news.

        Raises:
            StorageError: If they cannot be written.
        """
        now, number = datetime.now(UTC), self._round
        images = {key: image for key, image, *_ in Seen(self._items, {}).pictures}
        news = []
        for known, decision in decisions.items():
            before, image = self._decided.get(known), images[known]
            said = (decision.picked, decision.note, image.sha256)
            if decision.picked is None or (
                before and (before.picked, before.note, before.sha256) == said
            ):
                continue
            news.append(
                Pick(
                    batch=self._ledger.batch,
                    prompt_key=known[0],
                    place=known[1],
                    key=image.key,
                    sha256=image.sha256,
                    picked=decision.picked,
                    note=decision.note,
                    decided_at=now,
                    review=self._run_id or None,
                    round=number,
                )
            )
        if news:
            self._decided = self._picks.add(news)
            self._publisher.review.tell(news, self._items)
        return news

    def ask(self) -> list[Pick]:
        """Ask people to decide, if there is something new to decide on; the run is suspended meanwhile.

        Returns:
            What they have decided.

        Raises:
            InvalidInput: If the run cannot be suspended, or the answer cannot be read.
            StorageError: If the page cannot be written, or the decisions.
        """
        seen, number = Seen(self._items, self._decided), self._round
        last = max((pick.decided_at for pick in self._own), default=None)
        asked_at = [item.provenance.asked_at for *_, item in seen.pictures if item.provenance]
        if not seen.pictures or (last and not any(at and at > last for at in asked_at)):
            return []
        key = f"nanobanana-review-{number}"
        handed_over = self._ledger.key("picks", f"{self._run_id}-{number}.json")
        if not was_asked(self._run, key):
            if not can_be_suspended(self._run):
                raise InvalidInput(
                    "picks: is missing, and only a run of a deployment of this flow can wait for a "
                    "person: start it as one, or give the picks.json that a review page has saved"
                )
            report = self._publisher.report(self._items)
            pages = self._publisher.review
            pages.write_page(report, self._items, self._decided, handed_over, self._seconds)
            self._logger.warning(
                "%s to decide on until %s UTC: on the run's page in Prefect's UI, choose Resume",
                counted(len(seen.pictures), "picture"),
                f"{datetime.now(UTC) + timedelta(seconds=self._seconds):%Y-%m-%d %H:%M}",
            )
        page = self._store.uri(self._publisher.review.key("review.html"))
        suspend_flow_run(wait_for_input=form_of(seen, page), timeout=self._seconds, key=key)
        found = self._store.find(handed_over)
        place = self._store.uri(handed_over)
        given = answer_to(self._run, key) or {}
        content = found[0] if found else None
        return self.decide(decisions_of(given, content, seen, self._ledger.batch, place))

    def publish(self) -> ReviewReport:
        """Write gallery and manifest with what is decided; say what the review came to.

        Raises:
            StorageError: If they cannot be written.
        """
        pictures = [(known, image.sha256) for known, image, *_ in Seen(self._items, {}).pictures]
        picks = [self._decided.get(known) for known, _ in pictures]
        kept, rejected = (
            sum(p is not None and p.picked is is_kept for p in picks) for is_kept in (True, False)
        )
        if self._own:
            report = self._publisher.publish_again(self._publisher.report(self._items), self._items)
            if report.unpublished:
                raise StorageError(f"could not be written: {', '.join(report.unpublished)}; see the log")
        variants = [
            item.outcome
            for item in self._items
            if item.provenance is not None
            and item.provenance.flow_run_id == self._run_id
            and _VARIANT.fullmatch(item.outcome.prompt.name or "")
        ]
        return ReviewReport(
            batch=self._ledger.batch,
            images=len(pictures),
            kept=kept,
            rejected=rejected,
            undecided=len(pictures) - kept - rejected,
            decided_now=len(self._own),
            picks_uri=self._picks.uri if self._decided else None,
            variants=len(variants),
            credits_used=sum(outcome.credits_used for outcome in variants),
        )

    @property
    def _round(self) -> int:
        """Which of this run's questions is next."""
        return 1 + max((pick.round for pick in self._own), default=0)
