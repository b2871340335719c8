# SPDX-License-Identifier: MIT
"""The protocols of lib/throttle.c, in the form of protocols.py."""

import re

from executions import executions

WRITE = re.compile(r"atomic_(store|exchange)_explicit\(\s*&log->limits\.(\w+),\s*\w+,\s*"
                   r"memory_order_(\w+)\)|\b(STORE)\(&log->limits\.(\w+),")


def writes(source, function, word):
    """The stores ("W") and exchanges ("U") of a word that all vCPUs share, with their orders."""
    found = []
    for m in WRITE.finditer(source.body("throttle.c", function)):
        if word in (m.group(2), m.group(5)):
            found.append(("U" if m.group(1) == "exchange" else "W", m.group(3) or "relaxed"))
    return found


def write(place, how, value):
    kind, order = how
    return kind, place, order, (lambda _: value) if kind == "U" else value


def kicks_meet_their_takers(source, room, takers):
    """
    Two vCPUs are to be kicked while threads take kicks. A wanted kick may be taken more than once,
    but never stay where no taker looks for it.
    """
    (want,) = writes(source, "want_kick", "kicks")
    take, restore = writes(source, "dli_limits_take_kicks", "kicks")

    def wanter(vcpu):
        def thread():
            yield [("W", f"kick{vcpu}", "relaxed", 1), write("kicks", want, 1)]

        return thread

    def taker():
        left = room
        if not (yield write("kicks", take, 0)):
            return
        for vcpu in (1, 2):
            if not (yield "R", f"kick{vcpu}", "relaxed"):
                continue
            if not left:
                yield write("kicks", restore, 1)
                return
            yield "W", f"kick{vcpu}", "relaxed", 0
            left -= 1

    n = 0
    first = {"kicks": 0, "kick1": 0, "kick2": 0}
    for _, end in executions([wanter(1), wanter(2)] + [taker] * takers, first, "c11"):
        n += 1
        if not end["kicks"] and (end["kick1"] or end["kick2"]):
            return n, "a kick that was wanted"
    return n, None


def kicks_meet_a_taker(source):
    return kicks_meet_their_takers(source, 2, 1)


def kicks_that_do_not_fit_meet_a_taker(source):
    return kicks_meet_their_takers(source, 1, 2)


def limits_meet_the_end_of_all_limits(source, lookers=1):
    """
    A thread that finds no limit clears the flag without which nobody looks for one. Meanwhile one
    vCPU gets a limit; another one gets one and loses it. A limit must not stay without the flag.
    """
    (begin,) = writes(source, "apply", "active")
    clear, restore = writes(source, "dli_limits_look", "active")

    def setter(vcpu, limits):
        def thread():
            for limit in limits:
                yield "W", f"own{vcpu}", "relaxed", limit
                yield write("active", begin, 1)

        return thread

    def any_limit():
        for vcpu in (1, 2):
            if (yield "R", f"own{vcpu}", "relaxed"):
                return True
        return False

    def looker():
        if (yield from any_limit()):
            return
        yield write("active", clear, 0)
        if (yield from any_limit()):
            yield write("active", restore, 1)

    n = 0
    program = [setter(1, [1]), setter(2, [1, 0])] + [looker] * lookers
    for _, end in executions(program, {"active": 1, "own1": 0, "own2": 0}, "c11"):
        n += 1
        if not end["active"]:
            return n, "a limit that was set"
    return n, None


def limits_meet_two_ends_of_all_limits(source):
    return limits_meet_the_end_of_all_limits(source, 2)


def a_vcpu_sees_the_limit_behind_the_flag(source):
    (begin,) = writes(source, "apply", "active")
    look = source.order("throttle.c", "dli_limits_ask")

    def setter():
        yield [("W", "own", "relaxed", 1), write("active", begin, 1)]

    def vcpu():
        if (yield "R", "active", look):
            return {"own": (yield "R", "own", "relaxed")}

    n = 0
    for found, _ in executions([setter, vcpu], {"active": 0, "own": 0}, "c11"):
        n += 1
        if found.get("own") == 0:
            return n, "a limit, for a vCPU that saw the flag"
    return n, None


def a_kick_meets_a_vcpu_that_is_added_again(source):
    """
    A vCPU whose kick was wanted is removed, and added again under a new cookie, while a thread
    takes kicks. It must not get the old cookie: the caller may have freed what it stands for.
    """
    admit = source.body("api/vcpu.c", "admit").split("return 0;")[0]
    show = re.search(r"removed, false,\s*memory_order_(\w+)", admit)
    look = re.search(r"limit\.removed,\s*memory_order_(\w+)",
                     source.body("throttle.c", "dli_limits_take_kicks"))
    stores = {
        admit.index("dli_ring_set_cookie("): ("W", "cookie", "relaxed", 2),
        admit.index("limit.kick, false"): ("W", "kick", "relaxed", 0),
        show.start(): ("W", "removed", show.group(1), 0),
    }

    def adder():
        for at in sorted(stores):
            yield stores[at]

    def taker():
        if not (yield "R", "kick", "relaxed"):
            return {}
        if (yield "R", "removed", look.group(1) if look else "relaxed"):
            return {}
        return {"cookie": (yield "R", "cookie", "relaxed")}

    n = 0
    for found, _ in executions([adder, taker], {"cookie": 1, "kick": 1, "removed": 1}, "c11"):
        n += 1
        if found.get("cookie") == 1:
            return n, "the cookie of a vCPU that was removed before"
    return n, None


def one_thread_has_a_vcpus_state(source):
    """dli_limit_try(): whoever has the state sees all that others did with it."""
    enter = source.order("plan/limit.h", "dli_limit_try")
    leave = source.order("plan/limit.h", "dli_limit_leave")

    def user(number):
        def thread():
            if (yield "U", "taken", enter, lambda _: 1):
                return {}
            pages = yield "R", "pages", "relaxed"
            yield "W", "pages", "relaxed", pages + 1
            yield "W", "taken", leave, 0
            return {number: 1}

        return thread

    n = 0
    for found, end in executions([user(i) for i in range(3)], {"taken": 0, "pages": 0}, "c11"):
        n += 1
        if end["pages"] != len(found):
            return n, "what another thread charged"
    return n, None


LIMIT_PROTOCOLS = [kicks_meet_a_taker, kicks_that_do_not_fit_meet_a_taker,
                   a_kick_meets_a_vcpu_that_is_added_again,
                   limits_meet_the_end_of_all_limits, a_vcpu_sees_the_limit_behind_the_flag,
                   one_thread_has_a_vcpus_state]
LONG_LIMIT_PROTOCOLS = [limits_meet_two_ends_of_all_limits]
