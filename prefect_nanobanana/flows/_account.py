"""The account that pays for a run."""

# Prefect's loggers are loggers and adapters of them.
import logging
from typing import Any

from prefect_nanobanana._common.task_runners import runs_elsewhere
from prefect_nanobanana._common.text import in_credits
from prefect_nanobanana.credentials import NanoBananaCredentials
from prefect_nanobanana.errors import ApiError
from prefect_nanobanana.models import Credits, ImageModel

FIRST_SLOT_SECONDS = 1.0
"""So long a run waits for a slot before its first task run begins; others may have all of them."""


class Account:
    """The account that pays for a run; it is asked, at no cost, what it has before the run.

    Args:
        credentials: Whose it is.
        logger: Is told what cannot be read.
        dry: Whether nothing is to be asked for, so that no slots are needed.
        priced: Whether the run cannot do without prices, as it has a bound.

    Attributes:
        models: The models that the API offers; None if that cannot be read, which is said.
        before: The account's credits before the run.

    Raises:
        ApiError: If the account cannot be used, or prices that are needed cannot be read.
    """

    def __init__(
        self,
        credentials: NanoBananaCredentials,
        logger: logging.Logger | logging.LoggerAdapter[Any],
        *,
        dry: bool = False,
        priced: bool = False,
    ) -> None:
        self._credentials = credentials
        self._logger = logger
        with credentials.get_client() as client:
            self.before = client.credits()
            try:
                self.models: list[ImageModel] | None = client.models()
            except ApiError as error:
                if priced:
                    logger.error(
                        "Nothing is spent: prices must be known, and the catalogue cannot be read"
                    )
                    raise
                self.models = None
                logger.warning("Prices are unknown, as the catalogue cannot be read: %s", error)
        if self.before < 0:
            logger.warning("The account is in debt: it has %s", in_credits(self.before))
        if not dry:
            self.prepare()

    def prepare(self, requests: int = 0) -> None:
        """Have slots leased for requests that are on their way.

        Task runs of many prompts begin at once, and Prefect's server then answers leases late: the first
        slots are waited for, for a moment.
        """
        if runs_elsewhere():
            requests = 0  # others lease slots
        slots = self._credentials.slots
        slots.prepare(requests)
        if requests:
            slots.queue.look_forward(FIRST_SLOT_SECONDS)

    def balance(self) -> Credits | None:
        """The account's credits now; None if they cannot be read, which is said."""
        try:
            with self._credentials.get_client() as client:
                return client.credits()
        except ApiError as error:
            self._logger.warning("The account's balance could not be read: %s", error)
            return None
