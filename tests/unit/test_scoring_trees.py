"""scikit-learn's trees and networks are loaded without running code of the file, and no damaged tree is walked."""

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from forecache.base.errors import CheckError
from forecache.plugins.estimators.libraries import Matrix
from forecache.plugins.estimators.saving import refuse_unsaveable
from forecache.plugins.estimators.skops_files import load_predict, load_skops, refuse_unsound_trees

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((300, 4)).astype(np.float32)
LABEL = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(np.float32)


def forests() -> list[Any]:
    from sklearn import calibration, ensemble, linear_model, neural_network, tree

    return [
        tree.DecisionTreeClassifier(max_depth=4),
        ensemble.RandomForestClassifier(3),
        ensemble.GradientBoostingClassifier(n_estimators=3),
        ensemble.HistGradientBoostingClassifier(max_iter=3),
        ensemble.HistGradientBoostingRegressor(max_iter=3),
        ensemble.VotingClassifier([("forest", ensemble.RandomForestClassifier(3))], voting="soft"),
        neural_network.MLPClassifier((4,), max_iter=5),
        neural_network.MLPRegressor(hidden_layer_sizes=(4,), max_iter=5, solver="sgd"),
        calibration.CalibratedClassifierCV(linear_model.LogisticRegression()),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_trees_and_networks_are_saved_loaded_and_predict_the_same() -> None:
    import skops.io

    for estimator in forests():
        refuse_unsaveable(estimator, Matrix(ROWS, LABEL))
        assert not hasattr(estimator, "n_features_in_"), "the trial left something behind"
        estimator.fit(ROWS, LABEL)
        predict = load_predict(skops.io.dumps(estimator))
        wanted = estimator.predict_proba(ROWS)[:, 1] if hasattr(estimator, "predict_proba") else estimator.predict(ROWS)
        # Products are made in float64, whatever scikit-learn does with rows of float32; trees have none.
        products = type(estimator).__name__.startswith(("MLP", "Calibrated"))
        tolerance = 1e-6 if products else 0.0
        np.testing.assert_allclose(predict(ROWS), wanted, rtol=tolerance, atol=tolerance)


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(2, max_depth=3, random_state=0)


def boosted() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=2)


def changed(estimator: Any, column: str, value: int) -> bytes:
    """A skops file in whose first array with that column the first node has another value."""
    import skops.io

    source, target = zipfile.ZipFile(io.BytesIO(skops.io.dumps(estimator.fit(ROWS, LABEL)))), io.BytesIO()
    done = False
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(".npy") and not done:
                array = np.load(io.BytesIO(content))
                if array.dtype.names and column in array.dtype.names:
                    array[column][0], done = value, True
                    rewritten = io.BytesIO()
                    np.save(rewritten, array)
                    content = rewritten.getvalue()
            archive.writestr(name, content)
    assert done
    return target.getvalue()


@pytest.mark.parametrize(
    ("build", "column", "value"),
    [
        (forest, "left_child", 10_000),
        (forest, "right_child", 0),
        (forest, "left_child", -7),
        (forest, "feature", 99),
        (boosted, "left", 10_000),
        (boosted, "right", 0),
        (boosted, "feature_idx", 99),
    ],
)
def test_a_tree_that_leads_out_of_its_arrays_or_in_circles_is_refused(
    build: Callable[[], Any], column: str, value: int
) -> None:
    with pytest.raises(CheckError, match="leads out of its own nodes or features"):
        load_skops(changed(build(), column, value))


def widened(member: Any) -> None:
    """Let a fitted tree believe that its rows have nine features, and look at the last of them."""
    state = member.tree_.__getstate__()
    state["nodes"]["feature"][0] = 8
    wide = type(member.tree_)(9, np.array([1], np.intp), 1)
    wide.__setstate__(state)
    member.tree_, member.n_features_in_ = wide, 9


@pytest.mark.parametrize("kind", ["GradientBoostingRegressor", "RandomForestRegressor"])
def test_a_member_that_takes_wider_rows_than_its_ensemble_is_refused(kind: str) -> None:
    import skops.io
    from sklearn import ensemble

    fitted = getattr(ensemble, kind)(n_estimators=2, max_depth=2, random_state=0).fit(ROWS, ROWS[:, 0])
    load_skops(skops.io.dumps(fitted))
    widened(np.ravel(np.array(fitted.estimators_, dtype=object))[1])
    with pytest.raises(CheckError, match="leads out of its own nodes or features"):
        load_skops(skops.io.dumps(fitted))


def test_a_tree_that_two_estimators_share_is_checked_for_each_of_them() -> None:
    from sklearn.ensemble import VotingRegressor
    from sklearn.tree import DecisionTreeRegressor

    trees = [(name, DecisionTreeRegressor(max_depth=2)) for name in ("wide", "narrow")]
    fitted = VotingRegressor(trees).fit(ROWS, ROWS[:, 0])
    wide, narrow = fitted.estimators_
    widened(wide)
    narrow.tree_ = wide.tree_
    for found in ([wide, narrow], [narrow, wide]):
        with pytest.raises(CheckError, match="leads out of its own nodes or features"):
            refuse_unsound_trees(found)


def test_members_that_are_given_chosen_columns_may_be_narrower() -> None:
    from sklearn import decomposition, ensemble, multioutput, pipeline, tree

    narrow = pipeline.make_pipeline(decomposition.PCA(2), tree.DecisionTreeRegressor(max_depth=2))
    chosen = ensemble.BaggingRegressor(tree.DecisionTreeRegressor(max_depth=2), n_estimators=2, max_features=2)
    isolating = ensemble.IsolationForest(n_estimators=2, max_features=2)
    for estimator in (ensemble.VotingRegressor([("narrow", narrow)]), chosen, isolating):
        refuse_unsound_trees(estimator.fit(ROWS, ROWS[:, 0]))
    chain = multioutput.RegressorChain(tree.DecisionTreeRegressor(max_depth=2))
    refuse_unsound_trees(chain.fit(ROWS, ROWS[:, :2]))


def test_columns_that_an_ensemble_does_not_choose_make_no_member_wider() -> None:
    from sklearn import ensemble

    forest = ensemble.RandomForestRegressor(n_estimators=1, max_depth=2).fit(ROWS, ROWS[:, 0])
    isolating = ensemble.IsolationForest(n_estimators=1).fit(ROWS)
    for fitted in (forest, isolating):
        widened(fitted.estimators_[0])
        fitted.estimators_features_ = [np.arange(9) % 4]
        with pytest.raises(CheckError, match="leads out of its own nodes or features"):
            refuse_unsound_trees(fitted)


def test_an_estimator_with_code_in_its_file_is_refused_before_it_is_fitted() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    for estimator in (KNeighborsClassifier(), Own()):
        with pytest.raises(CheckError, match=r"holds .*, which cannot be loaded without trusting code in the file"):
            refuse_unsaveable(estimator, Matrix(ROWS, LABEL))


def test_an_estimator_that_needs_more_rows_than_the_trial_has_is_left_to_the_fit() -> None:
    class Many(Own):
        def fit(self, rows: Any, label: Any) -> "Own":
            raise ValueError(f"{len(rows)} rows are too few")

    refuse_unsaveable(Many(), Matrix(ROWS, LABEL))


class Own:
    """An estimator of the project's own."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {}

    def set_params(self, **changes: Any) -> "Own":
        return self

    def fit(self, rows: Any, label: Any) -> "Own":
        return self
