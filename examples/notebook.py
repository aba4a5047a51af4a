# %% [markdown]
# # Predictions, features and models in a notebook
#
# The project is the one that `forecache init visits` makes, after its `make demo`. A notebook that is opened in its
# folder needs no settings; elsewhere, `FORECACHE_HOME` names the home and `FORECACHE_PROJECT` the package.

# %%
import forecache as fc

found = fc.predictions("returns")
found.table, found.version, found.date, len(found)

# %% [markdown]
# A frame becomes what you work with: `to_pandas()`, `to_polars()`, `to_arrow()`. It holds the newest as-of date, or the
# one that `date=` names, and of the table only that date's files are read. `fc.sql` reads all tables of the lake by
# their names.

# %%
fc.sql("""
    select round(return_probability, 1) as probability, count(*) as visitors
    from predictions_returns
    group by all
    order by probability
""")

# %% [markdown]
# A declaration is shown by its facts.

# %%
from visits.pipelines.returns import returns

returns

# %% [markdown]
# The model is the champion, with the verdict of its gate.

# %%
fc.model("returns")

# %% [markdown]
# It scores any frame with the features, as a nightly run does: what if everybody had come three times more this week?

# %%
frame = fc.features("returns").to_pandas()
more = frame.assign(visits_7d=frame.visits_7d + 3, visits_28d=frame.visits_28d + 3)
before, after = (fc.score("returns", each).return_probability.mean() for each in (frame, more))
f"{before:.3f} becomes {after:.3f}"

# %% [markdown]
# An answer is followed back to its rows, its model and its code.

# %%
fc.explain("returns", found.to_pandas().visitor[0])

# %% [markdown]
# ## Tests without a lake
#
# `forecache.testing` computes the parts of a declaration from rows that you write by hand, by the functions of the
# nightly run and in a temporary home.

# %%
from datetime import date

from forecache import testing

visits = [
    {"visitor": "ann", "day": date(2026, 1, 10), "pages": 4},
    {"visitor": "ann", "day": date(2026, 1, 31), "pages": 2},
    {"visitor": "bob", "day": date(2026, 1, 2), "pages": 6},
    {"visitor": "ann", "day": date(2026, 2, 3), "pages": 1},
]
features = testing.features(returns, {"visits": visits}, date="2026-01-31")
features

# %%
testing.labels(returns, {"visits": visits}, date="2026-01-31")

# %% [markdown]
# The answers that the server would give, with a function in place of the model, and the gate's verdict on scores:

# %%
answers = testing.answers(returns, features, lambda columns: 1 / (1 + columns["recency_days"]), date="2026-01-31")
[(answer["key"], answer["value"]) for answer in answers]

# %%
testing.gate(returns, scores=[0.9, 0.8, 0.2, 0.1] * 50, labels=[1, 1, 0, 0] * 50, baseline=[0, 9, 9, 9] * 50)
