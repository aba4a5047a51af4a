"""Messages to the users of a published pipeline: `mail`."""

from pathlib import Path

import click

from forecache.base.settings import Settings
from forecache.cli.base import Finding, command, settings
from forecache.cli.orchestrator import show_in_dagster
from forecache.cli.output import print_json, show, stage_dict, wants_json
from forecache.cli.progress import StageProgress


@command(
    "mail",
    examples="""
    forecache mail letters --dry-run --limit 3      # writes files, sends nothing
    forecache mail letters
    forecache query "select state, count(*) from mail_ledger where mailing = 'letters' group by state"
    """,
)
@click.argument("name", metavar="MAILING")
@click.option("--dry-run", is_flag=True, help="Write the messages as .eml files, and send and record nothing.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of --dry-run.")
@click.option("--limit", type=click.IntRange(min=1), help="Most messages now; default: the mailing's daily limit.")
def mail(name: str, dry_run: bool, out: Path | None, limit: int | None) -> None:
    """Send MAILING's messages about what is published, each user's once for each as-of date.

    Users beyond a limit wait for the next run, and so do messages that the server could not take. The server is that of
    the settings FORECACHE_SMTP_HOST and others.
    """
    from forecache.declare.loading import load_declared
    from forecache.plugins.mail.stage import mail as send
    from forecache.plugins.mail.stage import write_messages

    if out is not None and not dry_run:
        raise click.UsageError("--out is for --dry-run.")
    current = settings()
    declared = load_declared(current, "mailing", name)
    if dry_run:
        folder = out or current.home_path / "mail" / name
        written = write_messages(current, declared, folder, limit=limit)
        show(
            {"folder": folder, "messages": [path.name for path in written]},
            f"{len(written):,} messages of {name} are in {folder}; nothing was sent.",
        )
        return
    with StageProgress() as progress:
        result = send(current, declared, limit=limit, progress=progress.update)
    show_in_dagster(current, f"mailed_{name}", dict(result.details))
    if wants_json():
        print_json(stage_dict(result))
        return
    details = result.details
    click.echo(
        f"The server accepted {details['accepted']:,} messages of {name} about {details['as_of']} and refused "
        f"{details['refused']:,}. {details['done_before']:,} users had theirs before, {details['waiting']:,} wait for "
        f"another run, {details['opted_out']:,} opted out, {details['without_address'] + details['unusable']:,} have "
        "no usable address."
    )


_TIMEOUT_S = 5.0


def check_mail(settings: Settings) -> Finding:
    """Connect to the SMTP server and log in, if the project declares a mailing."""
    from forecache.declare.loading import read_project
    from forecache.kit.smtp import Relay

    mailings = ", ".join(read_project(settings).declared("mailing"))
    if not mailings:
        return Finding("mail", "ok", "no mailing is declared")
    if not settings.smtp_host:
        remedy = "Set FORECACHE_SMTP_HOST; `forecache mail --dry-run` needs none."
        return Finding("mail", "warn", f"no SMTP server is set for {mailings}", remedy)
    impatient = settings.model_copy(update={"smtp_timeout_s": min(settings.smtp_timeout_s, _TIMEOUT_S)})
    with Relay(impatient, tries=1) as relay:
        relay.check()
    return Finding("mail", "ok", f"{settings.smtp_host}:{settings.smtp_port} takes connections, for {mailings}")
