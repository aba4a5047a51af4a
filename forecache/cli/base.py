"""Shared parts of all commands: `--json` and `--debug`, lazily imported groups, and parameter types."""

import importlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from forecache.base.errors import ConflictError

if TYPE_CHECKING:
    from forecache.base.settings import Settings
    from forecache.declare import Pipeline, Trainable

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@dataclass
class Flags:
    """The output flags of this invocation; `debug` is read again when an error is shown."""

    json: bool = False
    debug: bool = False


FLAGS = Flags()
_WARNED: set[str] = set()
_SHOWN_KEY = "forecache.environment"


def _set_flag(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        setattr(FLAGS, str(parameter.name), True)


def choose_environment(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Choose an environment for this process, and for those that it starts; said here, it may be a protected one."""
    if value is not None and not context.resilient_parsing:
        os.environ.update(FORECACHE_ENV=value, FORECACHE_SERVICE=value.partition("/")[0])


ENVIRONMENT_HELP = "The environment that is meant, of environments.toml."


class Command(click.Command):
    """A click command with `--env`, `--json` and `--debug`, whose examples keep their line breaks.

    `--env` chooses the environment of this process, unless the command has an option of that name of its own.
    """

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.context_settings = {**CONTEXT_SETTINGS, **self.context_settings}
        if not any("--env" in parameter.opts for parameter in self.params):
            self.params.append(
                click.Option(
                    ["--env"], metavar="NAME", expose_value=False, is_eager=True, callback=choose_environment,
                    help=ENVIRONMENT_HELP,
                )
            )  # fmt: skip
        for name, text in (("json", "Answer in JSON, for scripts."), ("debug", "Show the traceback of an error.")):
            option = click.Option(
                [f"--{name}"], is_flag=True, expose_value=False, is_eager=True, callback=_set_flag, help=text
            )
            self.params.append(option)
        for parameter in self.params:
            shown = parameter.metavar or "" if isinstance(parameter, click.Argument) else ""
            if "PIPELINE" in shown or "NAME" in shown:
                parameter.type = NameParam()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")


def command(name: str, *, examples: str = "", **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """`@command("query", examples=...)`: a Command with shared options."""
    return click.command(name, cls=Command, examples=examples, **attributes)


class LazyGroup(click.Group):
    """A group that knows its commands' one-line help without importing them: `name -> ("module:attribute", help)`."""

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        sections: Mapping[str, Sequence[str]] | None = None,
        nested: Mapping[str, Iterable[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections or {"Commands": tuple(lazy)}
        self._nested = {name: f"{group} {name}" for group, names in (nested or {}).items() for name in names}
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, attribute = self.lazy[cmd_name][0].split(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            import difflib

            known = {**self._nested, **{name: name for name in self.lazy}}
            close = difflib.get_close_matches(args[0], known, n=1)
            hint = f"Did you mean {known[close[0]]!r}?" if close else f"`{ctx.command_path} --help` lists the commands."
            raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.lazy))
        for title, names in self._sections.items():
            rows = [(f"{name:{widest}}", self.lazy[name][1]) for name in names if name in self.lazy]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class DefaultGroup(LazyGroup):
    """A LazyGroup that runs its default command ("list", unless given) if the first argument is no command."""

    def __init__(self, *args: Any, default: str = "list", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.lazy and args[0] not in ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


FindingState = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """The outcome of a check of `forecache doctor`; `remedy` is empty if nothing has to be done."""

    check: str
    state: FindingState
    found: str
    remedy: str = ""


def is_port_free(host: str, port: int) -> bool:
    """True if this process can listen on host:port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free_port(host: str, port: int) -> None:
    """Refuse a port that another process has, by ConflictError."""
    if not is_port_free(host, port):
        raise ConflictError(
            f"Port {port} on {host} is in use.", remedy="Stop the process that listens there, or give --port."
        )


class NameParam(click.ParamType):  # type: ignore[type-arg]
    """The name of a declaration, which the shell completes from those of the project."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from forecache.base.errors import ForecacheError
        from forecache.declare.loading import read_project

        try:
            project = read_project(settings())
        except ForecacheError:  # a completion has nowhere to show it
            return []
        names = {*project.nightly, *project.publishable, *project.streams, *(each.name for each in project.added)}
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


class DateParam(click.ParamType):  # type: ignore[type-arg]
    """A date such as 1998-06-30, or "today" or "yesterday" by UTC."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        from forecache.base.dates import parse_date
        from forecache.base.errors import InputError

        if isinstance(value, date):
            return value
        try:
            return parse_date(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


Ranges = tuple[tuple[date, date], ...]
"""First and last of each range of dates, ascending; they have no date twice."""


class DatesParam(click.ParamType):  # type: ignore[type-arg]
    """Dates and ranges with commas between them, see `forecache.base.dates.parse_ranges`."""

    name = "dates"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Ranges:
        from forecache.base.dates import parse_ranges
        from forecache.base.errors import InputError

        if isinstance(value, tuple):
            return value
        try:
            return tuple(parse_ranges(str(value)))
        except InputError as error:
            self.fail(str(error), param, ctx)


def resolve_ranges(night: date | None, ranges: Ranges | None) -> Ranges | None:
    """The ranges given by `--date` or `--dates`; both together are a usage error."""
    if night is not None and ranges is not None:
        raise click.UsageError("Give --date or --dates, not both.")
    return ((night, night),) if night is not None else ranges


def settings() -> "Settings":
    """The settings of this invocation; warns on standard error of variables that look like settings but are not."""
    from forecache.base.settings import load_settings, unknown_variables

    for name, close in unknown_variables().items():
        if name not in _WARNED:
            _WARNED.add(name)
            hint = f"Did you mean {close}?" if close else "`forecache settings` lists all settings."
            click.echo(f"Warning: there is no setting {name}. {hint}", err=True)
    current = load_settings()
    show_environment(current)
    return current


def show_environment(current: "Settings") -> None:
    """Say on standard error which environment is meant, once for a command; nothing if none was chosen."""
    context = click.get_current_context(silent=True)
    meta = {} if context is None else context.meta
    if current.environment and meta.get(_SHOWN_KEY) != current.environment and not FLAGS.json:
        click.echo(f"Environment: {current.environment}", err=True)
    meta[_SHOWN_KEY] = current.environment


def load_trained_model(name: str) -> "tuple[Settings, Trainable]":
    """The settings of this invocation, and the pipeline or real-time model of that name, which trains its model."""
    from forecache.declare.loading import load_trained

    current = settings()
    return current, load_trained(current, name)


def load_declared_pipeline(name: str) -> "tuple[Settings, Pipeline]":
    """The settings of this invocation, and the pipeline of that name, which is no real-time model."""
    from forecache.declare import load_pipeline

    current = settings()
    return current, load_pipeline(current, name)


def load_trained_pipeline(name: str) -> "tuple[Settings, Pipeline]":
    """As `load_declared_pipeline`, of a pipeline that trains its model."""
    from forecache.declare.models.trainable import not_trained_error

    current, found = load_declared_pipeline(name)
    if not found.is_trained:
        raise not_trained_error(found)
    return current, found


def newest_scored(current: "Settings", pipeline: "Pipeline") -> date:
    """The newest as-of date that the pipeline scored; NotFoundError without one."""
    from forecache.base.errors import NotFoundError
    from forecache.lake.ledger import newest_night

    newest = newest_night(current, "score", pipeline.name)
    if newest is None:
        raise NotFoundError(
            f"No as-of date of pipeline {pipeline.name!r} was scored yet.",
            remedy=f"`forecache run {pipeline.name}` scores the newest one.",
        )
    return newest
