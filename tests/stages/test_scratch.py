"""A temporary table: rows keep their order, a full temporary folder is a sentence, memory does not grow."""

import pickle
import sqlite3
import subprocess
import sys

import pytest

from sicog.formats import read_queries
from sicog.records import Candidate, CandidateSet, Query
from sicog.stages.candidates import RunsSource
from sicog.stages.scratch import Scratch, id_digest
from sicog.stages.storage import write_dataset


def test_rows_are_numbered_as_they_come():
    table = Scratch("id, place", ((id_digest(name), place) for place, name in enumerate("bab", 10)))
    found = table.execute("select rowid, place from rows where id = ? order by rowid", id_digest("b")).fetchall()
    assert found == [(1, 10), (3, 12)]
    assert len(id_digest("x" * 1000)) == 16 and id_digest("\ud800")


def test_a_full_temporary_folder_is_one_clear_sentence(monkeypatch):
    connect = sqlite3.connect

    def small(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute("pragma max_page_count = 3")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(ValueError, match="let TMPDIR name a folder with more room"):
        Scratch("id", ((id_digest(str(i)),) for i in range(5000)))


def test_an_error_of_the_rows_is_theirs():
    with pytest.raises(ValueError, match="row 3 is broken"):
        Scratch("n", ((n,) for n in _broken()))


def _broken():
    yield from range(3)
    raise ValueError("row 3 is broken")


def test_a_worker_looks_for_itself(tmp_path):
    values = {"style": "cod", "prompt": "p", "seed": 0, "text": "t", "finish_reason": "stop", "n_tokens": 1}
    query = Query(id="a", task="captioning", images=("a.png",))
    row = CandidateSet(id="a", query=query, candidates=(Candidate(query_id="a", index=0, checkpoint="c", **values),))
    write_dataset(tmp_path / "run", [row])
    source = RunsSource([tmp_path / "run"])
    assert len(source) == 1
    sent = pickle.dumps(source)
    assert len(sent) < 500 and list(pickle.loads(sent).read(0, 1)) == [row]


GROWN = """
import sys
from pathlib import Path
from sicog.formats import read_queries
def held():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
len(read_queries(Path(sys.argv[1]), "captioning"))
few = held()
assert len(read_queries(Path(sys.argv[2]), "captioning")) == 60000
print(held() - few)
"""


def test_looking_for_repeated_ids_holds_no_ids_in_memory(tmp_path):
    for name, n in (("few", 100), ("many", 60_000)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"id": "row-{i:09d}"}}\n' for i in range(n)))
    paths = [str(tmp_path / "few.jsonl"), str(tmp_path / "many.jsonl")]
    done = subprocess.run([sys.executable, "-c", GROWN, *paths], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 / 60_000 < 40  # bytes a row; as Python objects they were above 100
    assert read_queries(tmp_path / "many.jsonl", "captioning")._scan == (60_000, frozenset())
