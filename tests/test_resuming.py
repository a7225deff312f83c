"""Training that was killed, stopped or ran out of disk goes on from its checkpoint to the same bits."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stages import checkpoint, training
from stages.batches import Split
from stages.interruption import InterruptionError
from stages.stage import StageError
from stages.train import summary
from stages.training import Trainer
from tests.test_training import RUN, Hooked, assert_same, posts, run, trainer

CHECKPOINT_STEPS = 5


@pytest.fixture(scope="session")
def split(tiny_bundle: Path, corpus: tuple[list[str], list[int]]) -> Split:
    return posts(tiny_bundle, *corpus)


def fit_and_be_killed(bundle: Path, split: Split, path: Path, at: int, writing: bool) -> None:
    """Run until SIGKILL: before a step, or in the middle of writing the next checkpoint."""
    # What was set for the tests is not set in this process.
    torch.set_num_threads(1)
    torch.cuda.is_available = lambda: False
    training.CHECKPOINT_STEPS = CHECKPOINT_STEPS

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_while_writing(_: object) -> None:
        def half_a_file(_content: object, file: Any) -> None:
            file.write(b"half a file")
            file.flush()
            die()

        torch.save = half_a_file

    trainer(bundle, split, kind=Hooked, at=at, happens=die_while_writing if writing else die).fit(path, RUN)


@pytest.mark.parametrize(("at", "writing"), [(1, False), (8, False), (11, False), (5, True)])
def test_a_killed_run_resumes_to_the_same_bits(
    tiny_bundle: Path, split: Split, tmp_path: Path, at: int, writing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_STEPS", CHECKPOINT_STEPS)
    whole, expected = run(tiny_bundle, split, tmp_path / "whole.pt")
    # A process of its own, which really dies. Forked, which spares it the seconds of its imports, but not from this
    # one: where there is a GPU, PyTorch allows no gradients in the fork of a process that has computed some.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Hooked.__module__])
    process = context.Process(target=fit_and_be_killed, args=(tiny_bundle, split, tmp_path / "killed.pt", at, writing))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    torch.manual_seed(12345)  # whatever the next process starts with
    resumed, progress = run(tiny_bundle, split, tmp_path / "killed.pt")
    assert_same(whole, resumed)
    assert progress == expected


@pytest.mark.parametrize("at", [7, 18], ids=["in the middle", "in the last step"])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_after_the_step_and_the_run_goes_on_from_there(
    tiny_bundle: Path, split: Split, tmp_path: Path, at: int
) -> None:
    whole, expected = run(tiny_bundle, split, tmp_path / "whole.pt")
    usual = signal.getsignal(signal.SIGINT)
    stopped = trainer(tiny_bundle, split, kind=Hooked, at=at, happens=lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(InterruptionError, match=rf"interrupted at step {at} of 18; run again to go on from there"):
        stopped.fit(tmp_path / "c.pt", RUN)
    assert signal.getsignal(signal.SIGINT) == usual
    assert checkpoint.load(tmp_path / "c.pt", RUN)["progress"]["step"] == at
    resumed, progress = run(tiny_bundle, split, tmp_path / "c.pt")
    assert_same(whole, resumed)
    assert progress == expected


def test_the_second_ctrl_c_ends_at_once(ctrl_c: Any, tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    def twice(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        # Two at the same moment would count as one.
        while signal.getsignal(signal.SIGINT) is not ctrl_c:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        trainer(tiny_bundle, split, kind=Hooked, at=7, happens=twice).fit(tmp_path / "c.pt", RUN)
    assert checkpoint.load(tmp_path / "c.pt", RUN)["progress"]["step"] == 6, "that of the last evaluation"


def test_an_ignored_ctrl_c_stays_ignored(tiny_bundle: Path, split: Split, ctrl_c: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    going_on = trainer(tiny_bundle, split, kind=Hooked, at=7, happens=lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert going_on.fit().step == 18
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN is not ctrl_c


def test_the_figures_of_a_run_resumed_after_its_last_step_are_those_of_the_run(
    tiny_bundle: Path, split: Split, tmp_path: Path
) -> None:
    whole, again = (summary(*run(tiny_bundle, split, tmp_path / "c.pt")) for _ in range(2))
    assert whole["tokens_per_s"] > 0 and 0 <= whole["padding_share"] < 1
    assert whole == again


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_without_a_checkpoint_promises_nothing(tiny_bundle: Path, split: Split) -> None:
    stopped = trainer(tiny_bundle, split, kind=Hooked, at=7, happens=lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(InterruptionError, match=r"interrupted at step 7 of 18; run again, it begins anew"):
        stopped.fit()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_last_evaluation_is_not_lost(
    tiny_bundle: Path, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = run(tiny_bundle, split, tmp_path / "whole.pt")
    usual = Trainer.evaluate

    def press(self: Trainer, lr: float) -> bool:
        if self.progress.step == 18:
            os.kill(os.getpid(), signal.SIGINT)
        return usual(self, lr)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", press)
        with pytest.raises(InterruptionError, match=r"interrupted at step 18 of 18; run again to go on from there"):
            run(tiny_bundle, split, tmp_path / "c.pt")
    resumed, progress = run(tiny_bundle, split, tmp_path / "c.pt")
    assert_same(whole, resumed)
    assert progress == expected


@pytest.mark.parametrize("within", ["gather_object", "broadcast"], ids=["of the features", "of the head"])
def test_ctrl_c_in_the_probe_is_one_line_and_the_run_begins_anew(
    ctrl_c: Any, tiny_bundle: Path, split: Split, tmp_path: Path, within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(f"stages.training.{within}", lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(InterruptionError, match=r"^interrupted before the first step; run again, it begins anew$"):
            trainer(tiny_bundle, split).fit(tmp_path / "c.pt", RUN)
    assert signal.getsignal(signal.SIGINT) is ctrl_c
    assert not list(tmp_path.iterdir())
    assert_same(run(tiny_bundle, split, tmp_path / "c.pt")[0], run(tiny_bundle, split, tmp_path / "whole.pt")[0])


def test_a_checkpoint_of_another_run_is_neither_used_nor_overwritten(
    tiny_bundle: Path, split: Split, tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    run(tiny_bundle, split, path)
    before = path.read_bytes()
    with pytest.raises(StageError, match=r"another run \(run was this and is that\): .* delete it"):
        trainer(tiny_bundle, split).fit(path, {"run": "that"})
    assert path.read_bytes() == before
    path.write_bytes(b"half a file")
    with pytest.raises(StageError, match="delete it"):
        checkpoint.load(path, RUN)


def test_a_full_disk_leaves_the_checkpoint_before(tiny_bundle: Path, split: Split, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StageError, match=r"c\.pt cannot be written .*free some disk space"):
            trainer(
                tiny_bundle,
                split,
                kind=Hooked,
                at=5,
                happens=lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, usual[1])),
            ).fit(path, RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]
    assert checkpoint.load(path, RUN)["progress"]["step"] == 3
    assert_same(run(tiny_bundle, split, path)[0], run(tiny_bundle, split, tmp_path / "whole.pt")[0])
