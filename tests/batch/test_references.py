"""Addresses of reference images: those that cannot work are refused, with file, line and cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lists import gather, refused

REFERENCES = {
    "https:///a.png": "names no host",
    "https://": "names no host",
    "https://?a=b": "names no host",
    "https://:443/a.png": "names no host",
    "https://host..example/a.png": "names no host",
    "https://host<b>/a.png": "names no host",
    "https://0x7f000001/a.png": "names no host",
    "https://2130706433/a.png": "names no host",
    "https://127.1/a.png": "names no host",
    "https://host.example:port/a.png": "is not a URL",
    "https://[::1/a.png": "is not a URL",
    "https://host.example/a b.png": "holds a blank: write %20",
    "https://host.example/a\u00a0b.png": "holds a blank",
    "https://host.example/a\tb.png": "holds a blank",
    "https://host.example/a,b.png": "holds a comma: write %2C",
    "https://host.example/a.png,": "is more than one address",
    "https://host.example/a.png;": "is more than one address",
    "https://host.example/a.png,https://host.example/b.png": "is more than one address",
    "https://host.example/a.png | HTTPS://host.example/b.png": "is more than one address",
    "https://host.example/a.png\nhttps://host.example/b.png": "is more than one address",
    "http://localhost/a.png": "is a private address",
    "http://api.localhost:80/a.png": "is a private address",
    "http://127.0.0.1:8000/a.png": "is a private address",
    "https://10.1.2.3/a.png": "is a private address",
    "https://192.168.1.10./a.png": "is a private address",
    "http://169.254.169.254/latest": "is a private address",
    "https://[fd00::1]/a.png": "is a private address",
    "https://[::ffff:10.0.0.1]/a.png": "is a private address",
    "https://[::7f00:1]/a.png": "is a private address",
    "https://[64:ff9b::a00:1]/a.png": "is a private address",
    "https://[2002:7f00:1::]/a.png": "is a private address",
    "https://168.63.129.16/a.png": "is a private address",
    "https://１０.0.0.1/a.png": "is a private address",
    "https://127。0。0。1/a.png": "is a private address",
    "https://①②⑦.1/a.png": "names no host",
    "http://minio:9000/bucket/a.png": "is a private address",
    "https://gitlab:8443/a.png": "is a private address",
    "http://nas/a.png": "is a private address",
    "https://host.example/a.png\u200b": "holds the invisible character U+200B: remove it",
    "https://host\u00ad.example/a.png": "holds the invisible character U+00AD: remove it",
    "https://host.example/\ufeffa.png": "holds the invisible character U+FEFF: remove it",
    "https://nas.local/a.png": "is a private address",
    "https://files.corp/a.png": "is a private address",
    "https://metadata.google.internal/": "is a private address",
    "s3://bucket": "names no object: write s3://bucket/key",
    "s3:///key.png": "names no object",
    "ftp://host.example/a.png": "is not a web address",
    "host.example/a.png": "is not a web address",
}


@pytest.mark.parametrize("url", REFERENCES)
def test_references_that_cannot_work(tmp_path: Path, url: str) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "reference_image_urls": ["https://e/1.png", url]}]
    text = refused(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert text.startswith("p.jsonl, line 2: reference_image_urls: ")
    assert REFERENCES[url] in text
    assert len(text) < 400


@pytest.mark.parametrize(
    "cell",
    [
        "https://host.example/a.png,https://host.example/b.png",
        "https://host.example/a.png, https://host.example/b.png",
        "https://host.example/a.png; https://host.example/b.png",
    ],
)
def test_two_references_in_a_cell(tmp_path: Path, cell: str) -> None:
    text = refused(tmp_path, "p.csv", f'prompt,reference_image_urls\na,"{cell}"\n')
    assert text.startswith("p.csv, line 2: reference_image_urls: ")
    assert "is more than one address: separate them with blanks" in text


@pytest.mark.parametrize(
    "url",
    [
        "https://host.example/a%20b%2Cc.png?x=1&y=[2]#top",
        "http://8.8.8.8:8080/a.png",
        "https://[2606:4700::1111]/a.png",
        "https://bücher.example/ü.png",
        "https://xn--bcher-kva.example./",
        "https://हिन्दी.example/क",
        "https://host.example/می\u200cخواهم.png",
        "https://a_b.host.example/a;b=c",
        "https://archive.example/web/https://host.example/a.png",
        "https://localhost.example/a.png",
        "https://ada:hush@host.example/a.png",
        "HTTPS://E/1",
    ],
)
def test_references_that_can_work(tmp_path: Path, url: str) -> None:
    (listed,) = gather(tmp_path, "p.csv", f"prompt,reference_image_urls\na,{url}\n")
    assert listed.prompt.reference_image_urls == [url]


@pytest.mark.parametrize(
    "secret", ["https://ada:hush@10.0.0.1/", "https://e/a,b?sig=hush", "x?token=hush"]
)
def test_no_secret_of_a_reference_is_told(tmp_path: Path, secret: str) -> None:
    text = refused(tmp_path, "p.json", json.dumps([{"prompt": "a", "reference_image_urls": [secret]}]))
    assert "hush" not in text
