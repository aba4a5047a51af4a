"""What the UI shows of a scoring run: its plan, and beside it what came of it."""

from assets.views import plan_view

FIGURES = {"rows": 1000, "rows_per_second": 500, "seconds": 2.0, "cores": 2, "core_s": 4.0, "worker_bytes": None}


def details(**changed: object) -> dict[str, object]:
    return {
        "predicted": FIGURES | {"rows_per_second": 400, "basis": "2 earlier nights"},
        "actual": FIGURES | {"worker_bytes": 1_000_000, "basis": "measured"},
        "plan": {"runtime": "onnx", "reason": "onnx: the model has an ONNX flavour"},
        "batch": {"batch_rows": 8192, "batch_source": "kept"},
        "warnings": ["a package differs"],
        **changed,
    }


def test_a_plan_is_a_table_of_predicted_and_actual() -> None:
    shown = plan_view(details())
    lines = shown["plan"].value.splitlines()
    assert lines[0] == "|  | predicted | actual |"
    assert "| rows per second | 400 | 500 |" in lines
    assert "| worker bytes |  | 1,000,000 |" in lines
    assert shown["predicted_from"] == "2 earlier nights"
    assert shown["runtime"].startswith("onnx: ")
    assert (shown["batch_rows"], shown["warnings"]) == (8192, "a package differs")


def test_a_first_night_and_one_without_work_say_what_is_known() -> None:
    shown = plan_view(details(predicted=None, batch=None, warnings=[]))
    assert "nothing is known" in shown["predicted_from"]
    assert not {"warnings", "batch_rows"} & set(shown)
    assert plan_view({"scored": []}) == {}


def test_a_night_that_was_scored_beside_a_challenger_shows_its_plan_without_that_of_one_model() -> None:
    whole = details()
    shown = plan_view({name: whole[name] for name in ("predicted", "actual")})
    assert "| rows per second | 400 | 500 |" in shown["plan"].value
    assert "runtime" not in shown
