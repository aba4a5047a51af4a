"""Jinja templates of a project; a name or field without a value is refused when the declaration loads."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from forecache.base.errors import SettingsError

if TYPE_CHECKING:
    import jinja2

ITEM_FIELDS = ("item", "score", "reason")


def compile_template(owner: str, text: str, *, html: bool = False) -> "jinja2.Template":
    """Compile a template in Jinja's sandbox: a name without a value is an error, and nothing can be changed or loaded.

    Args:
        owner: Name of the template in messages.
        html: Escape values for HTML.

    Raises:
        SettingsError: It is no template.
    """
    import jinja2

    try:
        return _environment(html=html).from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise SettingsError(
            f"{owner} is no template: {error.message} (line {error.lineno}).", remedy="Mend it there."
        ) from None


def check_template(owner: str, text: str, *, names: Collection[str], lists: Collection[str] = ()) -> None:
    """Refuse a template with names or fields that will have no value.

    Args:
        names: Names that will have a value.
        lists: Those of them that are lists of items, each with the fields ITEM_FIELDS.
    """
    from jinja2 import meta, nodes

    compile_template(owner, text)
    tree = _environment(html=False).parse(text)
    for node in tree.find_all((nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)):
        raise SettingsError(
            f"{owner} loads another template in line {node.lineno}.", remedy="Write it in one file: nothing is loaded."
        )
    unknown = sorted(meta.find_undeclared_variables(tree) - set(names))
    if unknown:
        raise SettingsError(
            f"{owner} has the unknown field {unknown[0]!r}.", remedy=f"It may have {_join_names(names)}."
        )
    for loop in tree.find_all(nodes.For):
        if not isinstance(loop.target, nodes.Name) or _root_name(loop.iter) not in lists:
            continue
        for part in loop.body:
            for field in [*part.find_all(nodes.Getattr), *([part] if isinstance(part, nodes.Getattr) else [])]:
                is_place = isinstance(field.node, nodes.Name) and field.node.name == loop.target.name
                if is_place and field.attr not in ITEM_FIELDS:
                    raise SettingsError(
                        f"{owner} has the unknown field {loop.target.name}.{field.attr} in line {field.lineno}.",
                        remedy=f"A place of a list has {_join_names(ITEM_FIELDS)}.",
                    )


def fill(template: "jinja2.Template", values: Mapping[str, Any]) -> str:
    """Render a template with values.

    Raises:
        ValueError: It failed, such as at the fifth item of a list of three; the message has the reason.
    """
    try:
        return template.render(values)
    except Exception as error:  # whatever a template does with values that it did not expect
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _environment(*, html: bool) -> "jinja2.Environment":
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        autoescape=html, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _root_name(node: Any) -> str | None:
    """The name that an expression begins with: `items` for `items[:3]` and for `items | first`."""
    from jinja2 import nodes

    while not isinstance(node, nodes.Name):
        node = getattr(node, "node", None)
        if node is None:
            return None
    return str(node.name)


def _join_names(names: Collection[str]) -> str:
    return ", ".join(names)
