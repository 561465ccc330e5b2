"""Which images a policy names: random batches, against the rules in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prefect_nanobanana.models import RetentionPolicy, StoredImage
from prefect_nanobanana.retention import RecordedImage, due_images

NOW = datetime(2026, 11, 28, tzinfo=UTC)
FOLDER = "f/b/images"
CHOICES = ("rejected", "undecided", "kept")
policies = st.lists(
    st.builds(
        RetentionPolicy,
        batches=st.sampled_from(["*", "b", "c*"]),
        images=st.frozensets(st.sampled_from(CHOICES), min_size=1),
        after_days=st.integers(1, 5),
        action=st.sampled_from(["move", "delete"]),
    ),
    max_size=3,
)
days = st.integers(0, 6)
claims = st.tuples(
    st.sampled_from(["f/b/images/1.png", "f/b/images/2.png", "f/b/records/1.json", "f/c/images/1.png"]),
    st.sampled_from([None, True, False]),
    days,
    st.sampled_from(["0" * 24, "../x"]),
    st.integers(0, 1),
)


def _recorded(claim: Any) -> RecordedImage:
    key, picked, decided, prompt_key, size = claim
    image = StoredImage(
        uri=f"s3://x/{key}",
        key=key,
        content_type="image/png",
        size_bytes=size,
        sha256="0" * 64,
        width=1,
        height=1,
        source_url="",
    )
    pick = SimpleNamespace(picked=picked, decided_at=NOW - timedelta(days=decided))
    return RecordedImage(prompt_key, 1, image, None if picked is None else pick)


def _decided_before(each: RecordedImage, policy: RetentionPolicy) -> bool:
    return each.pick is None or NOW - each.pick.decided_at >= timedelta(policy.after_days)


@given(policies, st.lists(claims, max_size=5), st.sets(st.integers(0, 3)), days)
def test_random_batches(
    policies: list[RetentionPolicy], claims: list[Any], there: set[int], written: int
) -> None:
    keys = ["f/b/images/1.png", "f/b/images/2.png", "f/b/records/1.json", "f/c/images/1.png"]
    sizes = {keys[n]: 1 for n in there}
    recorded = [_recorded(claim) for claim in claims]
    written_at = NOW - timedelta(days=written)
    due, odd = due_images("b", recorded, sizes, FOLDER, policies, written_at, NOW)
    named = [each.recorded.image.key for each in due]
    assert len(set(named)) == len(named)
    assert not set(named) & set(odd)
    for each in due:
        image = each.recorded.image
        assert image.key in sizes
        assert image.key.startswith("f/b/images/"), "never a record, nor what is another batch's"
        assert sum(r.image.key == image.key for r in recorded) == 1
        assert image.size_bytes == sizes[image.key]
        applying = [
            p
            for p in policies
            if p.batches in ("*", "b")
            and each.recorded.status in p.images
            and written >= p.after_days
            and (
                each.recorded.pick is None
                or NOW - each.recorded.pick.decided_at >= timedelta(p.after_days)
            )
        ]
        assert each.policy is applying[0]
    for key in sizes:
        claimed = [r for r in recorded if r.image.key == key]
        if len(claimed) == 1 and key not in named:
            (one,) = claimed
            fine = key.startswith(FOLDER) and one.image.size_bytes == 1 and one.prompt_key == "0" * 24
            fits = [p for p in policies if p.batches in ("*", "b") and one.status in p.images]
            assert not fine or not any(
                written >= p.after_days and _decided_before(one, p) for p in fits[:1]
            )
