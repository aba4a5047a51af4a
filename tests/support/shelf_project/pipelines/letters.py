"""Messages about what to offer."""

from pathlib import Path

from forecache import Mailing
from forecache.declare import Column, Source
from shelf_project import FIRST, LAST
from shelf_project.pipelines.shelf import offers

CONTACTS = Source(
    name="contacts",
    columns=(
        Column("customer", "string"),
        Column("address", "string"),
        Column("opted_out", "boolean"),
        Column("first_name", "string"),
        Column("day", "date"),
    ),
    event_time="day",
    start=FIRST,
    end=LAST,
)

letters = Mailing(
    name="letters",
    pipeline=offers,
    template=Path(__file__).with_name("offers.txt.j2"),
    html=Path(__file__).with_name("offers.html.j2"),
    subject="For you, {{ first_name }}: {{ items[0].item }}",
    sender="The shop <shop@example.com>",
    addresses=CONTACTS,
    user="customer",
    person="first_name",
    unsubscribe="https://shop.example.com/bye?who={{ customer | urlencode }}",
)
