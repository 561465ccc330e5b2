"""What others lean on: names, types, import cost, entry point."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest
from pydantic import BaseModel

import prefect_nanobanana
from prefect_nanobanana import errors, models

PACKAGE = Path(prefect_nanobanana.__file__).parent


def test_all_is_sorted_and_whole() -> None:
    names = prefect_nanobanana.__all__
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(prefect_nanobanana, name) is not None
    assert set(errors.__all__) <= set(names)
    assert errors.__all__ == sorted(errors.__all__)


def test_the_names_that_the_design_fixes() -> None:
    assert {
        *("NanoBananaCredentials", "NanoBananaGenerator", "ImagePrompt", "Generation", "StoredImage"),
        *("Outcome", "RunReport", "generate_image", "agenerate_image", "copy_image_to_s3"),
        *("get_credits", "list_models"),
    } <= set(prefect_nanobanana.__all__)
    from prefect_nanobanana.flows import generate_images

    assert list(inspect.signature(generate_images.fn).parameters)[:7] == [
        *("prompts", "prompts_from", "generator", "bucket", "batch", "max_credits", "fail_on")
    ]


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (models.Outcome, "position prompt status generation images credits_used reused message"),
        (
            models.Generation,
            "status generation_id image_urls credits_used remaining_credits message model mode",
        ),
        (models.StoredImage, "uri key content_type size_bytes sha256 width height source_url"),
        (
            models.RunReport,
            "batch prompts stored warnings failed unknown skipped images credits_used credits_reused "
            "credits_without_image remaining_credits balance_before balance_after manifest_uri "
            "gallery_uri outcomes",
        ),
    ],
)
def test_fields_that_users_read(model: type[BaseModel], fields: str) -> None:
    assert set(fields.split()) <= set(model.model_fields)
    assert model.model_config["frozen"]


def test_version_and_marker() -> None:
    assert prefect_nanobanana.__version__ == version("prefect-nanobanana")
    assert (PACKAGE / "py.typed").exists()


def test_prefect_finds_the_collection() -> None:
    (entry,) = [e for e in entry_points(group="prefect.collections") if e.name == "prefect_nanobanana"]
    assert entry.load() is prefect_nanobanana


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, prefect_nanobanana; "
        "print([m for m in ('boto3', 'botocore', 'prefect_aws', 'PIL', 'prefect_nanobanana.sandbox')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_flows_do_not_postpone_annotations() -> None:
    """A single `flow.serve()` would then fail every run."""
    for path in (PACKAGE / "flows").glob("*.py"):
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        assert "from __future__ import annotations" not in lines, path


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.name)
def test_public_things_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            assert node.name.startswith("_") or ast.get_docstring(node), node.name
