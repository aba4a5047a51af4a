"""Which files are merged: rows are written again a few times, and files stay few, however many commits come."""

import pytest

from forecache.kit.delta.files import DataFile
from forecache.lake.maintenance.compaction import SMALL_BYTES, files_of_similar_size


def file(name: str, size_bytes: int) -> DataFile:
    return DataFile(name, size_bytes, {}, {"numRecords": 1})


@pytest.mark.parametrize("commit_bytes", [10_000, 200_000, 2_000_000])
def test_bytes_written_stay_a_few_times_those_of_the_rows(commit_bytes: int) -> None:
    files: list[DataFile] = []
    written, most_files, num_commits = 0, 0, 20_000
    for number in range(num_commits):
        files.append(file(f"{number:06}", commit_bytes))
        written += commit_bytes
        small = [each for each in files[-2_000:] if each.size_bytes < SMALL_BYTES]
        chosen = files_of_similar_size(small, least=48, growth=4) if number % 48 == 0 else []
        if chosen:
            size = sum(each.size_bytes for each in chosen)
            files = [each for each in files if each not in chosen] + [file(f"merged-{number:06}", size)]
            written += size
        most_files = max(most_files, sum(each.size_bytes < SMALL_BYTES for each in files))
    live = num_commits * commit_bytes
    assert sum(each.size_bytes for each in files) == live
    assert written <= 5 * live
    assert most_files < 120


def test_a_large_file_waits_until_the_small_ones_are_worth_it() -> None:
    large, small = file("large", 100), [file(f"small-{number}", 1) for number in range(60)]
    assert files_of_similar_size([large, *small], least=48, growth=4) == sorted(small, key=lambda each: each.path)
    assert files_of_similar_size([large, *small[:40]], least=48, growth=4) == []
    medium = [file(f"medium-{number}", 100) for number in range(3)]
    assert len(files_of_similar_size([large, *medium, *small], least=48, growth=4)) == 64
    assert files_of_similar_size([file("a", 1), file("b", 1)], least=2, growth=2) == [file("a", 1), file("b", 1)]
    assert files_of_similar_size([file("a", 1), file("b", 9)], least=2, growth=2) == []
