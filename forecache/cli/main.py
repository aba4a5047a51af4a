"""Entry point of the `forecache` command: its commands by name, and how errors reach the user."""

import os
import sys
from collections.abc import Sequence

import click

from forecache.base.errors import ForecacheError
from forecache.base.plugins import find_commands
from forecache.cli.base import CONTEXT_SETTINGS, ENVIRONMENT_HELP, FLAGS, LazyGroup, choose_environment
from forecache.cli.groups import GROUPS
from forecache.kit.process.hidden_pandas import hide_pandas_from_arrow

_COMMANDS = "forecache.cli.commands"
COMMANDS = {
    "dev": (f"{_COMMANDS}.run:dev", "Open Dagster's UI on the same state."),
    "dagster": (f"{_COMMANDS}.dagster:dagster", "Dagster's processes one by one, for several machines."),
    "migrate": (f"{_COMMANDS}.dagster:migrate", "Create or upgrade the tables of Dagster and MLflow in PostgreSQL."),
    "run": (f"{_COMMANDS}.run:run", "Run pipelines for an as-of date or a range of them."),
    "train": (f"{_COMMANDS}.run:train", "Train, register and gate a model."),
    "ingest": (f"{_COMMANDS}.run:ingest", "Ingest new landing files into the lake."),
    "query": (f"{_COMMANDS}.lake:query", "SQL over the lake's tables by name."),
    "tables": (f"{_COMMANDS}.lake:tables", "The lake's tables, their versions, rows and sizes."),
    "models": (f"{_COMMANDS}.models:models", "Registered models: list, diff, evaluate, reject, rollback."),
    "promote": (f"{_COMMANDS}.models:promote", "Make a version the champion, if it passes the gate."),
    "publish": (f"{_COMMANDS}.store:publish", "Publish an as-of date's predictions to the store."),
    "rollback": (f"{_COMMANDS}.rollback:rollback", "Serve an earlier version again, with the model that made it."),
    "store": ("forecache.cli.groups:store", "Published versions: versions, diff, verify, pin, unblock, push, pull."),
    "release": ("forecache.cli.groups:release", "Releases of real-time models: build, list, rollouts, pause, bento."),
    "simulate": ("forecache.cli.groups:simulate", "Simulate what would happen: a rollout, replicas by demand."),
    "stream": (f"{_COMMANDS}.stream:stream", "Run a stream: from a Kafka topic to its table and its live layer."),
    "streams": (f"{_COMMANDS}.stream:streams", "Declared streams: which run, lag, delay, live layers."),
    "log": (f"{_COMMANDS}.log:log", "What real-time models answered, and from what."),
    "serve": (f"{_COMMANDS}.reader:serve", "Start the prediction server."),
    "tokens": (f"{_COMMANDS}.reader:tokens", "Create, list and revoke the server's bearer tokens."),
    "get": (f"{_COMMANDS}.get:get", "Read answers from the store, in process."),
    "settings": (f"{_COMMANDS}.settings:show_settings", "Settings that are given, or all, with their sources."),
    "version": (f"{_COMMANDS}.settings:version", "Versions of Forecache and of the software that it runs on."),
    "completion": (
        f"{_COMMANDS}.completion:completion",
        "Print the script that completes names in a shell.",
    ),
    **find_commands(),
}
_SECTIONS = {
    "Start": ("init", "demo", "dev", "doctor", "settings", "version", "completion"),
    "Data and features": ("ingest", "tables", "query", "features", "maintain"),
    "Nightly runs": ("run", "get", "explain", "mail"),
    "Changes": ("plan", "try", "trials", "diff"),
    "Models": ("train", "tune", "models", "promote", "challenge", "shadow", "monitor", "drift"),
    "Published versions": ("publish", "rollback", "store"),
    "Server": ("serve", "tokens", "status", "report"),
    "Real-time models": ("release", "log", "parity", "advise", "simulate"),
    "Streams": ("stream", "streams"),
    "Operation": ("alerts", "cost", "metrics", "lineage", "dagster", "migrate"),
}
_SHOWN = {name for names in _SECTIONS.values() for name in names}
SECTIONS = {**_SECTIONS, "More": tuple(name for name in COMMANDS if name not in _SHOWN)}
"""The commands as `forecache --help` shows them; without a plug-in, its commands are left out."""

_EPILOG = """
Exit codes: 0 done; 1 failed; 2 wrong usage or setting; 3 not found; 4 bad input; 5 conflict with another process;
6 a check or gate failed; 7 something outside is unavailable; 8 not due yet; 9 the budget of a backfill is spent;
10 of `plan`: something would run; 130 interrupted.
"""


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    sections=SECTIONS,
    nested=GROUPS,
    context_settings=CONTEXT_SETTINGS,
    epilog=_EPILOG,
    invoke_without_command=True,
)
@click.option(
    "--env", metavar="NAME", expose_value=False, is_eager=True, callback=choose_environment, help=ENVIRONMENT_HELP
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Batch-first machine learning on a data lake: nightly scoring, published and served.

    Every command takes --env, --json for scripts and --debug for tracebacks; `forecache COMMAND --help` has examples.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are one sentence on standard error."""
    FLAGS.json = FLAGS.debug = False
    hide_pandas_from_arrow()  # which no command needs at its start
    before = {name: os.environ.get(name) for name in ("FORECACHE_ENV", "FORECACHE_SERVICE")}
    try:
        result = cli.main(args=arguments, prog_name="forecache", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted; what was committed is kept, run again to continue.", err=True)
        return 130
    except BrokenPipeError:
        # The process that reads this output has ended, as in `forecache query ... | head`; nothing more can be printed.
        sys.stdout = None
        return 141
    except ForecacheError as error:
        return _print_error(error, error)
    except Exception as error:  # noqa: BLE001  (the last resort of the command line: one sentence, not a traceback)
        from forecache.kit.explain_errors import explain_error

        return _print_error(
            explain_error(error, hint="" if FLAGS.debug else "Run again with --debug to see where."), error
        )
    finally:
        for name, text in before.items():  # `--env` is said for this command only
            os.environ.pop(name, None)
            os.environ.update({} if text is None else {name: text})


def _print_error(error: ForecacheError, cause: BaseException) -> int:
    if FLAGS.debug:
        import traceback

        traceback.print_exception(cause)
    click.echo(f"{error.title}: {error}", err=True)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
