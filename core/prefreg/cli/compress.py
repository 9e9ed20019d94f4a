"""Making stored vectors smaller."""

from typing import Any

import click

from prefreg.cli.options import REFERENCE, Common, command, human_size, sections
from prefreg.cli.views import version_summary
from prefreg.registry import VersionRecord


@command("compress")
@click.argument("version", type=REFERENCE, metavar="AXIS[@V]")
@click.option("--dtype", metavar="bf16", help="Store every number in bfloat16.")
@click.option("--int8", is_flag=True, help="Store every number in 8 bits, with a scale a row.")
@click.option("--topk", type=float, metavar="SHARE", help="Keep this share of each weight: .1.")
@click.option("--rank", type=int, metavar="RANK", help="Keep matrices at this rank, drop the rest.")
@click.option("--note", help="A line to remember the version by.")
def compress(common: Common, version: tuple[str, str | None], **options: Any) -> None:
    """Store a smaller form of a version as the next one of its axis, with the measured error.

    The version itself stays as it is. Give exactly one of --dtype, --int8, --topk and --rank.
    """
    axis, reference = version
    registry = common.open_registry()
    record = registry.compress(axis, reference, **options)
    before = registry.show(axis, record.metadata["compression"]["of"].rpartition("@")[2])
    data = version_summary(record) | {"compression": record.metadata["compression"]}
    common.emit("compress", data, _describe(before, record))


def _describe(before: VersionRecord, record: VersionRecord) -> str:
    found = record.metadata["compression"]
    margin = found["margin"]
    fields: dict[str, object] = {
        "compressed": f"{before} ({before.kind} {before.dtype}, {human_size(before.size)})",
        "to": f"{record} ({record.kind} {record.dtype}, {human_size(record.size)})",
        "relative error": f"{found['relative_error']:.2e}",
        "norm ratio": f"{found['norm_ratio']:.4f}",
        "cosine": "not defined" if found["cosine"] is None else f"{found['cosine']:.4f}",
        "held-out margin": f"not measured: {margin['reason']}"
        if "reason" in margin
        else f"{margin['compressed']:.3f} of {margin['original']:.3f} nats at η = 1, "
        f"{margin['pairs']} pairs",
    }
    if found["dropped"]:
        count = len(found["dropped"]["weights"])
        share = found["dropped"]["share_of_error"]
        fields["dropped"] = (
            f"{count} weights that are no matrices, {share:.1%} of the squared error"
        )
    return sections(fields)


COMMANDS = (compress,)
