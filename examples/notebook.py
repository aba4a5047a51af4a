# %% [markdown]
# # Predictions, features and models in a notebook
#
# The project is that of `forecache init shop`, after its `make demo`. A notebook in its folder needs no settings;
# elsewhere, set `FORECACHE_HOME` and `FORECACHE_PROJECT`.

# %%
import forecache as fc

found = fc.predictions("returns")
found.table, found.version, found.date, len(found)

# %% [markdown]
# A frame has `to_pandas()`, `to_polars()` and `to_arrow()`. It holds the newest as-of date, or that of `date=`.
# `fc.sql` reads all tables of the lake by their names.

# %%
fc.sql("""
    select round(return_probability, 1) as probability, count(*) as customers
    from predictions_returns
    group by all
    order by probability
""")

# %% [markdown]
# A declaration is shown by its facts.

# %%
from shop.pipelines.returns import returns

returns

# %% [markdown]
# The model is the champion, with the verdict of its gate.

# %%
fc.model("returns")

# %% [markdown]
# It scores any frame with the features: what if everybody had ordered three times more?

# %%
frame = fc.features("customer").to_pandas()
more = frame.assign(orders_7d=frame.orders_7d + 3, orders_28d=frame.orders_28d + 3)
before, after = (fc.score("returns", each).return_probability.mean() for each in (frame, more))
f"{before:.3f} becomes {after:.3f}"

# %% [markdown]
# An answer is followed back to its rows, its model and its code.

# %%
fc.explain("returns", found.to_pandas().customer[0])

# %% [markdown]
# ## Tests without a lake
#
# `forecache.testing` computes the parts of a declaration from a few rows, by the functions of the nightly run.

# %%
from datetime import datetime, timedelta, timezone

from shop.orders import ORDERS

from forecache import testing


def order(number, customer, day, amount):
    at = datetime.combine(ORDERS.start, datetime.min.time(), timezone.utc) + timedelta(days=day, hours=10)
    return {"order_id": number, "customer": customer, "item": f"item{number:02d}", "amount": amount, "ordered_at": at}


orders = [order(1, "ann", 1, 20.0), order(2, "bob", 2, 5.0), order(3, "ann", 9, 12.5), order(4, "ann", 13, 7.0)]
day = ORDERS.start + timedelta(days=10)
features = testing.features(returns, {"orders": orders}, date=day)
features

# %%
testing.labels(returns, {"orders": orders}, date=day)

# %% [markdown]
# The answers that the server would give, with a function in place of the model, and the gate's verdict on scores:

# %%
answers = testing.answers(returns, features, lambda columns: columns["orders_28d"] / 10, date=day)
[(answer["key"], answer["value"]) for answer in answers]

# %%
testing.gate(returns, scores=[0.9, 0.8, 0.2, 0.1] * 50, labels=[1, 1, 0, 0] * 50, baseline=[9, 0, 0, 0] * 50)
