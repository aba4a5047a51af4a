"""The tutorial "Change a feature safely" and the recipe for pull requests, with their commands as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks_of(page: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / "docs" / page).read_text()) if kind == language]


class Shell:
    """A shell in which the commands of a page run, one block after the other, with the programs of this environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        roles = [f"GIT_{role}_{what}" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
        who = dict.fromkeys(roles, "reader@example.org")
        kept = {name: os.environ[name] for name in ("HOME", "PYTHONPATH", "LANG", "JAVA_HOME") if name in os.environ}
        self.variables = {**kept, **who, "PATH": programs}

    def run(self, text: str, *, fails: bool = False, **variables: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", text],
            cwd=self.folder,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("work"))


def test_the_tutorial_runs_as_written_and_merging_computes_nothing(shop: Shell) -> None:
    said: dict[str, str] = {}
    for block in blocks_of("tutorials/change-a-feature.md", "bash"):
        said[block] = shop.run(block)
        if "cd shop" in block:
            shop.folder /= "shop"
    [planned] = [text for block, text in said.items() if block.startswith("forecache plan")]
    assert "orders_14d" in planned
    [merged] = [text for block, text in said.items() if "git merge" in block]
    for stage in ("features of customer", "training_set of returns", "train of returns", "score of returns"):
        assert re.search(rf"{stage}.*: taken over from the trial prod/shorter-memory", merged), stage
    [compared] = [text for block, text in said.items() if block.startswith("forecache diff")]
    assert "return_probability" in compared
    assert "<svg" in (shop.folder / "diff.html").read_text()
    [explained] = [text for block, text in said.items() if "forecache explain" in block]
    assert "orders_14d" in explained


def test_the_recipe_of_a_pull_request_passes_and_fails_by_the_gate_and_by_its_limit(shop: Shell) -> None:
    [text] = blocks_of("how-to/pull-requests.md", "yaml")
    [step] = [step for step in yaml.safe_load(text)["jobs"]["changes"]["steps"] if "env" in step]
    environments = shop.folder / "environments.toml"
    environments.write_text(f'{environments.read_text()}[staging]\nhome = ".forecache"\n')
    shop.run("git commit --quiet -am staging")
    summary = shop.folder / "summary.md"

    def check(trial: str, *, most: str, fails: bool = False) -> str:
        summary.write_text("")
        script = f"set -o pipefail\n{step['run']}"
        shop.run(script, fails=fails, GITHUB_STEP_SUMMARY=str(summary), TRIAL=trial, MOST_CHANGED=most)
        return summary.read_text()

    shop.run("git switch --quiet --create a-docstring; sed -i '1s/Returns/Who returns/' shop/pipelines/returns.py")
    assert "returns" not in check("pull-1", most="0")
    shop.run("git commit --quiet -am words; git switch --quiet main; git switch --quiet --create a-feature")
    pipeline = shop.folder / "shop" / "pipelines" / "returns.py"
    pipeline.write_text(pipeline.read_text().replace('"distinct", 28, "item"', '"distinct", 7, "item"'))
    told = check("pull-2", most="1.0", fails=True)
    assert "items_28d" in told
    assert re.search(r"Model returns \d+ failed the gate: roc_auc \S+ worse than champion", told), told
    assert "return_probability" not in told
    pipeline.write_text(pipeline.read_text().replace("gate=Gate(", "gate=Gate(max_regression=0.1,"))
    told = check("pull-3", most="0.0", fails=True)
    assert "return_probability" in told, told
    assert "failed the gate" not in told
    assert "return_probability" in check("pull-3", most="1.0")
