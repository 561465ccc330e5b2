"""What an account has spent over many runs; kept in S3 beside the batches, and made of their records."""

from prefect_nanobanana.statements._rows import StatementRow
from prefect_nanobanana.statements._statements import Statements

__all__ = ["StatementRow", "Statements"]
