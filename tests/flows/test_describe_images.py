"""Alternative texts and captions, which functions of packages and scripts make."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from aged import rows
from prefect_aws import S3Bucket

from prefect_nanobanana import ImagePrompt, InvalidInput, NanoBananaError, RunReport
from prefect_nanobanana.descriptions import Description, ImageToDescribe, describer
from prefect_nanobanana.descriptions import _describers as describers
from prefect_nanobanana.flows import describe_images
from prefect_nanobanana.s3 import ObjectStore

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., RunReport]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    describers._HERE.clear()


def test_the_prompt_is_what_it_shows(run: Run, bucket: S3Bucket, folder: Path) -> None:
    run(ImagePrompt(prompt='a "fox" & <b>snow</b>', quantity=2))
    assert describe_images(batch="b", bucket=bucket) == 2
    assert {(row["alt_text"], row["caption"]) for row in rows(folder / "b")} == {
        ('a "fox" & <b>snow</b>', None)
    }
    page = (folder / "b/index.html").read_text("utf-8")
    assert 'alt="a &#34;fox&#34; &amp; &lt;b&gt;snow&lt;/b&gt;"' in page


def test_a_function_is_called_once_for_each_image(run: Run, bucket: S3Bucket, folder: Path) -> None:
    run(ImagePrompt(prompt="a", name="first"), "b")
    seen: list[ImageToDescribe] = []

    @describer("mine")
    def describe(image: ImageToDescribe) -> Description:
        seen.append(image)
        return Description(
            alt_text=f"{len(image.read())} bytes", caption=f"{image.name}: {image.prompt}"
        )

    settings: dict[str, Any] = {"batch": "b", "bucket": bucket, "describer": "mine"}
    assert describe_images(**settings) == 2
    assert describe_images(**settings) == 0
    assert len(seen) == 2
    for row in rows(folder / "b"):
        assert row["alt_text"] == f"{row['size_bytes']} bytes"
        assert row["caption"] == ("first: a" if row["prompt_text"] == "a" else "None: b")
    assert "first: a" in (folder / "b/index.html").read_text("utf-8")
    run(ImagePrompt(prompt="a", name="first"), "b", "c")
    assert sum(row["caption"] is not None for row in rows(folder / "b")) == 2, "a later run says it, too"
    assert describe_images(**settings) == 1
    assert describe_images(**settings, again=True) == 3


def test_one_that_cannot_be_described_holds_up_no_other(
    run: Run, bucket: S3Bucket, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run("a", "b", "c", "d")

    @describer("moody")
    def describe(image: ImageToDescribe) -> Any:
        match image.prompt:
            case "a":
                raise OSError("https://api.example/x?X-Amz-Signature=secret is down")
            case "b":
                return {"alt_text": "x" * 1_001}
            case "c":
                return {"alt_text": "fine"}
            case _:
                return image.read()

    store = ObjectStore(bucket)
    (last,) = (row for row in rows(folder / "b") if row["prompt_text"] == "d")
    store.put(last["key"], b"something else", "image/png")
    with pytest.raises(NanoBananaError, match=r"^1 image described, 3 not; first s3://.*OSError"):
        describe_images(batch="b", bucket=bucket, describer="moody")
    assert "secret" not in caplog.text
    assert "its hash is another" in caplog.text
    told = {row["prompt_text"]: row["alt_text"] for row in rows(folder / "b")}
    assert told == {"a": None, "b": None, "c": "fine", "d": None}


def test_what_is_described_is_kept_as_it_goes(
    run: Run, bucket: S3Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a", "b", "c")
    monkeypatch.setattr("prefect_nanobanana.flows._describe.SAVE_EVERY", 1)

    @describer("dies")
    def describe(image: ImageToDescribe) -> Description:
        if image.prompt == "c":
            raise KeyboardInterrupt
        return Description(alt_text=image.prompt)

    with pytest.raises(KeyboardInterrupt):
        describe_images(batch="b", bucket=bucket, describer="dies")
    assert len(rows(folder / "b", "descriptions.jsonl")) == 2


def test_what_a_function_does_wrong_loses_no_other_description(
    run: Run, bucket: S3Bucket, folder: Path
) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    run("a", "b", "c", "d")
    wrong: Any = {"alt_text": 5}

    @describer("wild")
    def describe(image: ImageToDescribe) -> Any:
        match image.prompt:
            case "b":
                return Description.model_construct(**wrong)
            case "c":
                raise Odd
            case "d":
                raise SystemExit
        return Description(alt_text=image.prompt)

    with pytest.raises((SystemExit, Exception)):
        describe_images(batch="b", bucket=bucket, describer="wild")
    assert [row["alt_text"] for row in rows(folder / "b", "descriptions.jsonl")] == ["a"]


def test_packages_name_their_functions(
    run: Run, bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("a")
    offered = metadata.EntryPoints(
        (
            metadata.EntryPoint("theirs", f"{__name__}:theirs", describers.GROUP),
            metadata.EntryPoint("broken", "no_such_module:x", describers.GROUP),
        )
    )
    monkeypatch.setattr(describers, "entry_points", lambda group: offered.select(group=group))
    with pytest.raises(InvalidInput, match="describer: 'broken' cannot be imported: .*no_such_module"):
        describe_images(batch="b", bucket=bucket, describer="broken")
    with pytest.raises(InvalidInput, match="there is no 'os:system': there are broken, prompt, theirs"):
        describe_images(batch="b", bucket=bucket, describer="os:system")
    assert describe_images(batch="b", bucket=bucket, describer="theirs") == 1


def theirs(image: ImageToDescribe) -> Description:
    """As a package would have it."""
    return Description(alt_text="theirs")


def test_what_a_stranger_has_written_is_text(run: Run, bucket: S3Bucket, folder: Path) -> None:
    run("a")
    describe_images(batch="b", bucket=bucket)
    (line,) = rows(folder / "b", "descriptions.jsonl")
    odd = {**line, "alt_text": '"><script>alert(1)</script>', "caption": "<img src=x>"}
    (folder / "b/descriptions.jsonl").write_text(json.dumps(odd))
    run("a")
    page = (folder / "b/index.html").read_text("utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    (folder / "b/descriptions.jsonl").write_text("{")
    assert run("a").stored == 1
    with pytest.raises(InvalidInput, match="descriptions.jsonl, line 1"):
        describe_images(batch="b", bucket=bucket)


def test_importing_the_package_imports_no_describers() -> None:
    code = "import sys, prefect_nanobanana; print('prefect_nanobanana.descriptions' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
