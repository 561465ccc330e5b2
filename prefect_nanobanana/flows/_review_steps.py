"""The steps of a review. Each can be done again: a run that was suspended, or died, begins anew."""

# No `from __future__ import annotations` here, as in every module of the flows.

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import suspend_flow_run

from prefect_nanobanana._common.local_files import LocalFiles
from prefect_nanobanana._common.references import FOLDER
from prefect_nanobanana._common.text import counted
from prefect_nanobanana.batch import Ledger
from prefect_nanobanana.errors import InvalidInput, StorageError
from prefect_nanobanana.flows import _review_form as forms
from prefect_nanobanana.flows._asked import answer_to, can_be_suspended
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import recorded_items
from prefect_nanobanana.flows._review_form import Asked, Picture, hashes_of, pictures_of
from prefect_nanobanana.flows._review_state import Questions, question_key
from prefect_nanobanana.flows._variants import own_variants, variants_of
from prefect_nanobanana.manifest import Besides
from prefect_nanobanana.models import ImagePrompt, ReviewReport
from prefect_nanobanana.picks import MOST_BYTES, Decision, ImageId, Pick, Picks, read_decisions
from prefect_nanobanana.report import GalleryItem, Publisher
from prefect_nanobanana.retention import RemovedImages, removal_of
from prefect_nanobanana.s3 import ObjectStore

KeepAs = Literal["copy", "tag", "record"]


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
        self._all_decided = self._picks.read()
        self._questions = Questions(self._ledger, run)
        self._now = 0
        self.items: list[GalleryItem] = []
        self._pictures: dict[ImageId, Picture] = {}
        self.reload()

    @property
    def batch(self) -> str:
        """The batch's name, as its folder is called."""
        return self._ledger.batch

    @property
    def decided(self) -> dict[ImageId, Pick]:
        """What is decided on the images as they are: on others there was no decision."""
        return {
            known: pick
            for known, pick in self._all_decided.items()
            if known in self._pictures and pick.is_on(self._pictures[known].image)
        }

    def reload(self) -> None:
        """Read what the batch's records say now."""
        self.items = recorded_items(self._ledger, self._logger)
        self._removed = RemovedImages(self._store, self.batch).read()
        self._pictures = {
            known: picture
            for known, picture in pictures_of(self.items).items()
            if removal_of(picture.image, self._removed) is None
        }

    def read(self, picks: str) -> dict[ImageId, Decision]:
        """Read a `picks.json`.

        Args:
            picks: Its path or `s3://` address.

        Raises:
            InvalidInput: If it cannot be read, or is about another batch.
        """
        if picks.startswith("s3://"):
            content = self._store.uris.read(picks, MOST_BYTES + 1, parameter="picks")
        else:
            content = LocalFiles("picks", "decisions").read(picks, MOST_BYTES + 1)
        return read_decisions(content, picks, self.batch, hashes_of(self._pictures))

    def carry_out(self) -> None:
        """Do with the images what was decided, as far as it is not done yet.

        Raises:
            StorageError: If the store does not let us.
        """
        decided = [(self._pictures[known].image, pick) for known, pick in self.decided.items()]
        folder = self._ledger.key("picked") + "/"
        there = {each.key for each in self._store.keys(folder)} if decided else set()
        for image, pick in decided:
            key = folder + image.key.rpartition("/")[2]
            if self._keep_as == "tag":
                self._store.marks.tag(image.key, "picked", str(pick.picked).lower())
            if self._keep_as == "copy" and pick.picked and key not in there:
                self._store.marks.copy(image.key, key)
            if not pick.picked and key in there:
                self._store.remove(key)  # the copy: the image itself stays where it is

    def decide(self, decisions: Mapping[ImageId, Decision]) -> list[Pick]:
        """Take decisions over.

        Returns:
            Those that are news.

        Raises:
            StorageError: If they cannot be written.
        """
        now, before, news = datetime.now(UTC), self.decided, []
        for known, decision in decisions.items():
            if decision.picked is None or known not in self._pictures:
                continue
            pick = Pick(
                batch=self.batch,
                prompt_key=known[0],
                place=known[1],
                key=self._pictures[known].image.key,
                sha256=self._pictures[known].image.sha256,
                picked=decision.picked,
                note=decision.note,
                decided_at=now,
                review=str(self._run.id) if self._run is not None else None,
            )
            earlier = before.get(known)
            if earlier is None or (earlier.picked, earlier.note) != (pick.picked, pick.note):
                news.append(pick)
        if news:
            self._all_decided = self._picks.add(news)
            self._publisher.review.tell(news, self.items)
            self._now += len(news)
        return news

    def variants(self, most: int, asked: Collection[str]) -> tuple[list[ImagePrompt], list[str]]:
        """What to ask for again, and why not; see `variants_of`."""
        own = self._store.uri(self._ledger.key(FOLDER)) + "/"
        return variants_of(self.items, self.decided, most, own, asked) if most else ([], [])

    @property
    def own_variants(self) -> list[GalleryItem]:
        """The variants that this run has asked for."""
        return own_variants(self.items, str(self._run.id) if self._run is not None else "")

    def ask(self) -> bool:
        """Have people decide, if there is something new to decide on; the run is suspended meanwhile.

        Returns:
            Whether they have been asked, and what they answered is taken over.

        Raises:
            InvalidInput: If the run cannot be suspended, or the answer cannot be read.
            StorageError: If the page cannot be written, or the decisions.
        """
        number, asked, last = self._questions.next()
        if asked is None:
            decided = self.decided
            undecided = [known for known in self._pictures if known not in decided]
            if last is not None and not self._newer(undecided, last):
                return False
            asked = self._suspend_with(number, undecided)
        form = forms.form_of(asked, self._pictures, self._publisher.review.uri)
        suspend_flow_run(wait_for_input=form, timeout=self._seconds, key=question_key(number))
        given = answer_to(self._run, question_key(number)) or {}
        handed_over = self._handed_over(number, forms.says_something(given))
        self.decide(forms.decisions_of(given, handed_over, asked, self._pictures, self.batch))
        self._questions.note(number, asked.model_copy(update={"taken_over": datetime.now(UTC)}))
        return True

    def publish(self, spent: Sequence[GalleryItem]) -> ReviewReport:
        """Write gallery and manifest with what is decided; say what the review came to.

        Args:
            spent: The variants that this run has asked for.

        Raises:
            StorageError: If they cannot be written.
        """
        decided = self.decided
        if self._all_decided:
            report = self._publisher.publish_again(self._publisher.report(self.items), self.items)
            if report.unpublished:
                raise StorageError(f"could not be written: {', '.join(report.unpublished)}; see the log")
        kept = sum(pick.picked for pick in decided.values())
        return ReviewReport(
            batch=self.batch,
            images=len(self._pictures),
            kept=kept,
            rejected=len(decided) - kept,
            undecided=len(self._pictures) - len(decided),
            decided_now=self._now,
            picks_uri=self._picks.uri if self._all_decided else None,
            variants=len(spent),
            credits_used=sum(item.outcome.credits_used for item in spent),
        )

    def _newer(self, undecided: Sequence[ImageId], last: datetime) -> bool:
        keys = {known[0] for known in undecided}
        sources = (i.provenance for i in self.items if i.provenance and i.provenance.key in keys)
        return any(source.asked_at is not None and source.asked_at > last for source in sources)

    def _suspend_with(self, number: int, undecided: Sequence[ImageId]) -> Asked:
        """Write the page and what is asked about."""
        if not can_be_suspended(self._run):
            raise InvalidInput(
                "picks: is missing, and only a run of a deployment of this flow can wait for a "
                "person: start it as one, or give the picks.json that a review page has saved"
            )
        pages = self._publisher.review
        # What is undecided first: there is room for so many, and the next review asks about the others.
        keys = {known[0] for known in undecided}
        order = sorted(self.items, key=lambda i: not (i.provenance and i.provenance.key in keys))
        shown = set(pictures_of(order[: pages.MOST_PROMPTS]))
        hashes = hashes_of(self._pictures)
        asked = Asked(images=[(*known, hashes[known]) for known in undecided if known in shown])
        report = self._publisher.report(self.items)
        besides = Besides(picks=self.decided, removed=self._removed)
        pages.write_page(report, order, besides, self._questions.place(number), self._seconds)
        self._questions.note(number, asked)
        self._logger.warning(
            "%s to decide on until %s UTC: on the run's page in Prefect's UI, choose Resume",
            counted(len(asked.images), "picture"),
            f"{datetime.now(UTC) + timedelta(seconds=self._seconds):%Y-%m-%d %H:%M}",
        )
        return asked

    def _handed_over(self, number: int, answered: bool) -> dict[ImageId, Decision]:
        """What the page has written; if it cannot be read, and the form says something, that counts."""
        place = self._store.uri(self._questions.place(number))
        if self._store.head(self._questions.place(number)) is None:
            return {}
        content = self._store.uris.read(place, MOST_BYTES + 1, parameter="picks")
        try:
            return read_decisions(content, place, self.batch, hashes_of(self._pictures))
        except InvalidInput as error:
            if not answered:
                raise
            self._logger.warning("What the review page handed over is passed over: %s", error)
            return {}
