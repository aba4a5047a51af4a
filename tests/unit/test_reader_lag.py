"""A reader that has just started waits until its live layers are near their streams."""

from pathlib import Path

from forecache.serve.reader.versions.live_layers import LayerLag
from forecache.serve.store import KeyColumn, KeySchema, Store
from forecache.serve.store.live.layer import LiveLayer, write_layer
from forecache.serve.store.live.writer import open_live_writer

KEY = KeySchema((KeyColumn("customer_id", "string"),))


def live_store(folder: Path, *, max_lag_s: float | None) -> Store:
    store = Store(folder / "churn")
    store.layout.create()
    write_layer(store.layout, LiveLayer("clicks", "stream_clicks", "rows", KEY, (), max_lag_s=max_lag_s))
    return store


def test_a_reader_waits_for_a_tailer_and_for_what_the_table_has(tmp_path: Path) -> None:
    store, lag = live_store(tmp_path, max_lag_s=30.0), LayerLag()
    lag.check_layers([store])
    assert lag.reason.startswith("Nobody follows the stream clicks for churn here")
    with open_live_writer(store.layout) as writer:
        writer.apply(3, [])
        writer.publish_table_version(5)
        lag.check_layers([store])
        assert lag.reason == "The live layer of churn has version 3 of stream_clicks, which has version 5."
        writer.apply(5, [])
        writer.publish_table_version(5)
        lag.check_layers([store])
        assert lag.reason == ""
        writer.publish_table_version(9)
        lag.check_layers([store])
        assert lag.reason == ""


def test_a_store_without_a_bound_or_without_a_layer_is_not_waited_for(tmp_path: Path) -> None:
    lag = LayerLag()
    lag.check_layers([live_store(tmp_path, max_lag_s=None), Store(tmp_path / "other")])
    assert lag.reason == ""
