"""A worker that dies or hangs costs its job alone, and no worker outlives its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from builders.commands import ROOT

from repro.video import workers
from repro.video.workers import Answer, Send, WorkerLostError, WorkerPool, WorkFunction


@pytest.fixture(autouse=True)
def _spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CONTEXT", multiprocessing.get_context("spawn"))


def prepare(factor: int) -> WorkFunction:
    """Work for these tests: `die`, `hang`, else the job times `factor`, after a part of the answer."""

    def work(job: object, send: Send) -> object:
        if job == "die":
            os._exit(3)
        if job == "hang":
            time.sleep(600)
        send(None)
        send(f"{job}?")
        assert isinstance(job, int)
        return job * factor

    return work


def last_answers(pool: WorkerPool[object], jobs: list[object], time_limit: float | None = None) -> dict[object, object]:
    found: dict[object, object] = {}
    for job, answer in pool.run(deque(jobs), time_limit):
        if isinstance(answer, WorkerLostError):
            found[job] = str(answer)
        elif answer.is_last:
            found[job] = answer.value
        else:
            assert answer.value == f"{job}?"
    return found


def test_every_job_is_done_and_a_dead_worker_is_replaced() -> None:
    with WorkerPool[object](prepare, (10,), name="test", size=2) as pool:
        assert last_answers(pool, [1, "die", 2, 3]) == {1: 10, "die": "its process died (exit code 3)", 2: 20, 3: 30}
        assert not multiprocessing.active_children()  # without jobs, they are not kept
        assert last_answers(pool, []) == {}
        pool.send(1, 4)
        assert [process.name for process in multiprocessing.active_children()] == ["test"]
        assert [pool.receive(1, 60) for _ in range(3)] == [Answer(None, False), Answer("4?", False), Answer(40, True)]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_without_a_sign_of_life_is_given_up() -> None:
    with WorkerPool[object](prepare, (10,), name="test", size=1) as pool:
        # The start of a process, which takes seconds on a busy machine, counts: started before, and again after.
        assert last_answers(pool, [4]) == {4: 40}
        assert last_answers(pool, ["hang"], time_limit=1.0) == {"hang": "no frame within 1 s"}
        assert last_answers(pool, [5]) == {5: 50}


def test_a_job_added_while_others_run_is_done() -> None:
    jobs: deque[object] = deque([1])
    found = []
    with WorkerPool[object](prepare, (10,), name="test", size=1) as pool:
        for job, answer in pool.run(jobs):
            if isinstance(answer, Answer) and answer.is_last:
                found.append(answer.value)
                if job == 1:
                    jobs.appendleft(2)
    assert found == [10, 20]


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Two lines of Python, as docs/api.md has them, do not run a second time in the worker."""
    (tmp_path / "echo.py").write_text("def prepare():\n    return lambda job, send: job\n")
    script = tmp_path / "script.py"
    script.write_text(
        "import collections, echo\nfrom repro.video.workers import WorkerPool\n"
        "with WorkerPool(echo.prepare, (), name='test', size=1) as pool:\n"
        "    print([answer.value for _, answer in pool.run(collections.deque(['job']))])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.stdout, done.stderr) == ("['job']\n", "")


PARENT = """
import sys, time
from repro.video.workers import WorkerPool

def prepare():
    def work(job, send):
        print("busy", flush=True)
        time.sleep(500)
    return work

if __name__ == "__main__":
    pool = WorkerPool(prepare, (), name="test", size=1)
    pool.send(0, "job")
    print(*pool.process_ids, flush=True)
    time.sleep(500)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Else they would train next to the workers of the resumed run."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = sorted(parent.stdout.readline().strip() for _ in range(2))
        status = Path(f"/proc/{said[0]}/status").read_text()
        parent.kill()
    assert said[1] == "busy"
    blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
    assert blocked & 1 << signal.SIGINT - 1  # a terminal interrupts workers too; it is the parent that ends them
    stat = Path(f"/proc/{said[0]}/stat")
    for _ in range(600):
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(int(said[0]), signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
