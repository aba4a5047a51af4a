"""What has to be there before anything is measured: programs, peers, and the features that they serve."""

import shutil
from pathlib import Path

from _store.processes import OTHER_CORE, ROOT, BenchmarkError, run_checked
from _store.progress import say

from _realtime import bento, case, home, load, peer_data
from _realtime.sizes import Sizes

_PROGRAMS = {"redis-server": "redis-server", "redis-cli": "redis-tools", "wrk": "wrk", "taskset": "util-linux"}


def prepare(work: Path, sizes: Sizes) -> None:
    """Install the peers, build the load generator, publish our features and load Feast's; again at no cost.

    Raises:
        BenchmarkError: A program is missing.
    """
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise BenchmarkError(f"{program} is missing; install it: apt-get install -y {package}")
    load.program()
    run_checked(["bash", ROOT / "benchmarks" / "peers_env.sh", "small"])
    for name in peer_data.NAMES:
        try:
            peer_data.install(name)
        except BenchmarkError as error:
            say(f"{name} is not installed and will not be measured: {error}")
    case.write_models(work / "models")
    prepare_bento(work, sizes)
    home.published(work / "wide", {"wide": sizes.lookup_keys})
    for views in ({"household": sizes.keys, "product": sizes.keys}, {"wide": sizes.feast_keys}):
        with peer_data.feast(work, views, OTHER_CORE):
            pass


def prepare_bento(work: Path, sizes: Sizes) -> None:
    """What the section `bento` needs: its environment, the load generator, and our features; again at no cost."""
    load.program()
    try:
        peer_data.install(bento.ENVIRONMENT)
    except BenchmarkError as error:
        say(f"BentoML for the section bento is not installed: {error}")
    home.published(work / "home", {"household": sizes.keys, "product": sizes.keys})
