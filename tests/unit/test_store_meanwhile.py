"""What is said of a store, and what a publish tidies, while another process changes it."""

from dataclasses import replace
from pathlib import Path

import pytest
from live_support import LAYER, live_store
from second_process import running
from segment_files import version

from forecache.kit.versioned.pointer import write_pointer
from forecache.plugins.store_checks.verify_stores import verify_store
from forecache.serve.reader.versions.damage import Scrubber
from forecache.serve.store import Pointer, Snapshot, Store
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import read_layer
from forecache.serve.store.remote import find_newest, follow_pointer
from forecache.serve.store.store import remove_leftovers

_DECLARES = """
import sys
from dataclasses import replace
from pathlib import Path
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import read_layer, write_layer
layout = StoreLayout(Path(sys.argv[1]))
layers = [replace(read_layer(layout), max_lag_s=number) for number in (1.0, 2.0)]
print(flush=True)
while True:
    for layer in layers:
        write_layer(layout, layer)
"""
_PUBLISHES = """
import sys
from pathlib import Path
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.pointer import Pointer
layout, manifest = StoreLayout(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
pointer = layout.root / "next"
print(flush=True)
for number in range(2, 1 << 30):
    layout.manifest(number).write_bytes(manifest)
    pointer.write_bytes(Pointer("0123", number, None, number).to_json())
    pointer.replace(layout.pointer)  # without the wait for the disk
    layout.manifest(number - 1).unlink()
"""
_LOOKS_WHETHER_IT_IS_OPEN = """
import sys
from pathlib import Path
from forecache.serve.store.layout import StoreLayout
from forecache.kit.versioned.leases import is_open
print(flush=True)
while True:
    is_open(StoreLayout(Path(sys.argv[1])), 1)
"""
_TAKES_AWAY = """
import os, sys
print(flush=True)
while True:
    os.rename(sys.argv[1], sys.argv[1] + ".away")
    os.rename(sys.argv[1] + ".away", sys.argv[1])
"""

_OPENS_IN_STAGING = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1]) / "pull-00000002-base-0"
print(flush=True)
while True:
    try:
        folder.mkdir(exist_ok=True)
        (folder / "000.mdb.part").write_bytes(b"block")
    except OSError:
        continue
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one version."""
    with version(tmp_path / "churn", {b"key": b"{}"}, []) as snapshot:
        layout = snapshot.layout
        layout.lease(1).touch()
        layout.manifest(1).write_bytes(snapshot.manifest.to_json())
        write_pointer(layout, Pointer(snapshot.manifest.store, 1, None, 1))
    return Store(layout.root)


@pytest.mark.parametrize(("retained", "serving", "bad"), [((1, 2, 3), 2, {"3"}), ((2, 3), 2, {"3"}), ((3,), 3, set())])
def test_a_rollback_of_this_machine_alone_counts_only_if_the_remote_has_an_earlier_version_to_serve(
    retained: tuple[int, ...], serving: int, bad: set[str]
) -> None:
    seen = Pointer("0123", current=3, last=3, moves="a", versions={str(number): 0.0 for number in (1, 2, 3)})
    here = seen.block({3: "rolled back"}).advance(current=2)
    theirs = replace(seen, versions={str(number): 0.0 for number in retained}).advance()
    for found in (follow_pointer("churn", here, theirs), find_newest("churn", here, theirs, replaces_remote=False)):
        assert (found.serving, set(found.bad)) == (serving, bad)


def test_the_current_version_is_found_while_a_publish_removes_the_one_before(store: Store) -> None:
    layout = store.layout
    with running(_PUBLISHES, layout.root, layout.manifest(1)):
        assert all(store.current() is not None for _ in range(2500))


def test_a_publish_tidies_while_a_stream_declares_its_layer(store: Store) -> None:
    layout: StoreLayout = live_store(store.layout.root.parent)
    with running(_DECLARES, layout.root) as declaring:
        for _ in range(300):
            remove_leftovers(store)
        assert declaring.poll() is None
    declared = read_layer(layout)
    assert declared is not None
    assert declared.stream == LAYER.stream


def test_what_killed_pulls_left_is_removed_while_a_reader_opens_a_version_there(
    store: Store,
) -> None:
    staging = store.layout.staging
    with running(_OPENS_IN_STAGING, staging) as opening:
        for number in range(300):
            (staging / f"{number}.bin.part").write_bytes(b"half a filter")
            remove_leftovers(store)
        assert opening.poll() is None
    remove_leftovers(store)
    assert not list(staging.iterdir())


def test_a_file_that_is_removed_while_it_is_scrubbed_is_not_taken_for_damaged(store: Store) -> None:
    damaged: list[str] = []
    with store.snapshot() as snapshot:
        served: list[tuple[Store, Snapshot]] = [(store, snapshot)]
        scrub = Scrubber(lambda: served, lambda _, __, reason: damaged.append(reason), every_s=0)
        with running(_TAKES_AWAY, snapshot.files()[0]):
            for _ in range(1500):
                scrub._scrub_once(None)
    assert damaged == []


def test_every_version_is_verified_while_others_look_whether_it_is_open(store: Store) -> None:
    layout = store.layout
    layout.lease(2).touch()
    layout.manifest(2).write_bytes(replace(store.manifest(1), version=2).to_json())
    write_pointer(layout, Pointer(store.pointer().store, 2, None, 2))
    with running(_LOOKS_WHETHER_IT_IS_OPEN, layout.root):
        for _ in range(200):
            assert [(found.version, found.problem) for found in verify_store(store)] == [(None, ""), (1, ""), (2, "")]
