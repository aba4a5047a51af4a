"""Which files are merged: rows are written again a few times, and files stay few, however many commits come."""

import pytest

from forecache.kit.delta.files import DataFile
from forecache.kit.delta.merge_files import SMALL_BYTES, MergePolicy
from forecache.realtime.log.commit_loop import DAY_POLICY, PAST_DAY_POLICY


def file(name: str, size_bytes: int) -> DataFile:
    return DataFile(name, size_bytes, {}, {"numRecords": 1})


@pytest.mark.parametrize("commit_bytes", [10_000, 200_000, 2_000_000])
def test_bytes_written_stay_a_few_times_those_of_the_rows(commit_bytes: int) -> None:
    files: list[DataFile] = []
    written, most_files, num_commits = 0, 0, 20_000
    for number in range(num_commits):
        files.append(file(f"{number:06}", commit_bytes))
        written += commit_bytes
        for group in DAY_POLICY.choose_groups(files[-2_000:]) if number % 48 == 0 else []:
            size = sum(each.size_bytes for each in group)
            files = [each for each in files if each not in group] + [file(f"merged-{number:06}", size)]
            written += size
        most_files = max(most_files, sum(each.size_bytes < SMALL_BYTES for each in files))
    live = num_commits * commit_bytes
    assert sum(each.size_bytes for each in files) == live
    assert written <= 5 * live
    assert most_files < 120


def chosen(policy: MergePolicy, files: list[DataFile]) -> list[DataFile]:
    """All files that are merged."""
    return [each for group in policy.choose_groups(files) for each in group]


def test_a_large_file_waits_until_the_small_ones_are_worth_it() -> None:
    large, small = file("large", 100), [file(f"small-{number}", 1) for number in range(60)]
    assert chosen(DAY_POLICY, [large, *small]) == sorted(small, key=lambda each: each.path)
    assert chosen(DAY_POLICY, [large, *small[:40]]) == []
    medium = [file(f"medium-{number}", 100) for number in range(3)]
    assert len(chosen(DAY_POLICY, [large, *medium, *small])) == 64
    assert chosen(PAST_DAY_POLICY, [file("a", 1), file("b", 1)]) == [file("a", 1), file("b", 1)]
    assert chosen(PAST_DAY_POLICY, [file("a", 1), file("b", 9)]) == []


def test_files_are_grouped_in_their_order_up_to_the_size_of_a_merged_file() -> None:
    files = [file(f"{number}", 3) for number in range(8)]
    policy = MergePolicy(small_bytes=4, merged_bytes=9)
    assert policy.choose_groups(files) == [files[:3], files[3:6], files[6:]]
    assert policy.choose_groups(files[:7]) == [files[:3], files[3:6]], "one file alone is not rewritten"
    assert policy.choose_groups([file("large", 4), *files[:1]]) == []
    assert MergePolicy(small_rows=1).choose_groups(files) == []
