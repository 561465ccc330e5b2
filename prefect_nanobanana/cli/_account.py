"""`nanobanana models` and `credits`: what the API says of models and of the account."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from prefect_nanobanana import NanoBananaCredentials
from prefect_nanobanana._common.text import number, visible
from prefect_nanobanana.cli._outcome import Json, print_json


def models(*, as_json: Json = False) -> int:
    """Say which models there are, and what a picture of each costs.

    Args:
        as_json: Print them as one line of JSON.
    """
    with NanoBananaCredentials.from_env().get_client() as client:
        found = client.models()
    if as_json:
        print_json([each.model_dump(mode="json") for each in found])
        return 0
    table = Table("model", "credits", "what it is called", "references", "aspect ratio", "paid plan")
    for each in found:
        price = "not known" if each.credits_cost is None else number(each.credits_cost)
        flags = each.supports_image_input, each.supports_aspect_ratio, each.requires_pro
        table.add_row(
            visible(each.name),
            price,
            visible(each.display_name),
            *("yes" if flag else "" for flag in flags),
        )
    Console().print(table)
    return 0


def credits(*, as_json: Json = False) -> int:
    """Say what the account has left, in credits.

    Args:
        as_json: Print it as one line of JSON.
    """
    with NanoBananaCredentials.from_env().get_client() as client:
        left = client.credits()
    if as_json:
        print_json({"credits": left})
    else:
        print(number(left))
    return 0
