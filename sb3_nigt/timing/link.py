"""How messages reach the learner: all at once, or one after the other over one link."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, get_args

from sb3_nigt.messages import Message

Link = Literal["parallel", "serial"]
Aggregation = Literal["all_reduce", "server"]


def check_link(link: Link, aggregation: Aggregation) -> None:
    """
    Refuse what is no link, no aggregation, or a combination without a meaning.

    :param link: "parallel": messages do not get in each other's way; "serial": the learner takes one at a time
    :param aggregation: "all_reduce": a round pays its longest message; "server": the sum of its messages
    :raises ValueError: naming the argument
    """
    for name, value, allowed in (("link", link, get_args(Link)), ("aggregation", aggregation, get_args(Aggregation))):
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not allowed: give {' or '.join(repr(text) for text in allowed)}.")
    if aggregation == "server" and link != "serial":
        raise ValueError(
            'aggregation="server" needs link="serial": over a parallel link a server takes as long as an all-reduce.'
        )


def aggregation_messages(
    workers: Sequence[int], message_times: Sequence[float], now: float, aggregation: Aggregation
) -> tuple[Message, ...]:
    """
    Return the messages of an aggregation that begins now: side by side, or one after the other in worker order.

    :param workers: those that take part
    :param message_times: κ_i of these workers
    :param now: seconds on the clock
    :param aggregation: see ``check_link``
    """
    ends = [now + seconds for seconds in (accumulate(message_times) if aggregation == "server" else message_times)]
    begins = [now, *ends[:-1]] if aggregation == "server" else [now] * len(ends)
    return tuple(map(Message, workers, begins, ends))


class UploadQueue:
    """
    The learner's end of messages that workers send on their own: first come, first served where the link is serial.

    :param link: see ``check_link``
    :ivar free_at: when the last message has been received
    """

    def __init__(self, link: Link) -> None:
        self.is_serial = link == "serial"
        self.free_at = -math.inf

    def send(self, ready_at: float, message_time: float) -> tuple[float, float]:
        """
        Send the next message; on a serial link in the order in which they are ready.

        :param ready_at: seconds on the clock
        :param message_time: κ, in seconds
        :return: when it begins, and when it has arrived
        """
        began = max(ready_at, self.free_at) if self.is_serial else ready_at
        self.free_at = began + message_time
        return began, self.free_at

    def clear(self) -> None:
        """Drop the messages in flight."""
        self.free_at = -math.inf
