import numpy as np
import pytest
import torch
from flow_apps.timing import time_calls


def test_timings_leave_out_the_extremes() -> None:
    pauses = iter([9.0, *(0.01 * i for i in range(1, 11))])
    clock = [0.0]

    def call() -> None:
        clock[0] += next(pauses)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flow_apps.timing.time.perf_counter", lambda: clock[0])
        timing = time_calls(call, samples=4, calls=10, device=torch.device("cpu"))
    # The first call does not count, then the two fastest and the two slowest do not.
    assert timing.calls == 6
    assert timing.mean == pytest.approx(0.055)
    assert timing.per_sample == pytest.approx(0.055 / 4)
    assert timing.deviation == pytest.approx(np.std(0.01 * np.arange(3, 9)))
