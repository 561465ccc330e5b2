"""`python -m prefect_nanobanana.sandbox`: the local API server from the command line."""

from __future__ import annotations

import argparse
import sys

from prefect_nanobanana.sandbox.faults import FAULTS
from prefect_nanobanana.sandbox.server import DEFAULT_KEY, URL_LIFETIME_SECONDS, Sandbox


def _latency(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return float(low), float(high or low)


def _fault(text: str) -> tuple[str, float]:
    name, _, chance = text.partition(":")
    if name not in FAULTS:
        raise argparse.ArgumentTypeError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    return name, float(chance or 0.1)


def main(argv: list[str] | None = None) -> int:
    """Start the server and answer until interrupted."""
    faults = "".join(f"\n  {name:16}{what}" for name, what in FAULTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m prefect_nanobanana.sandbox",
        description="A local server that keeps the contract of the Nano Banana API.",
        epilog="faults, as NAME:PROBABILITY:" + faults,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    parser.add_argument(
        "--key", default=DEFAULT_KEY, help=f"the API key it accepts (default: {DEFAULT_KEY})"
    )
    parser.add_argument(
        "--credits", type=int, default=1000, help="the account's balance (default: 1000)"
    )
    parser.add_argument("--limit", type=int, default=1, help="requests open at once (default: 1)")
    parser.add_argument(
        "--latency", type=_latency, default=(1.0, 3.0), help="seconds a generation takes, as 2 or 1-3"
    )
    parser.add_argument(
        "--fault", type=_fault, action="append", default=[], help="as reset_after:0.05; may be repeated"
    )
    parser.add_argument(
        "--poll-fault", type=_fault, action="append", default=[], help="the same for GET /generate?id="
    )
    parser.add_argument("--pixels", type=int, default=1024, help="longer side of the pictures")
    parser.add_argument(
        "--url-style", choices=["absolute", "relative", "protocol-relative", "data"], default="absolute"
    )
    parser.add_argument("--url-lifetime", type=float, default=URL_LIFETIME_SECONDS, help="in seconds")
    parser.add_argument("--envelope", action="store_true", help="wrap answers in `data`")
    parser.add_argument("--stream-ids", action="store_true", help="streams name their generation")
    options = parser.parse_args(argv)
    try:
        sandbox = Sandbox(
            options.port,
            api_key=options.key,
            credits=options.credits,
            limit=options.limit,
            latency=options.latency,
            faults=dict(options.fault),
            poll_faults=dict(options.poll_fault),
            stream_ids=options.stream_ids,
            picture_pixels=options.pixels,
            url_style=options.url_style,
            url_lifetime_seconds=options.url_lifetime,
            envelope=options.envelope,
        )
    except OSError as error:
        print(f"port {options.port} cannot be used: {error.strerror}", file=sys.stderr)
        return 1
    print(
        f"NANO_BANANA_BASE_URL={sandbox.base_url}",
        f"NANO_BANANA_API_KEY={options.key}",
        sep="\n",
        flush=True,
    )
    try:
        sandbox.serve_forever()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
