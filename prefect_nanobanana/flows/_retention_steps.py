"""What policies name is moved away or deleted, batch by batch; each image is written down first."""

# No `from __future__ import annotations` here, as in every module of the flows.

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from prefect_nanobanana._common.text import counted, presentable
from prefect_nanobanana.errors import InvalidInput, LedgerError, StorageError
from prefect_nanobanana.flows._call import Logger
from prefect_nanobanana.flows._publish import publish_recorded
from prefect_nanobanana.flows._retention_batch import BatchRetention
from prefect_nanobanana.manifest import ListedBatch
from prefect_nanobanana.models import BatchUsage, RetentionPolicy, RetentionReport
from prefect_nanobanana.picks import Picks
from prefect_nanobanana.retention import RemovedImages, names_batch
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

    def _apply_to(self, batch: ListedBatch) -> dict[str, Any]:
        """Remove what policies name of a batch; returns what is known of it besides."""
        found: dict[str, Any] = {}
        try:
            found |= self._listed(batch)
            named = [policy for policy in self._policies if names_batch(policy, batch.name)]
            if named:
                problems = self._apply_policies(batch, named, found)
                if problems:
                    found["problem"] = presentable("; ".join(problems))
        except (InvalidInput, LedgerError, StorageError) as error:
            found["problem"] = presentable(str(error))
        if problem := found.get("problem"):
            self._logger.warning("Batch %r: %s", batch.name, problem)
        return found

    def _listed(self, batch: ListedBatch) -> dict[str, object]:
        picks = Picks(self._store, batch.name).read().values()
        kept = sum(pick.picked for pick in picks)
        gone = RemovedImages(self._store, batch.name).read()
        return {"kept": kept, "rejected": len(picks) - kept, "removed": len(gone)}

    def _apply_policies(
        self, batch: ListedBatch, policies: Sequence[RetentionPolicy], found: dict[str, Any]
    ) -> list[str]:
        """Remove what these policies name, and note how much that is; returns what went wrong."""
        one = BatchRetention(self._store, batch, self._now, self._run, self._logger)
        due, odd = one.due(policies)
        found |= {"due": len(due), "due_bytes": sum(each.recorded.image.size_bytes for each in due)}
        problems = [odd] if odd else []
        if self._dry_run or not (due or batch.is_outdated):  # outdated by a run that was killed
            return problems
        try:
            for lines in one.remove(due):
                self._removed.update(line.action for line in lines)
                self._removed["bytes"] += sum(
                    line.size_bytes for line in lines if line.action == "deleted"
                )
                found["removed"] += len(lines)
        finally:
            written = publish_recorded(self._store, batch.name, self._logger)
        if not written:
            problems.append("gallery or manifest could not be written: see the log")
        if one.failed:
            problems.append(f"{counted(len(one.failed), 'image')} stayed: {one.failed[0]}")
        return problems
