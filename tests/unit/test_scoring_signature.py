"""A result type either fits the model's signature or is refused with both sides, before anything runs."""

import pytest

from forecache.base.errors import SettingsError
from forecache.models.inference.kernel_spec import OutputColumn
from forecache.models.inference.signature import parse_result_type, resolve_result

FLOAT = (OutputColumn("p", "float"),)
TWO = (OutputColumn("p", "double"), OutputColumn("label", "string"))


def test_without_a_result_type_the_signature_decides() -> None:
    assert resolve_result(FLOAT, None) == (FLOAT, "scalar")
    assert resolve_result(TWO, None) == (TWO, "struct")
    assert resolve_result((OutputColumn("v", "float", 3),), None)[1] == "array"


@pytest.mark.parametrize("wanted", ["float", "double"])
def test_a_number_may_be_widened(wanted: str) -> None:
    columns, shape = resolve_result(FLOAT, wanted)
    assert (columns[0].type, shape) == (wanted, "scalar")


@pytest.mark.parametrize(
    ("outputs", "wanted", "words"),
    [
        (FLOAT, "string", "result_type is string, and the model returns float"),
        (FLOAT, "int", "result_type is int, and the model returns float"),
        (FLOAT, "array<float>", "result_type is array<float>, and the model returns float"),
        (TWO, "double", "result_type is double, and the model returns struct<p: double, label: string>"),
        (TWO, "q double", "result_type is struct<q: double>, and the model returns struct<p: double, label: string>"),
        (TWO, "p string, label string", "result_type is struct<p: string, label: string>, and the model returns"),
    ],
)
def test_a_mismatch_names_both_sides(outputs: tuple[OutputColumn, ...], wanted: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        resolve_result(outputs, wanted)
    assert words in str(refused.value)


def test_some_fields_of_a_struct_may_be_picked_by_name() -> None:
    assert resolve_result(TWO, "label string, p double") == (TWO, "struct")
    assert resolve_result(TWO, "label string") == ((TWO[1],), "struct")


def test_a_model_without_output_signature_needs_a_result_type() -> None:
    with pytest.raises(SettingsError, match="Pass result_type"):
        resolve_result(None, None)
    assert resolve_result(None, "long") == ((OutputColumn("prediction", "bigint"),), "scalar")


@pytest.mark.parametrize("wrong", ["floaty", "map<string,int>", "p struct<a:int>"])
def test_a_type_that_scoring_does_not_return_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError):
        parse_result_type(wrong)
