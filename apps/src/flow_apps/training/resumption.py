"""Taking a run up where it was left."""

from flow_apps.errors import CheckpointError
from flow_apps.training.engine import Engine
from flow_apps.training.progress import say


def resume(engine: Engine) -> None:
    """Take a run up at its newest checkpoint, or start it again and say so.

    A damaged checkpoint is passed over, named, and kept under another name.

    Raises:
        CheckpointError: If the run was finished and no checkpoint of it is valid, or if the
            checkpoint belongs to another model.
    """
    folder, first = engine.folder, engine.ranks.is_first
    state, problems = folder.checkpoints.newest_valid(engine.ranks.device)
    for problem in problems:
        say(f"passed over: {problem}", visible=first)
    if state is None and folder.finished:
        raise CheckpointError(f"{folder.path} is finished and has no valid checkpoint left")
    if state is not None:
        engine.state.load_state_dict(state)
    else:
        say(f"{folder.path} has no valid checkpoint: starting again", visible=first)
    engine.ranks.barrier()
    if first and state is not None:
        folder.rewind(engine.state.step)
    elif first:
        folder.start_again()
    engine.ranks.barrier()
