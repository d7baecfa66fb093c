"""The records of uploads, stored in a real folder."""

from __future__ import annotations

from server.facades.kit.records import Records
from tests.rigs.facade_rig import facade


def test_a_record_is_its_owners_and_ends_with_its_file() -> None:
    with facade("openai") as rig:
        records = Records(rig.context, rig.context.data.records["openai"])
        first, second = (rig.context.artifacts.put("a.png", "image/png", b"png") for _ in range(2))
        for artifact in (first, second):
            records.keep("mine", artifact.key, {"id": artifact.key})
        assert records.find("mine", first.key) == ({"id": first.key}, first)
        assert records.find("yours", first.key) is None
        assert records.find("mine", f"../mine/{first.key}") is None
        records.remove("mine", first)
        assert records.find("mine", first.key) is None and rig.context.artifacts.find(first.key) is None
        rig.context.artifacts.remove(second)
        assert records.all("mine") == []
        assert not list(rig.context.data.records["openai"].rglob("*.json")), (
            "the record of a deleted file is deleted too"
        )
