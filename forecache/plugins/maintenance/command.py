"""`forecache maintain`: the lake's small files are merged, and what nothing needs is removed."""

from typing import TYPE_CHECKING

import click

from forecache.cli.base import command, settings
from forecache.cli.output import print_json, show_table, size, wants_json
from forecache.cli.progress import StageProgress

if TYPE_CHECKING:
    from forecache.plugins.maintenance.table import MaintenanceResult


@command(
    "maintain", examples="forecache maintain --dry-run\nforecache maintain\nforecache maintain raw_purchases --json"
)
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be merged and removed.")
def maintain(tables: tuple[str, ...], dry_run: bool) -> None:
    """Merge small files of TABLEs (default: all of the lake) and remove files that no version needs.

    It keeps the files of the newest version, of versions to which a published version, the ledger, a model or a
    training run refers, and files that were in use in the last 7 days. Without TABLEs it also removes the checkpoints
    of trainings that ended 7 days ago or earlier, where all machines find them. It is safe at any time, also during a
    run.
    """
    from forecache.kit.delta.files import RETENTION
    from forecache.models.training.run_files import remove_old_checkpoints
    from forecache.plugins.maintenance.lake import maintain_lake

    checkpoints = 0
    with StageProgress() as progress:
        done = maintain_lake(settings(), tables, dry_run=dry_run, progress=progress.update)
    try:
        if not tables:
            checkpoints = remove_old_checkpoints(settings(), older_than=RETENTION, dry_run=dry_run)
    finally:  # where checkpoints are may be out of reach
        _report(done, checkpoints, dry_run=dry_run)


def _report(done: "list[MaintenanceResult]", checkpoints: int, *, dry_run: bool) -> None:
    if wants_json():
        print_json({"tables": done, "removed_checkpoint_files": checkpoints})
        return
    rows = [
        (
            item.table,
            item.merged,
            item.removed,
            f"{item.table_files_before:,} -> {item.table_files_after:,}",
            f"{item.files_before:,} -> {item.files_after:,}",
            f"{size(item.bytes_before)} -> {size(item.bytes_after)}",
        )
        for item in done
    ]
    figures = ("merged", "removed", "files of the newest version", "files on disk", "size on disk")
    show_table(("table", *figures), rows, right=figures, caption="nothing was changed" if dry_run else "")
    if checkpoints:
        done_so = "would be removed" if dry_run else "were removed"
        click.echo(f"{checkpoints:,} files of checkpoints of trainings that ended {done_so}.")
