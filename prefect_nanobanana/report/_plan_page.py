"""A plan as a page in Prefect's UI."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from prefect_nanobanana._common.text import number, plain, shortened, visible
from prefect_nanobanana.models import Credits, Plan, PlannedPrompt
from prefect_nanobanana.report._artifacts import ARTIFACT_BYTES, SHOWN_LINES, artifact_key, table_row
from prefect_nanobanana.report._summary import STEPS, summary


def plan_markdown(plan: Plan) -> str:
    """The page: what it costs, by model; what may not work; and what would be done with each prompt."""
    parts = [
        f"# What {plain(plan.batch)} would cost",
        f"**{plain(summary(plan), None)}**",
        "Nothing is spent yet. What a request really costs, its answer tells.",
        _models(plan),
    ]
    if plan.warnings:
        lines = [f"- {plain(line, 300)}" for line in plan.warnings[:SHOWN_LINES]]
        left = len(plan.warnings) - len(lines)
        more = [f"- and {left} more"] if left else []
        parts += ["## What may not work", "\n".join(lines + more)]
    head = "\n\n".join(
        [*parts, "## Prompts", table_row("#", "prompt", "", "model", "images", "credits")]
    )
    rows, size = [head, "| ---: | --- | --- | --- | ---: | ---: |"], len(head.encode())
    for planned in plan.prompts:
        row = _prompt(planned)
        size += len(row.encode()) + 1
        if size > ARTIFACT_BYTES:
            rows += ["", f"The first {len(rows) - 2} of {len(plan.prompts)}."]
            break
        rows.append(row)
    return "\n".join(rows) + "\n"


def create_plan(plan: Plan) -> None:
    """Make the artifact that says what a run would cost."""
    create_markdown_artifact(
        plan_markdown(plan),
        key=artifact_key(plan.batch, "plan"),
        description=f"Plan: {summary(plan)}.",
    )


def _models(plan: Plan) -> str:
    rows = [table_row("model", "prompts", "images", "credits"), "| --- | ---: | ---: | ---: |"]
    models = plan.by_model
    for total in models[:SHOWN_LINES]:
        its = str(total.prompts), str(total.images), _cell(total.price)
        rows.append(table_row(plain(total.model), *its))
    if len(models) > SHOWN_LINES:
        rows.append(table_row(f"and {len(models) - SHOWN_LINES} more models", "", "", ""))
    asked = plan.count("new") + plan.count("again")
    rows.append(table_row("**all**", str(asked), str(plan.images), f"**{_cell(plan.price)}**"))
    return "\n".join(rows)


def _prompt(planned: PlannedPrompt) -> str:
    text = shortened(visible(planned.prompt.name or planned.prompt.prompt))
    images = str(planned.quantity) if planned.asked else ""
    price = _cell(planned.price) if planned.asked else ""
    step = STEPS[planned.step]
    models = " / ".join((planned.model, *planned.fallbacks))
    if planned.fallbacks:
        price += f" (at worst {_cell(planned.worst_price)})"
    return table_row(str(planned.position), plain(text), step, plain(models), images, price)


def _cell(price: Credits | None) -> str:
    return "unknown" if price is None else number(price)
