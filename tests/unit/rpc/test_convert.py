import threading

import pytest

from clipseek_server.rpc import convert
from clipseek_server.telemetry import Call, Stage


@pytest.mark.parametrize("number", [0, 1, convert.MOST_AT_ONCE, convert.MOST_AT_ONCE + 1, 1000])
async def test_many_are_converted_beside_the_event_loop(number):
    threads = set()

    def one(given: int) -> str:
        threads.add(threading.current_thread())
        return str(given)

    assert await convert.many(one, range(number)) == [str(each) for each in range(number)]
    assert (threading.main_thread() in threads) == (0 < number <= convert.MOST_AT_ONCE)


def test_every_stage_is_told():
    call = Call()
    for number, stage in enumerate(Stage):
        call.stages.enter(stage, 0.0)
        call.stages.leave(stage, 1.5 + number)
    timing = convert.timing(call)
    told = {field.name: value.ToTimedelta().total_seconds() for field, value in timing.ListFields()}
    assert told.pop("total") > 0
    assert told == {stage.value: 1.5 + number for number, stage in enumerate(Stage)}
