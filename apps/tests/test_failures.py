"""Steps that give no usable numbers, and disks that refuse them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow_apps.errors import DiskError, TrainingFailure
from flow_apps.training import Engine, RunFolder, load_checkpoint

Make = Callable[..., Engine]


def newest(folder: RunFolder) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    return load_checkpoint(folder.checkpoints.newest())


def test_a_bad_batch_is_reported_by_step_and_sample(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run")
    setattr(engine.parts.data, "poison", 17)  # noqa: B010
    message = r"step 17: x of the batch is not finite in samples \[2\]"
    with pytest.raises(TrainingFailure, match=message):
        engine.run()
    assert newest(RunFolder.open(tmp_path / "run"))["step"] == 0


def test_samples_of_a_later_pass_are_named_by_their_place_in_the_batch(
    make_engine: Make, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path / "run", accumulate=4)
    setattr(engine.parts.data, "poison", 3)  # noqa: B010
    # Sample 2 of 8 is the first of the third part, which has samples 2 and 6.
    message = r"step 3: .* in samples \[0\].*number 2 \+ 4·i of the batch"
    with pytest.raises(TrainingFailure, match=message):
        engine.run()


def test_bad_weights_are_reported_by_name(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run")

    def poison(step: int) -> None:
        if step == 4:
            engine.parts.loss.model.get_parameter("3.bias").data.fill_(float("nan"))

    engine.upkeep.after_optimizer_step = poison  # type: ignore[method-assign] # breaks the weights
    with pytest.raises(TrainingFailure, match=r"step 5: .*parameter model\.3\.bias"):
        engine.run()


def test_an_overflowing_layer_is_reported_by_name(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run")

    def overflow(step: int) -> None:
        engine.parts.loss.model.get_parameter("3.weight").data.fill_(3e38)

    engine.upkeep.after_optimizer_step = overflow  # type: ignore[method-assign] # breaks the weights
    with pytest.raises(TrainingFailure, match=r"step 2: .*layer model\.3 .*samples \["):
        engine.run()


def test_weights_that_are_not_numbers_are_never_saved(make_engine: Make, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "run", iterations=4)

    def poison(step: int) -> None:
        if step == 4:
            engine.parts.loss.model.get_parameter("3.bias").data.fill_(float("nan"))

    engine.upkeep.after_optimizer_step = poison  # type: ignore[method-assign] # breaks the weights
    with pytest.raises(TrainingFailure, match="parameter model"):
        engine.run()
    assert newest(engine.folder)["step"] == 0


def test_a_full_disk_while_training_keeps_the_last_checkpoint(
    make_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(tmp_path / "run", checkpoint_seconds=1e-6)

    def fill(step: int) -> None:
        if step == 5:

            def refuse(_: int) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr("os.fsync", refuse)

    engine.upkeep.after_optimizer_step = fill  # type: ignore[method-assign] # the disk fills here
    with pytest.raises(OSError, match="No space left") as raised:
        engine.run()
    monkeypatch.undo()
    assert isinstance(raised.value, DiskError)
    assert str(engine.folder.checkpoints.path(5)) in str(raised.value)
    assert "--resume" in str(raised.value)
    assert newest(engine.folder)["step"] == 4
    assert not list((tmp_path / "run" / "checkpoints").glob(".unfinished*"))
    assert make_engine(tmp_path / "run").run()
