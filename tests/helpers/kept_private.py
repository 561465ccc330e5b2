"""What the demo and `make ui` start is for their user alone: checks of files and servers."""

from __future__ import annotations

from pathlib import Path

import httpx

FOREIGN = "https://pages.example.com"


def processes_of(home: Path) -> list[str]:
    """Command lines of the processes that work for this home."""
    mark = f"PREFECT_HOME={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            ours = mark in (folder / "environ").read_bytes()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        # Whatever serves its files belongs to it, too.
        if ours or str(home).encode() in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def only_the_owners(home: Path) -> int:
    """Check that nobody else may read what is in a folder.

    Returns:
        How many files and folders that are.
    """
    paths = [home, *home.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if path.exists()}  # Prefect removes some
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert any(path.name == "prefect.db" for path in paths)
    return len(modes)


def only_for_its_own_page(url: str) -> None:
    """Check that a Prefect server asks for a password, and lets no other origin read."""
    with httpx.Client(base_url=f"{url}/api/", timeout=60, trust_env=False) as http:
        for origin in (FOREIGN, "null", "http://127.0.0.1:1", url.replace("http:", "https:")):
            said = [
                http.post("flows/filter", json={}, headers={"Origin": origin}),
                http.get("health", headers={"Origin": origin}),
                http.options(
                    "deployments/filter",
                    headers={
                        "Origin": origin,
                        "Access-Control-Request-Method": "POST",
                        "Access-Control-Request-Headers": "authorization,content-type",
                    },
                ),
            ]
            assert [answer.status_code for answer in said] == [401, 200, 400], origin
            for answer in said:
                assert "access-control-allow-origin" not in answer.headers
        # What a page may send without asking first changes nothing either.
        plain = {"Origin": FOREIGN, "Content-Type": "text/plain"}
        variable = b'{"name": "x", "value": 1}'
        assert http.post("variables/", content=variable, headers=plain).status_code == 401
        for wrong in (("nanobanana", "wrong"), ("", "")):
            assert http.post("flows/filter", json={}, auth=wrong).status_code == 401
