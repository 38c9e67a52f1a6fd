"""Where a call's time went, however many of its items were where at a time."""

from hypothesis import given
from hypothesis import strategies as st

from clipseek_server import telemetry
from clipseek_server.telemetry import Call, Stage, Stages


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)))
def test_a_moment_in_which_several_items_were_in_a_stage_counts_once(intervals):
    stages = Stages()
    moves = [(begin, stages.enter) for begin, _ in intervals] + [(end, stages.leave) for _, end in intervals]
    for moment, move in sorted(moves, key=lambda each: (each[0], each[1] == stages.leave)):
        move(Stage.QUEUE, float(moment))
    covered = {second for begin, end in intervals for second in range(begin, end)}
    assert stages.seconds.get(Stage.QUEUE, 0.0) == len(covered)


def test_a_stage_within_itself_counts_once(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(telemetry, "now", lambda: now)
    call = Call()
    with call.stage(Stage.INDEX):
        now += 1.0
        with call.stage(Stage.INDEX):
            now += 1.0
            assert call.seconds == {Stage.INDEX: 2.0}
    now += 1.0
    assert call.seconds == {Stage.INDEX: 2.0}
