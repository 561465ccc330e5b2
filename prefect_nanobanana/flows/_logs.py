"""The logs of this package's flows: one line per prompt, which no terminal takes for a command."""

import logging

from prefect_nanobanana._common.text import visible, without_signatures

_FLOWS = (
    *("generate_images", "generate_in_parts", "generate_part"),
    *("copy_pending", "daily_images", "plan_images"),
)
_TASKS = ("generate_image", "wait_for_generation", "copy_image_to_s3")
_STATES = ("Finished in state", "Task run failed with state")


class _OneLinePerPrompt(logging.Filter):
    """Drops what Prefect says of our own task runs: the flow says it, once per prompt."""

    def filter(self, record: logging.LogRecord) -> bool:
        ours = getattr(record, "task_name", None) in _TASKS
        in_ours = getattr(record, "flow_name", None) in _FLOWS
        return not (ours and in_ours and str(record.msg).startswith(_STATES))


class _Presentable(logging.Filter):
    """Makes a line fit for every log, whatever of a prompt or an API's message it quotes.

    Control characters are shown, and addresses lose userinfo and signature.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "flow_name", None) in _FLOWS:
            record.msg, record.args = visible(without_signatures(record.getMessage())), ()
        return True


def readable_logs() -> None:
    """Have our flows' logs hold one line per prompt, without escape sequences or secrets."""
    for name, kept in (
        ("prefect.task_runs", _OneLinePerPrompt),
        ("prefect.task_runs", _Presentable),
        ("prefect.flow_runs", _Presentable),
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(f, kept) for f in logger.filters):
            logger.addFilter(kept())
