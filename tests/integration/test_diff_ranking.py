"""Champions of a real-time model in two environments, measured on the requests that both have whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from ranked_project.pipelines.offers import offers
from ranking_sample import DAYS, write_requests
from sklearn.metrics import ndcg_score

from forecache.base.settings import Settings, load_settings
from forecache.models.registry.gate.examples import open_model
from forecache.models.registry.model_versions import find_champion, judged_folder
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.plugins.diff.model_diff import compare_models

pytestmark = pytest.mark.slow
BROKEN, GONE = "r000003", "r000007"  # both in the test split


def make_champion(settings: Settings) -> None:
    trained = train(settings, offers, DAYS["test"])
    version = register_trained_model(settings, offers, trained).details["model_version"]
    assert run_gate(settings, offers, version, actor="test").passed


def test_both_are_measured_on_the_requests_that_both_have_whole(tmp_path: Path) -> None:
    before, after = (load_settings("", home=tmp_path / name, project="ranked_project") for name in "ab")
    write_requests(before, offers, 800)
    make_champion(before)
    write_requests(after, offers, 800)
    uri = after.table_uri(offers.training_table)
    rows = DeltaTable(uri).to_pyarrow_table().to_pandas()
    is_early = (rows["split"] == "train") & (rows["request_id"] < "r000400")  # so that the second model is another one
    is_gone = (rows["request_id"] == GONE) | ((rows["request_id"] == BROKEN) & (rows["position"] == 0))
    rows = rows[~is_gone & ~is_early]
    schema = pa.schema(DeltaTable(uri).schema())
    write_deltalake(uri, pa.Table.from_pandas(rows, schema, preserve_index=False), mode="overwrite")
    make_champion(after)

    found = compare_models(before, after, offers)
    common = rows[(rows["split"] == "test") & ~rows["request_id"].isin([BROKEN, GONE])]
    common = common.sort_values(["request_id", "position"])
    assert found.rows == len(common)
    assert found.missing == ""
    for side, settings in enumerate((before, after)):
        champion = find_champion(settings, offers)
        assert champion is not None
        model = open_model(judged_folder(settings, champion), offers.main_output.spec)
        values = [
            ndcg_score(
                [request["taken"]], [model.predict(request[list(offers.feature_names)].to_numpy(np.float32))], k=10
            )
            for _, request in common.groupby("request_id")
            if request["taken"].any() and len(request) > 1
        ]
        assert found.metrics["ndcg@10"][side] == pytest.approx(np.mean(values))
    assert found.metrics["ndcg@10"][1] != found.metrics["ndcg@10"][0]
