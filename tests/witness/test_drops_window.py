"""The replay window (RFC 4303 3.4.3 and appendix A): sequences of numbers with the verdict expected for each."""

import random

import pytest

from witness import (
    Sa,
    Tunnel,
    configuration,
    delivered,
    dropped,
    esp_frame,
    gre_payload,
    judge,
    sealed,
    to_near,
)

WINDOWS = (64, 1024, 65536)
EPOCH = 1 << 32
OK, REPLAY, AUTH = None, "esp-replay", "esp-auth"


def tunnel_with(window, esn=False):
    return Tunnel(window=window, sas=(Sa("out", 0x1001), Sa("in", 0x2001, esn=esn)))


def steps_of(tunnel, numbers):
    """Steps for pairs of sequence number and verdict, each packet with an inner packet of its own."""
    steps = []
    for place, (number, verdict) in enumerate(numbers):
        inner, label = to_near(4, 24, seed=place), f"{place}: number {number:#x}"
        arriving = sealed(tunnel, number, inner)
        steps.append(dropped(label, arriving, verdict) if verdict else delivered(label, arriving, inner))
    return steps


@pytest.mark.parametrize("esn", (False, True), ids=("sn32", "esn"))
@pytest.mark.parametrize("window", WINDOWS)
def test_sequences(tmp_path, window, esn):
    """In order, late, twice, at both edges, and after jumps short and long."""
    top = 3 * window + 1000
    far = top + 1_000_000
    # Left of the window. With ESN such a number is taken for one of the next epoch, where its ICV is wrong (A2.2).
    left = AUTH if esn else REPLAY
    numbers = [
        (1, OK), (1, REPLAY), (3, OK), (2, OK), (2, REPLAY), (3, REPLAY), (4, OK),
        # A jump inside the window, and the gap filled from behind.
        (window, OK), (window - 1, OK), (5, OK), (5, REPLAY), (1, REPLAY),
        # One further: 1 has left the window, where it was known; then numbers that never came leave it.
        (window + 1, OK), (1, left), (2, REPLAY), (6, OK), (window + 10, OK), (10, left), (11, OK), (11, REPLAY),
        # A jump over more than the window.
        (top, OK), (top - window, left), (top - window + 1, OK), (top - window + 1, REPLAY), (top, REPLAY),
        (top + 1, OK), (top - window + 1, left), (top - window + 2, OK), (top - 1, OK), (top - 1, REPLAY),
        # What came before a long jump is forgotten with its bits: nothing of it marks the new window.
        (far, OK), (top + 1, left), *((far - back, OK) for back in range(1, 64)), (far - 63, REPLAY),
        (far - window + 1, OK if window > 64 else REPLAY), (far - window, left), (far + 1, OK),
    ]  # fmt: skip
    tunnel = tunnel_with(window, esn)
    judge(tmp_path, configuration(tunnel), steps_of(tunnel, numbers))


def jumps_by_one_word(window):
    """Jumps by multiples of 64, less and more, up to beyond the window: where bitmaps in words go wrong."""
    numbers, top = [(1, OK)], 1
    for jump in (63, 64, 65, 127, 128, 129, window - 1, window, window + 1, window + 63, window + 64, window + 65):
        last, top = top, top + jump
        numbers += [(top, OK), (top, REPLAY), (last, REPLAY), (top - window, REPLAY) if top > window else (0, REPLAY)]
        oldest = top - window + 1
        if oldest > last:
            numbers += [(oldest, OK), (oldest, REPLAY)]
        if jump > 1:
            numbers += [(top - 1, OK), (top - 1, REPLAY)]
    return numbers


@pytest.mark.parametrize("window", WINDOWS)
def test_jumps_around_words(tmp_path, window):
    """The window is exact to the number, however it is stored."""
    tunnel = tunnel_with(window)
    judge(tmp_path, configuration(tunnel), steps_of(tunnel, jumps_by_one_word(window)))


class Window:
    """RFC 4303 3.4.3 as plainly as it can be said: the top, and the set of all numbers seen."""

    def __init__(self, size):
        self.size, self.top, self.seen = size, 0, set()

    def verdict(self, number):
        if number == 0 or number <= self.top - self.size or number in self.seen:
            return REPLAY
        self.seen.add(number)
        self.top = max(self.top, number)
        return OK


@pytest.mark.parametrize("window", WINDOWS)
def test_random_sequences(tmp_path, window):
    """A thousand numbers around both edges of the window, against the plain model."""
    chance, model, numbers = random.Random(window), Window(window), []
    for _ in range(1000):
        move = chance.choice(
            (
                chance.randint(1, 3),
                -chance.randint(0, 70),
                -window + chance.randint(-2, 2),
                -chance.randint(0, window),
                chance.randint(1, window // 4),
                chance.randint(1, 2 * window) if chance.random() < 0.1 else 1,
            )
        )
        number = max(0, model.top + move)
        numbers.append((number, model.verdict(number)))
    verdicts = [verdict for _, verdict in numbers]
    assert verdicts.count(OK) > 300 and verdicts.count(REPLAY) > 100
    tunnel = tunnel_with(window)
    judge(tmp_path, configuration(tunnel), steps_of(tunnel, numbers))


@pytest.mark.parametrize("window", WINDOWS)
def test_end_of_32_bits(tmp_path, window):
    """Without ESN numbers end at 2^32 - 1, and 0 is never right."""
    last = EPOCH - 1
    numbers = [(0, REPLAY), (1, OK), (last - 1, OK), (last, OK), (last, REPLAY), (0, REPLAY), (1, REPLAY), (2, REPLAY)]
    numbers += [(last - window, REPLAY), (last - window + 1, OK), (last - window + 1, REPLAY)]
    tunnel = tunnel_with(window)
    judge(tmp_path, configuration(tunnel), steps_of(tunnel, numbers))


@pytest.mark.parametrize("window", WINDOWS)
def test_esn_roll_over(tmp_path, window):
    """From epoch 0 into 1 and on to 2, with late packets from the epoch before (RFC 4303 A2)."""
    numbers = [
        (0, REPLAY), (EPOCH - 2, OK), (EPOCH, OK), (EPOCH + 1, OK), (EPOCH + 2, OK), (EPOCH, REPLAY),
        # Late ones of epoch 0; behind the window's edge the same low half is taken for epoch 1, where the ICV fails.
        (EPOCH - 1, OK), (EPOCH - 1, REPLAY), (EPOCH - 2, REPLAY), (EPOCH + 2 - window + 1, OK),
        (EPOCH + 2 - window + 1, REPLAY), (EPOCH + 2 - window, AUTH), (EPOCH + 3, OK),
        # An epoch skipped: its numbers look like those of epoch 1, and change nothing.
        (2 * EPOCH + window + 10, AUTH), (EPOCH + window + 10, OK),
        # Through the middle of an epoch, where the window lies in one epoch, into the next.
        (EPOCH + (1 << 31), OK), (EPOCH + (1 << 31) - window + 1, OK), (2 * EPOCH + 7, OK), (2 * EPOCH + 7, REPLAY),
        (2 * EPOCH - 1, OK), (2 * EPOCH, OK), (2 * EPOCH, REPLAY), (2 * EPOCH + 8, OK),
    ]  # fmt: skip
    tunnel = tunnel_with(window, esn=True)
    judge(tmp_path, configuration(tunnel), steps_of(tunnel, numbers))


@pytest.mark.parametrize("window", WINDOWS)
def test_first_packet_high_in_epoch_0(tmp_path, window):
    """Before any packet the formula would give epoch -1 to high numbers: they are of epoch 0."""
    tunnel = tunnel_with(window, esn=True)
    judge(tmp_path, configuration(tunnel), steps_of(tunnel, [(EPOCH - 1, OK), (EPOCH - 1, REPLAY), (EPOCH - 2, OK)]))


@pytest.mark.parametrize("esn", (False, True), ids=("sn32", "esn"))
def test_replay_is_found_before_decryption(tmp_path, esn):
    """A damaged copy of an old packet counts as a replay; a damaged new one fails its ICV and moves nothing."""
    tunnel, inner = tunnel_with(64, esn), to_near(4)

    def with_wrong_icv(number):
        esp = bytearray(tunnel.inbound.seal(number, tunnel.gre.header(*gre_payload(inner))))
        esp[-1] ^= 1
        return esp_frame(tunnel, bytes(esp))

    steps = [
        dropped("far ahead and damaged", with_wrong_icv(0x7FFFFFF0), AUTH),
        delivered("100", sealed(tunnel, 100, inner), inner),
        dropped("100 damaged", with_wrong_icv(100), REPLAY),
        dropped("left of the window, damaged", with_wrong_icv(100 - 64), AUTH if esn else REPLAY),
        dropped("in the window, damaged", with_wrong_icv(99), AUTH),
        delivered("99", sealed(tunnel, 99, inner), inner),
        dropped("ahead, damaged", with_wrong_icv(100 + 64), AUTH),
        delivered("100 - 63", sealed(tunnel, 100 - 63, inner), inner),
    ]
    judge(tmp_path, configuration(tunnel), steps)


def test_esn_and_32_bits_do_not_mix(tmp_path):
    """What a sender without ESN seals, an SA with ESN does not open, and the other way round."""
    for esn in (False, True):
        tunnel, inner = tunnel_with(64, esn), to_near(4)
        steps = [
            dropped("the other kind", sealed(tunnel, 1, inner, sa=Sa("in", 0x2001, esn=not esn)), AUTH),
            delivered("its own kind", sealed(tunnel, 1, inner), inner),
        ]
        judge(tmp_path, configuration(tunnel), steps)
