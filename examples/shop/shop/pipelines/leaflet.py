"""A leaflet by e-mail: what the shop recommends to a household, each morning once."""

from datetime import date
from pathlib import Path

from forecache import Column, Mailing, Snapshot, Source
from shop.pipelines.recommended import recommended

CONTACTS = Source(
    name="contacts",
    description="Addresses of households, all of them each time, made up for this example.",
    columns=(Column("household", "int"), Column("address", "string"), Column("opted_out", "boolean")),
    time=Snapshot(),
    key=("household",),
    start=date(2017, 12, 31),
    end=date(2017, 12, 31),
)

leaflet = Mailing(
    name="leaflet",
    description="Ten products for each household.",
    pipeline=recommended,
    template=Path(__file__).with_name("leaflet.txt.j2"),
    subject="This week for you: {{ items[0].item }}",
    sender="The shop <leaflet@shop.example>",
    addresses=CONTACTS,
    user="household",
    unsubscribe="https://shop.example/no-leaflet?household={{ household }}",
    daily_limit=1_000,
)
