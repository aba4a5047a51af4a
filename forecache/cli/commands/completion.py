"""Completion of commands, options and names in a shell: `completion`."""

import click
from click.shell_completion import get_completion_class

from forecache.cli.base import command

_VARIABLE = "_FORECACHE_COMPLETE"


@command(
    "completion",
    examples="""
    eval "$(forecache completion bash)"              # in ~/.bashrc
    eval "$(forecache completion zsh)"               # in ~/.zshrc
    forecache completion fish > ~/.config/fish/completions/forecache.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options, and the names that the project declares."""
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "forecache", _VARIABLE).source())
