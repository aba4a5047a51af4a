"""A mailing: a message to each user of a published pipeline, with its addresses and daily limit."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from forecache.base.errors import SettingsError
from forecache.base.table_names import AS_OF, check_column, check_name, check_unique
from forecache.declare.checks import check_fields, check_known, check_least, check_value
from forecache.declare.declaration import Pipeline
from forecache.declare.served import FollowUp, NightlyDeclaration
from forecache.declare.sources.source import AnySource
from forecache.kit.smtp import is_address

ITEM_FIELDS = ("item", "score", "reason")


def compile_template(owner: str, text: str, *, html: bool = False) -> jinja2.Template:
    """Compile a template in Jinja's sandbox: a name without a value is an error, nothing can be changed or loaded."""
    try:
        return _environment(html=html).from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise SettingsError(
            f"{owner} is no template: {error.message} (line {error.lineno}).", remedy="Mend it there."
        ) from None


def check_template(owner: str, text: str, *, names: Collection[str], lists: Collection[str] = ()) -> None:
    """Refuse a template with names or fields that will have no value; `lists` are the names of lists of items."""
    compile_template(owner, text)
    tree = _environment(html=False).parse(text)
    for node in tree.find_all((nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)):
        raise SettingsError(
            f"{owner} loads another template in line {node.lineno}.", remedy="Write it in one file: nothing is loaded."
        )
    unknown = sorted(meta.find_undeclared_variables(tree) - set(names))
    if unknown:
        raise SettingsError(f"{owner} has the unknown field {unknown[0]!r}.", remedy=f"It may have {', '.join(names)}.")
    for loop in tree.find_all(nodes.For):
        if not isinstance(loop.target, nodes.Name) or _root_name(loop.iter) not in lists:
            continue
        for part in loop.body:
            for field in [*part.find_all(nodes.Getattr), *([part] if isinstance(part, nodes.Getattr) else [])]:
                is_place = isinstance(field.node, nodes.Name) and field.node.name == loop.target.name
                if is_place and field.attr not in ITEM_FIELDS:
                    raise SettingsError(
                        f"{owner} has the unknown field {loop.target.name}.{field.attr} in line {field.lineno}.",
                        remedy=f"A place of a list has {', '.join(ITEM_FIELDS)}.",
                    )


def fill(template: jinja2.Template, values: Mapping[str, Any]) -> str:
    """Render a template; raises ValueError with the reason, such as at the fifth item of a list of three."""
    try:
        return template.render(values)
    except Exception as error:  # whatever a template does with values that it did not expect
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _environment(*, html: bool) -> jinja2.Environment:
    return ImmutableSandboxedEnvironment(
        autoescape=html, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _root_name(node: Any) -> str | None:
    """The name that an expression begins with: `items` for `items[:3]` and for `items | first`."""
    while node is not None and not isinstance(node, nodes.Name):
        node = getattr(node, "node", None)
    return None if node is None else str(node.name)


_TABLE = re.compile(r"[a-z][a-z0-9_]*|[a-z][a-z0-9]*://\S+|/\S+")
_KEY_TYPES = ("string", "int", "bigint", "date")


@dataclass(frozen=True)
class Mailing(FollowUp):
    """Messages about what a pipeline has published: one for each user and as-of date, by SMTP.

    Templates are rendered in Jinja's sandbox, with the key column, `as_of` (date), the served fields, `fields` and
    `person`. When the declaration loads, a template with any other name, or with an unknown field of a list's item, is
    refused.

    Attributes:
        name: Part of the names of the job and of its rows in the table `mail_ledger`.
        pipeline: The published `Recommender` or `Pipeline`, with a key of one column.
        template: File of the text, beside the declaration: `Path(__file__).with_name("letter.txt.j2")`.
        html: File of the HTML version; values are escaped in it.
        subject: Template of the subject, one line.
        sender: Address of the sender, such as "The shop <shop@example.com>".
        addresses: Where the addresses are: a `Source` or `TableSource`, of which a user's latest row counts (of
            snapshots, the newest delivery), or an existing Delta table that has a row for each user, by its name in the
            lake or its URI.
        user: Column of `addresses` with the pipeline's key.
        address: Column of `addresses` with the e-mail address.
        opted_out: Column of `addresses` (boolean) that is true if the user wants no mail.
        person: Column of `addresses` with the user's name, for the header `To` and the templates.
        fields: Further columns of `addresses` for the templates.
        daily_limit: Most messages of this mailing a day (UTC), over all as-of dates.
        unsubscribe: Template of an https or mailto URL for the header `List-Unsubscribe`.
        in_doubt: What happens to a message that was sent whole but got no answer from the server: "send" sends it again
            with the same Message-ID, "skip" does not.
        was_accepted: Returns, from the server's log for example, whether the server has accepted a Message-ID; decides
            in place of `in_doubt`.
    """

    kind = "mailing"

    name: str
    pipeline: Any
    template: Path
    subject: str
    sender: str
    addresses: AnySource | str
    user: str
    address: str = "address"
    opted_out: str = "opted_out"
    person: str | None = None
    fields: tuple[str, ...] = ()
    html: Path | None = None
    daily_limit: int = 10_000
    unsubscribe: str = ""
    in_doubt: Literal["send", "skip"] = "send"
    was_accepted: Callable[[str], bool] | None = None
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = f"Mailing {self.name!r}"
        check_fields(owner, self)
        check_name("mailing", self.name)
        is_known = isinstance(self.pipeline, Pipeline | NightlyDeclaration)
        check_value(owner, "pipeline", self.pipeline, is_known, "It is a Pipeline or a Recommender.")
        check_least(owner, self, 1, "daily_limit")
        rule = "It is one address, such as shop@example.com or The shop <shop@example.com>."
        check_value(owner, "sender", self.sender, is_address(address_of(self.sender)), rule)
        rule = "A mailing is about one user: its pipeline has a key of one column."
        check_value(owner, "pipeline", self.pipeline.name, len(self.pipeline.key) == 1, rule)
        is_published = self.pipeline.publish is not None
        check_value(owner, "pipeline", self.pipeline.name, is_published, "That one is not published.")
        check_unique("field", owner, self.template_names)
        for name in self.columns:
            check_column(owner, name)
        self._check_addresses(owner)
        self._check_templates(owner)

    def _check_addresses(self, owner: str) -> None:
        if isinstance(self.addresses, str):
            rule = "It is a Source or TableSource, the name of a table of the lake, or the URI of a Delta table."
            check_value(owner, "addresses", self.addresses, _TABLE.fullmatch(self.addresses) is not None, rule)
            return
        types = {column.name: column.type for column in self.addresses.columns}
        which = f", which source {self.addresses.name!r} does not declare"
        check_known(f"{owner} has the column", self.columns, types, which)
        for what, allowed in (("user", _KEY_TYPES), ("address", ("string",)), ("opted_out", ("boolean",))):
            kind = types[getattr(self, what)]
            rule = f"That column is a {kind}; it has to be a {' or '.join(allowed)}."
            check_value(owner, what, getattr(self, what), kind in allowed, rule)

    def _check_templates(self, owner: str) -> None:
        lists = ("items",) if isinstance(self.pipeline, NightlyDeclaration) else ()
        for what, text in self.texts.items():
            check_template(f"The {what} of {owner}", text, names=self.template_names, lists=lists)
        check_value(owner, "subject", self.subject, len(self.subject.splitlines()) == 1, "It is one line.")
        fits = not self.unsubscribe or self.unsubscribe.startswith(("https://", "mailto:"))
        check_value(owner, "unsubscribe", self.unsubscribe, fits, "It begins with https:// or mailto:.")

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.user, self.address, self.opted_out, *self.personal_columns)))

    @property
    def personal_columns(self) -> tuple[str, ...]:
        return self.fields if self.person is None else (self.person, *self.fields)

    @property
    def template_names(self) -> tuple[str, ...]:
        return (*self.pipeline.key, AS_OF, *self.pipeline.served_fields, *self.personal_columns)

    @property
    def all_sources(self) -> tuple[AnySource, ...]:
        return () if isinstance(self.addresses, str) else (self.addresses,)

    @cached_property
    def texts(self) -> dict[str, str]:
        """The templates' texts by their part of the message, as they were when the declaration was loaded."""
        found = {"subject": self.subject, "template": _read_template(self.name, "template", self.template)}
        if self.html is not None:
            found["html"] = _read_template(self.name, "html", self.html)
        if self.unsubscribe:
            found["unsubscribe"] = self.unsubscribe
        return found

    @cached_property
    def templates(self) -> dict[str, jinja2.Template]:
        owner = f"Mailing {self.name!r}"
        return {
            what: compile_template(f"The {what} of {owner}", text, html=what == "html")
            for what, text in self.texts.items()
        }


def address_of(text: str) -> str:
    """The bare address of "Name <address>", or of an address alone; "" if the text is not one address on one line."""
    from email.utils import getaddresses

    found = getaddresses([text]) if len(text.splitlines()) == 1 else []
    return found[0][1] if len(found) == 1 else ""


def _read_template(name: str, what: str, path: Path) -> str:
    if not path.is_absolute():
        raise SettingsError(
            f"Mailing {name!r} has {what}={str(path)!r}, which depends on the folder one is in.",
            remedy="Write it like Path(__file__).with_name('letter.txt.j2').",
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"The {what} of mailing {name!r}, {path.name}, cannot be read: {error}.", remedy="Put it there, in UTF-8."
        ) from None
