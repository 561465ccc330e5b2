"""What policies name is moved away or deleted, batch by batch; each image is written down first."""

# No `from __future__ import annotations` here, as in every module of the flows.

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect_nanobanana._common.text import counted
from prefect_nanobanana.errors import InvalidInput, LedgerError, StorageError
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import publish_recorded
from prefect_nanobanana.flows._retention_batch import BatchRetention
from prefect_nanobanana.manifest import ListedBatch
from prefect_nanobanana.models import BatchUsage, RetentionPolicy, RetentionReport
from prefect_nanobanana.picks import Picks
from prefect_nanobanana.retention import RemovedImage, names_batch
from prefect_nanobanana.s3 import ObjectStore
from prefect_nanobanana.statements import Statements


class RetentionSteps:
    """Applies policies to the batches of a folder.

    Args:
        store: Where the batches are.
        policies: What goes, and when.
        dry_run: Whether nothing is changed.
        run: The flow run's id.
        logger: The flow run's.
    """

    def __init__(
        self,
        store: ObjectStore,
        policies: Sequence[RetentionPolicy],
        dry_run: bool,
        run: str | None,
        logger: Logger,
    ) -> None:
        self._store = store
        self._policies = policies
        self._dry_run = dry_run
        self._run = run
        self._logger = logger
        self._now = datetime.now(UTC)
        self._removed: Counter[str] = Counter()

    def apply(self, batches: Sequence[ListedBatch]) -> RetentionReport:
        """Say what batches hold, and remove what policies name of them.

        Args:
            batches: The batches, as they are listed.

        Raises:
            StorageError: If the bucket cannot be used.
        """
        spent = Statements.credits_by_batch(self._store, [batch.name for batch in batches])
        usages = []
        for batch in batches:
            usage = BatchUsage(
                batch=batch.name,
                prompts=batch.records,
                images=batch.images,
                image_bytes=batch.image_bytes,
                copies=batch.copies,
                copies_bytes=batch.copies_bytes,
                written_at=batch.written,
                credits=spent.get(batch.name),
            )
            usages.append(usage.model_copy(update=self._apply_to(batch)))
        return RetentionReport(
            dry_run=self._dry_run,
            moved=self._removed["moved"],
            deleted=self._removed["deleted"],
            freed_bytes=self._removed["bytes"],
            batches=tuple(usages),
        )

    def _apply_to(self, batch: ListedBatch) -> dict[str, object]:
        """Remove what policies name of a batch; returns what is known of it besides."""
        try:
            picks = Picks(self._store, batch.name).read().values()
            kept = sum(pick.picked for pick in picks)
            found: dict[str, object] = {"kept": kept, "rejected": len(picks) - kept}
            one = BatchRetention(self._store, batch, self._now, self._run, self._logger)
            found["removed"] = one.removed
            named = [policy for policy in self._policies if names_batch(policy, batch.name)]
            if not named:
                return found
            if not self._dry_run:
                one.note_found()
            due, problem = one.due(named)
            found |= {"due": len(due), "due_bytes": sum(each.recorded.image.size_bytes for each in due)}
            if problem:
                found["problem"] = problem
            if batch.is_outdated and not due and not self._dry_run:
                publish_recorded(self._store, batch.name, self._logger)  # a run was killed before that
            if due and not self._dry_run:
                try:
                    for lines in one.remove(due):
                        self._count(lines)
                        found["removed"] = one.removed
                finally:
                    publish_recorded(self._store, batch.name, self._logger)
                if one.failed:
                    found["problem"] = f"{counted(len(one.failed), 'image')} stayed: {one.failed[0]}"
        except (InvalidInput, LedgerError, StorageError) as error:
            self._logger.warning("Batch %r: %s", batch.name, error)
            found = {"problem": str(error)}
        return found

    def _count(self, lines: Sequence[RemovedImage]) -> None:
        for line in lines:
            self._removed[line.action] += not line.is_smaller_copy
            if line.action == "deleted":
                self._removed["bytes"] += line.size_bytes
