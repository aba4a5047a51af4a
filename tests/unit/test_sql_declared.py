"""SQL of declarations: what is refused when it loads, with place and remedy, and what its fingerprint is of."""

from dataclasses import replace
from typing import Any

import pytest
from sql_project.pipelines.orders import CUSTOMER, ORDERS, REGION, orders

from forecache.base.errors import SettingsError
from forecache.base.settings import PROJECT_ROOT
from forecache.declare import Entities, Feature, Features, FeatureView, Label
from forecache.declare.sql.aggregates import AGGREGATES
from forecache.declare.sql.functions import RANKS, ROW_FUNCTIONS, SCALARS


def view(sql: str, *features: Feature, key: str = "customer") -> FeatureView:
    columns = features or (Feature("n"),)
    return FeatureView("tried", (key,), (ORDERS,), Features(columns=columns, sql=sql))


def counted(expression: str, rest: str = "") -> str:
    return f"select customer, as_of, {expression} as n from orders {rest}group by customer, as_of"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select customer,\n as_of, from where", r"cannot be read at line 2, column"),
        (
            "select customer, as_of, 1 as n from sales",
            r"the table 'sales', which is not there \(line 1, column 37\). Tables are orders",
        ),
        (
            counted("max(price)"),
            r"the column 'price', which is not there \(line 1, column 29\). Columns are customer, at",
        ),
        ("select o.price, as_of from orders o", r"the column o.price, which is not there .* Its columns are customer"),
        (
            "select customer, as_of from orders group by all",
            r"without the column 'n'. It has customer, as_of: select it",
        ),
        ("select customer, count(*) as n from orders group by all", r"without the column 'as_of'"),
        ("select as_of, count(*) as n from orders group by all", r"without the column 'customer'"),
        ("select customer, event_day as as_of, 1 as n from orders", r"another `as_of` than that of a table"),
        ("select customer, as_of + 1 as as_of, 1 as n from orders", r"another `as_of` than that of a table"),
        (
            "select pieces as customer, as_of, 1 as n from orders",
            r"the key column 'customer' as a bigint. Its source has a string",
        ),
        (
            counted("max(customer)"),
            r"the number 'n' as a string. It is bigint or double or decimal or boolean: cast it",
        ),
        (counted("random()"), r"calls random\(\) \(line 1, column 25\). Use what is equal in each run"),
        (counted("max(now())"), r"calls now\(\) .*Use `as_of`, the as-of date"),
        (counted("date_diff('day', max(event_day), current_date)"), r"calls current_date\(\) .*Use `as_of`"),
        (counted("first(amount)"), r"calls first\(\) .*depends on the order of rows: use arg_max\(value, time\)"),
        (counted("string_agg(customer)"), r"calls string_agg\(\) .*depends on the order of rows"),
        (counted("stddev(amount)"), r"calls stddev\(\) .*use sum\(x\) and sum\(x \* x\)"),
        (counted("approx_quantile(amount, 0.5)"), r"calls approx_quantile\(\) .*Use median\(\)"),
        (counted("max(ln(amount))"), r"calls ln\(\) .*log=True"),
        (counted("max(regexp_extract(customer, 'a'))"), r"calls regexp_extract\(\) .*Functions are abs, arg_max"),
        (counted("sum(distinct amount)"), r"sum\(\) of distinct values"),
        (counted("count(distinct amount)"), r"count\(distinct\) of a double .*cast\(\.\.\. as decimal\(18,2\)\)"),
        (counted("sum(sum(amount))"), r"sum\(\) of an aggregate"),
        (
            "select customer, as_of, amount as n from orders group by customer, as_of",
            r"the column orders.amount, which is neither grouped by",
        ),
        ("select customer, as_of, amount as n from orders limit 3", r"has LIMIT .*The rows of a table have no order"),
        (
            "select customer, as_of, amount as n from orders order by n",
            r"has ORDER .*The rows of a table have no order",
        ),
        (
            "select customer, as_of, row_number() over (order by at) as n from orders",
            r"calls row_number\(\) over rows that may tie .*First `group by` in a subquery",
        ),
        (
            "with days as (select customer, event_day, as_of, count(*) as m from orders group by all)\n"
            "select customer, as_of, lag(m) over (order by event_day) as n from days",
            r"calls lag\(\) over rows that may tie \(line 2, .*unique by, days.customer, days.event_day, or first",
        ),
        (
            "select customer, as_of, lag(at) over (partition by customer) as n from orders",
            r"lag\(\) .*without an order",
        ),
        (counted("lead(at)"), r"calls lead\(\) without a window .*Write `over \(partition by ... order by ...\)`"),
        ("select customer, as_of, sum(pieces) over (order by at rows 2 preceding) as n from orders", r"has SPEC"),
        (
            "select customer, as_of, cast(customer as int) as n from orders",
            r"cast of a string to a bigint .*Declare the type",
        ),
        ("select customer, as_of, cast(amount as decimal(38,10)) as n from orders", r"It has at most 18 digits"),
        ("select customer, as_of, customer + 1 as n from orders", r"has \+ of a string"),
        ("select customer, as_of, if(customer = 1, 1, 0) as n from orders", r"comparison = of a bigint and a string"),
        ("select customer, as_of, 1 as n from orders where amount", r"has a double as its where"),
        ("select customer, as_of, 1 as n from orders where amount in (select 1)", r"`in` with a query .*semi join"),
        ("select customer, as_of, (select 1) as n from orders", r"has `\(SELECT 1\)`, which is not allowed"),
        (
            "select o.customer, o.as_of, 1 as n from orders o, orders p where amount > 1",
            r"'amount', which several tables have",
        ),
        ("select customer, as_of, 1 as n from orders o asof join orders p using (at)", r"has METHOD|ASOF"),
        ("select customer, as_of, 1 as n from orders tablesample 10%", r"has SAMPLE"),
        ("select customer, as_of, 1 as n from 'orders.parquet'", r"the table 'orders.parquet', which is not there"),
        ("select customer, as_of, 1 as n from read_csv('x')", r"other than a table"),
        ("delete from orders", r"a statement of the kind DELETE"),
        ("select customer, as_of, 1 as n from orders; select 2", r"is 2 statements"),
    ],
)
def test_wrong_sql_is_refused_when_the_declaration_loads(sql: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        view(sql)
    assert str(refused.value).startswith("FeatureView 'tried' has SQL ")


@pytest.mark.parametrize(
    ("feature", "expression", "message"),
    [
        (Feature("n", type="integer"), "sum(amount)", "the integer 'n' as a double. It is bigint or boolean: cast it"),
        (Feature("n", type="category"), "sum(amount)", "the category 'n' as a double"),
        (Feature("n", type="text", size=8), "count(*)", "the text 'n' as a bigint"),
        (Feature("n", type="vector", size=2), "count(*)", "the vector 'n' as a bigint. Give the features a function"),
    ],
)
def test_columns_of_other_types_than_their_features_are_refused(
    feature: Feature, expression: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        view(counted(expression), feature)


def test_guide_names_every_function_that_is_allowed() -> None:
    guide = (PROJECT_ROOT / "docs" / "how-to" / "features.md").read_text()
    assert [name for name in [*SCALARS, *AGGREGATES, *RANKS, *ROW_FUNCTIONS] if f"`{name}`" not in guide] == []


def test_sql_beside_a_function_and_a_label_without_both_are_refused() -> None:
    def compute(*tables: Any) -> Any:
        raise NotImplementedError

    with pytest.raises(SettingsError, match="`Features` has both `compute` and `sql`. Give one of the two"):
        Features(columns=(Feature("n"),), compute=compute, sql="select 1")
    with pytest.raises(SettingsError, match="Label 'y' has neither `compute` nor `sql`"):
        Label("y", "binary", 1)
    with pytest.raises(SettingsError, match="`Entities` has neither `compute` nor `sql`"):
        Entities(sources=(ORDERS,))


def test_labels_and_entities_are_checked_with_the_pipeline() -> None:
    wrong = Label("next_spend", "regression", 1, sql="select customer, as_of, pieces as spent from orders")
    with pytest.raises(SettingsError, match="The label of pipeline 'orders' has SQL without the column 'next_spend'"):
        replace(orders, label=wrong)
    text = replace(wrong, sql="select customer, as_of, customer as next_spend from entities")
    with pytest.raises(SettingsError, match="label of pipeline 'orders' has SQL with the label 'next_spend' as a str"):
        replace(orders, label=text)
    assert orders.entities is not None
    lacking = replace(orders.entities, sql="select customer, as_of from customers")
    with pytest.raises(SettingsError, match="entities of pipeline 'orders' has SQL without the column 'region'"):
        replace(orders, entities=lacking)


def test_fingerprint_is_that_of_the_parse_tree() -> None:
    known = view(counted("sum(amount) + 1"))
    same = "-- spent\nSELECT customer,\n  as_of, /* all */ Sum(amount)+1 AS n FROM orders GROUP BY customer, as_of;"
    assert view(same).fingerprint == known.fingerprint
    for other in (counted("sum(amount) + 2"), counted("sum(amount) + 1", "where pieces > 0 ")):
        assert view(other).fingerprint != known.fingerprint
    assert len({CUSTOMER.fingerprint, REGION.fingerprint, known.fingerprint}) == 3


def test_fingerprints_of_a_pipeline_have_its_sql() -> None:
    assert orders.label is not None
    assert orders.entities is not None
    label = replace(orders, label=replace(orders.label, sql=orders.label.sql.replace("coalesce", "COALESCE")))
    assert label.fingerprints == orders.fingerprints
    label = replace(orders, label=replace(orders.label, sql=orders.label.sql.replace("0)", "1)")))
    assert label.fingerprints.training_set != orders.fingerprints.training_set
    assert label.fingerprints.features == orders.fingerprints.features
    where = replace(orders.entities, sql=f"{orders.entities.sql} where region <> 'none'")
    assert replace(orders, entities=where).fingerprints.features != orders.fingerprints.features
