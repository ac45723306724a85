"""Taking a run up where it was left."""

from flow_apps.errors import CheckpointError
from flow_apps.training.checkpoint import load_checkpoint
from flow_apps.training.engine import Engine

_NONE = -1


def resume(engine: Engine) -> None:
    """Take a run up at its newest checkpoint, or start it again and say so.

    A damaged checkpoint is passed over, named, and kept under another name. The first process
    chooses, so that all of them go on from the same step.

    Raises:
        CheckpointError: If the run was finished and no checkpoint of it is valid, or if the
            checkpoint belongs to another model.
    """
    folder, ranks, say = engine.folder, engine.ranks, engine.display.say
    newest, problems = folder.checkpoints.newest_valid() if ranks.is_first else (None, [])
    for problem in problems:
        say(f"passed over: {problem}")
    step = ranks.agree(_NONE if newest is None else newest)
    if step == _NONE and folder.finished:
        raise CheckpointError(f"{folder.path} is finished and has no valid checkpoint left")
    if step == _NONE:
        say(f"{folder.path} has no valid checkpoint: starting again")
    else:
        path = folder.checkpoints.path(step)
        engine.state.load_state_dict(load_checkpoint(path, ranks.device), path)
    ranks.barrier()
    if ranks.is_first and step != _NONE:
        folder.rewind(step, engine.state.best)
    elif ranks.is_first:
        folder.start_again()
    ranks.barrier()
