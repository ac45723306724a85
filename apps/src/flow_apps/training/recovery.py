"""How a run goes on without steps that failed."""

from flow_apps.errors import FailureElsewhere, TrainingFailure
from flow_apps.training.distributed import Ranks
from flow_apps.training.progress import Display
from flow_apps.training.reporting import Reporter
from flow_apps.training.state import FailedStep, TrainingState


class Recovery:
    """Keeps what a run can go back to, and goes back there.

    A failed step is counted like any other, so that the next one has other samples and other random
    numbers. Where the run goes back to follows from its steps and never from the clock, and is in
    its checkpoints: a run that is killed goes on as if it had not been.

    Args:
        state: What steps change.
        ranks: This process among all; they fail and go back together.
        display: Where the user sees what failed.
    """

    def __init__(self, state: TrainingState, ranks: Ranks, display: Display) -> None:
        self.state = state
        self.ranks = ranks
        self.display = display
        self._policy = state.config.on_failure

    def before_run(self) -> None:
        """Keep the start of a run, or of what it does since it was told to restore."""
        if self._policy == "restore" and self.state.kept is None:
            self.state.keep()

    def before_step(self) -> None:
        """Keep what is to be left as it is, should the step fail."""
        if self._policy == "skip":
            self.state.keep()

    def after_evaluation(self, *, good: bool) -> None:
        """Keep the weights if they are worth going back to.

        Args:
            good: Whether they are the best so far, or tests choose none.
        """
        if self._policy == "restore" and good:
            self.state.keep()

    def after_failure(self, failure: TrainingFailure, step: int, reporter: Reporter) -> None:
        """Go back, and tell why.

        Raises:
            TrainingFailure: The same one if the run ends at any failure; saying so if it is one
                more than may be.
        """
        if self._policy == "stop":
            raise failure
        elsewhere = isinstance(failure, FailureElsewhere)
        problem = self.ranks.first(None if elsewhere else str(failure))
        failed, most = len(self.state.failures), self.state.config.max_failures
        if failed >= most:
            raise TrainingFailure(
                f"{failure}; {failed} steps had failed already, as many as max_failures allows"
            ) from failure
        back = self.state.go_back()
        self.state.failures.append(FailedStep(step=step, problem=problem, went_back_to=back))
        self._tell(self.state.failures[-1], reporter)

    def _tell(self, failed: FailedStep, reporter: Reporter) -> None:
        count, most = len(self.state.failures), self.state.config.max_failures
        back = failed["went_back_to"]
        done = "left out" if self._policy == "skip" else f"back to the weights of step {back}"
        self.display.say(f"{failed['problem']}: {done} (failure {count} of {most} that may be)")
        row = {"problem": failed["problem"], "went_back_to": back, "failures": count}
        reporter.log(failed["step"], "failure", row)
