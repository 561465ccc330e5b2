"""Lists that are templates: variables of columns and of a matrix, braces, and what is refused."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect_aws import S3Bucket
from pydantic import ValidationError

from prefect_nanobanana import (
    ImagePrompt,
    InvalidInput,
    NanoBananaGenerator,
    PromptTemplate,
    RunReport,
)
from prefect_nanobanana.batch import gather_prompts
from prefect_nanobanana.flows import daily_images, plan_images
from prefect_nanobanana.images import Fetcher
from prefect_nanobanana.sandbox import Sandbox

Run = Callable[..., RunReport]


def _gather(
    prompts: Sequence[Any] = (), path: Path | None = None, template: PromptTemplate | None = None
) -> list[tuple[str, ImagePrompt]]:
    with Fetcher([], connections=1) as fetcher:
        found = gather_prompts(prompts, str(path) if path else None, lambda *_: b"", fetcher, template)
    return [(each.place, each.prompt) for each in found]


def _texts(*arguments: Any, **more: Any) -> list[str]:
    return [prompt.prompt for _, prompt in _gather(*arguments, **more)]


def test_columns_of_a_table_are_variables(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(
        "prompt,product,desk\n{product} on {desk},cup,slate\n{product} {desk} {{x}},bowl,oak\n"
    )
    assert _texts(path=path) == ["cup on slate", "bowl oak {x}"]


def test_a_table_s_rows_need_not_name_all_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(
        "prompt,product,desk\n{ product } on {desk},cup,slate\n{product},bowl,oak\n{plain},x,\n"
    )
    assert _texts(path=path) == ["cup on slate", "bowl", "{plain}"]
    # Columns without a name are nobody's variables.
    path.write_text("prompt,,name,,quantity\n{} here,,x,,2\n")
    assert _texts(path=path) == ["{} here"]


def test_keys_of_objects_are_variables(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    rows = [
        {"prompt": "{n} {what}", "n": 3, "what": "cups", "name": "{what}-{n}"},
        {"prompt": "{n}", "n": 12345.61},
        {"prompt": "{n}", "n": True},
        {"prompt": "plain {braces}"},
        "also {plain}",
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = _gather(path=path)
    assert [p.prompt for _, p in found] == [
        "3 cups",
        "12345.61",
        "true",
        "plain {braces}",
        "also {plain}",
    ]
    assert found[0][1].name == "cups-3"


def test_a_row_without_a_prompt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    path.write_text('{"a": "x"}\n{"a": "y"}\n')
    with pytest.raises(InvalidInput) as caught:
        _gather(path=path, template=PromptTemplate())
    assert [line.partition(",")[2] for line in caught.value.problems] == [
        f" line {n}: prompt: is missing: say what to draw" for n in (1, 2)
    ]


def test_lists_without_variables_are_left_as_they_are(tmp_path: Path) -> None:
    """What an earlier version asked for with braces in it keeps its key."""
    path = tmp_path / "l.csv"
    path.write_text('prompt,name\n"{{x}} {date} { }}{",{y}\n')
    ((_, prompt),) = _gather(path=path)
    assert (prompt.prompt, prompt.name) == ("{{x}} {date} { }}{", "{y}")


def test_every_combination_of_a_matrix_is_made() -> None:
    template = PromptTemplate(
        text="{product} on {desk}, {light} light",
        matrix={"product": ["cup", "bowl"], "desk": ["slate", "oak", "linen"]},
        exclude=[{"product": "cup", "desk": "oak"}, {"desk": "linen"}],
        variables={"light": "studio"},
    )
    found = _gather(template=template)
    assert [p.prompt for _, p in found] == [
        "cup on slate, studio light",
        "bowl on slate, studio light",
        "bowl on oak, studio light",
    ]
    assert found[0][0] == "template (product 'cup', desk 'slate')"
    assert _texts(template=template.model_copy(update={"limit": 2})) == [p.prompt for _, p in found[:2]]


def test_a_table_of_products_and_a_matrix(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_text("sku,title,quantity,price\nA1,Cup,2,9.90\nB2,Bowl,,12\n")
    template = PromptTemplate(text="{title} on {desk}", matrix={"desk": ["slate", "oak"]})
    found = _gather(path=path, template=template)
    assert [(p.prompt, p.quantity) for _, p in found] == [
        ("Cup on slate", 2),
        ("Cup on oak", 2),
        ("Bowl on slate", None),
        ("Bowl on oak", None),
    ]
    assert found[3][0] == "products.csv, line 3 (desk 'oak')"
    # Prompts of the call are texts with variables, too.
    bare = template.model_copy(update={"text": None})
    both = _texts(["a {desk} desk", ImagePrompt(prompt="{{b}} {desk}", quantity=2)], template=bare)
    assert both == ["a slate desk", "a oak desk", "{b} slate", "{b} oak"]


def test_references_and_names_are_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("sku,photo\nA1,https://x.test/a.png\n")
    template = PromptTemplate(text="{sku}")
    ((_, prompt),) = _gather(
        [
            ImagePrompt(
                prompt="{brand}", name="{brand}-1", reference_image_urls=["https://x.test/{brand}"]
            )
        ],
        template=PromptTemplate(variables={"brand": "acme"}),
    )
    assert (prompt.name, prompt.reference_image_urls) == ("acme-1", ["https://x.test/acme"])
    assert _texts(path=path, template=template) == ["A1"]


@pytest.mark.parametrize(
    ("table", "template", "why"),
    [
        # A misspelt column is no variable.
        ("prompt,modle\na,x\n", None, "line 1: there is no column 'modle': did you mean model"),
        ("prompt,product\na,x\n", None, "line 1: there is no column 'product'"),
        ("prompt,product\n{product},\n", None, "line 2: prompt: the variable 'product' has no value"),
        ("prompt,product\n{produkt} {product},x\n", None, "no variable 'produkt'; there are: product"),
        ("prompt,product\n{product} {,x\n", None, "a { that is meant as one is written {{"),
        ("prompt,product\n{product} },x\n", None, "a } that is meant as one is written }}"),
        ("prompt,product\n{product} {},x\n", None, "a { that is meant as one is written {{"),
        ("prompt,p,p\n{p},x,y\n", None, "line 1: the column 'p' is there twice"),
        ("a,b\nx,y\n", {}, "line 1: there is no column 'prompt'"),
        ("a,b\nx,y\n", {"text": "{c}"}, "line 2: prompt: there is no variable 'c'; there are: a, b"),
        ("a\nx\n", {"text": "{a}", "matrix": {"b": ["1"]}}, "line 2: matrix: nothing here names {b}"),
        # Forgotten braces, or a column that tells nothing apart: each row would be paid for the same.
        ("a\nx\ny\n", {"text": "a"}, "line 3: the template makes of it what it makes of l.csv, line 2"),
        ("a,b\nx,1\nx,2\n", {"text": "{a}"}, "line 3: the template makes of it what it makes of l.csv"),
        ("a,b\nx,y\n", {"text": "{a}{b}", "matrix": {"b": ["1"]}}, "'b' is a column of the list, too"),
        ("prompt,b\nx,y\n", {"text": "{b}"}, "template: no row uses its text"),
        ("a\nx\n", {"text": "{a} {b}", "matrix": {"b": ["1"]}, "exclude": [{"b": "1"}]}, "leaves no"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(
    table: str, template: dict[str, Any] | None, why: str, tmp_path: Path
) -> None:
    path = tmp_path / "l.csv"
    path.write_text(table)
    made = None if template is None else PromptTemplate.model_validate(template)
    with pytest.raises(InvalidInput) as caught:
        _gather(path=path, template=made)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"matrix": {"a": []}}, "a has no values"),
        ({"matrix": {"a": ["x", "x"]}}, "has 'x' twice"),
        ({"matrix": {"a": ["x", " x"]}}, "has 'x' twice"),
        ({"matrix": {"a": ["x", " "]}}, "a has an empty value"),
        ({"matrix": {"a{": ["x"]}}, "cannot name a variable"),
        ({"matrix": {"a": ["x"]}, "exclude": [{"b": "x"}]}, "the matrix has no b 'x'"),
        ({"matrix": {"a": ["x"]}, "exclude": [{"a": "y"}]}, "the matrix has no a 'y'"),
        ({"matrix": {"a": ["x"]}, "variables": {"a": "y"}}, "a is in matrix and in variables"),
        ({"limit": 0}, "greater than or equal to 1"),
        ({"texts": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_a_template_that_cannot_be_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        PromptTemplate.model_validate(fields)


def test_a_matrix_that_is_far_too_large_is_refused_at_once() -> None:
    values = [str(n) for n in range(200)]
    template = PromptTemplate(text="{a}{b}{c}{d}", matrix=dict.fromkeys("abcd", values))
    with pytest.raises(InvalidInput, match="matrix: has 1600000000 combinations: give fewer values"):
        _gather(template=template)
    template = PromptTemplate(text="{a} {b}", matrix={"a": values, "b": [str(n) for n in range(600)]})
    with pytest.raises(InvalidInput, match="more than 100000 prompts: split the list"):
        _gather(template=template)


@given(
    text=st.text(st.sampled_from(string.ascii_letters + "{} "), max_size=20),
    value=st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=10),
)
def test_braces_that_are_doubled_are_kept_and_values_are_not_filled_in_again(
    text: str, value: str
) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    template = PromptTemplate(text=f"p{escaped}{{v}}p", variables={"v": value})
    assert _texts(template=template) == [f"p{text}{value.strip()}p"]


def test_a_new_background_pays_for_its_combinations_alone(run: Run, sandbox: Sandbox) -> None:
    products = ["cup", "bowl", "vase"]
    template = PromptTemplate(
        text="{product} on {desk}", matrix={"product": products, "desk": ["slate", "oak"]}
    )
    assert run(template=template).stored == 6
    more = template.model_copy(update={"matrix": {"product": products, "desk": ["slate", "ash", "oak"]}})
    report = run(template=more)
    assert (report.stored, report.credits_used, report.credits_reused) == (9, 3, 6)
    dice = random.Random(1)
    shuffled = {"product": dice.sample(products, 3), "desk": ["oak", "slate", "ash"]}
    report = run(template=more.model_copy(update={"matrix": shuffled}))
    assert (report.stored, report.credits_used, sandbox.account.charged) == (9, 0, 9)


def test_the_day_has_its_names_in_every_flow(
    generator: NanoBananaGenerator, bucket: S3Bucket, sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "l.txt"
    path.write_text("{weekday}, {day} {month} {year}: {{date}}\n")
    settings: dict[str, Any] = {
        "prompts_from": str(path),
        "generator": generator,
        "bucket": bucket,
        "template": PromptTemplate(),
    }
    plan: Any = plan_images(**settings)
    today = date.today()
    assert f" {today.day} " in plan.prompts[0].prompt.prompt
    assert plan.prompts[0].prompt.prompt.endswith(f" {today.year}: {{date}}")
    report: Any = daily_images(**settings, day=date(2026, 11, 23))
    assert report.outcomes[0].prompt.prompt == "Monday, 23 November 2026: {date}"
