"""Plots in Dagster's metadata: every figure is in the picture, and every text is escaped."""

from xml.etree import ElementTree

from assets.plots import draw_bars, draw_lines

_SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{_SVG}text")]


def test_each_label_has_a_bar_as_long_as_its_count() -> None:
    svg = draw_bars("Rows by <segment>", {"a & b": 400, "c": 100, "none": 0})
    wide = [float(each.attrib["width"]) for each in ElementTree.fromstring(svg).iter(f"{_SVG}rect")]
    assert [each / wide[0] for each in wide] == [1.0, 0.25, 0.0]
    assert texts(svg) == ["Rows by <segment>", "a & b", "400", "c", "100", "none", "0"]


def test_lines_go_from_the_largest_value_at_the_top_to_the_smallest_at_the_bottom() -> None:
    svg = draw_lines("Loss by epoch", {"training": [2.0, 1.0, 0.5], "validation": [2.5, 1.5, 1.25]})
    lines = [each.attrib["points"].split() for each in ElementTree.fromstring(svg).iter(f"{_SVG}polyline")]
    heights = [[float(point.split(",")[1]) for point in line] for line in lines]
    assert heights[1][0] == min(min(heights[0]), min(heights[1])), "2.5 is the highest"
    assert heights[0][2] == max(max(heights[0]), max(heights[1])), "0.5 is the lowest"
    assert {"2.5", "0.5", "3", "training", "validation"} <= {*texts(svg)}


def test_a_line_of_one_value_is_drawn() -> None:
    assert "polyline" in draw_lines("Loss by epoch", {"training": [1.0]})
