# SPDX-License-Identifier: MIT
"""Enumerates every execution of a small concurrent program under a memory model.

A program is a list of threads; a thread is a generator function that yields operations and receives
the values that they read:
  ("R", place, order)             a load
  ("W", place, order, value)      a store
  ("U", place, order, function)   a read-modify-write: stores function(old), yields old
  ("F", None, order)              a fence
or a list of operations, none of which depends on what another of them reads, and receives a list.
It returns a dict of its results. Orders are those of C11, "relaxed" to "seq_cst", and for fences
also "wmb", the kernel's smp_wmb().

An execution is a graph: what each thread did, which store each load reads from, and the order of
the stores to each place. Graphs grow event by event in every possible way, with the operations of a
list in any order; a graph that the model forbids is not extended. So a load can read a value that
results from a later store of its own thread (load buffering), unless that store depends on it.

Models:
  c11  C11 as repaired by Lahav and others (PLDI 2017), but with load buffering, which they forbid
       and compilers and machines do: everything that may happen on some machine.
  mca  A multi-copy atomic machine that only keeps the order that ARMv8 keeps: acquire, release,
       fences. Loads, stores and fences only.
"""

RELEASES = {"release", "acq_rel", "seq_cst"}
ACQUIRES = {"acquire", "acq_rel", "seq_cst"}


class Event:
    __slots__ = ("kind", "place", "order", "read", "wrote", "source")

    def __init__(self, kind, place, order, read=None, wrote=None, source=None):
        self.kind, self.place, self.order = kind, place, order
        self.read, self.wrote, self.source = read, wrote, source

    def key(self):
        return (self.kind, self.place, self.order, self.read, self.wrote, self.source)


def closure(n, edges):
    for k in range(n):
        for i in range(n):
            if edges[i] >> k & 1:
                edges[i] |= edges[k]
    return edges


def has_loop(n, edges):
    return any(edges[i] >> i & 1 for i in range(n))


class Graph:
    """The relations of one execution, as bit sets: bit b of r[a] means that a comes before b."""

    def __init__(self, threads, stores):
        self.ids = [("first", place) for place in stores]
        self.events = [Event("W", place, "relaxed") for place in stores]
        self.thread = [None] * len(self.ids)
        for t, events in enumerate(threads):
            for i, event in sorted(events.items()):
                self.ids.append((t, i))
                self.events.append(event)
                self.thread.append(t)
        self.n = len(self.ids)
        self.number = {name: i for i, name in enumerate(self.ids)}
        self.stores = {p: [self.number[w] for w in order] for p, order in stores.items()}
        self.relate()

    def empty(self):
        return [0] * self.n

    def relate(self):
        self.sb, self.rf, self.mo, self.fr = (self.empty() for _ in range(4))
        firsts = len(self.stores)
        for a in range(self.n):
            for b in range(max(a + 1, firsts), self.n):
                if self.thread[a] is None or self.thread[a] == self.thread[b]:
                    self.sb[a] |= 1 << b
        for order in self.stores.values():
            for i, a in enumerate(order):
                for b in order[i + 1:]:
                    self.mo[a] |= 1 << b
        for b, event in enumerate(self.events):
            if event.source is not None:
                a = self.number[event.source]
                self.rf[a] |= 1 << b
                self.fr[b] = self.mo[a] & ~(1 << b)

    def union(self, *relations):
        return [sum_bits(r[i] for r in relations) for i in range(self.n)]

    def same_thread(self, a, b):
        return self.thread[a] is not None and self.thread[a] == self.thread[b]

    def atomic(self):
        """Whether each read-modify-write immediately follows the store that it read."""
        for order in self.stores.values():
            for before, at in zip(order, order[1:]):
                event = self.events[at]
                if event.kind == "U" and self.number[event.source] != before:
                    return False
        return True

    def synchronizes(self):
        sw = self.empty()
        for b, event in enumerate(self.events):
            if event.source is None:
                continue
            ends = [b] if event.order in ACQUIRES else []
            ends += [f for f in range(self.n) if self.sb[b] >> f & 1 and self.is_fence(f, ACQUIRES)]
            head = self.number[event.source]
            while ends:
                begins = [head] if self.events[head].order in RELEASES else []
                begins += [f for f in range(self.n)
                           if self.sb[f] >> head & 1 and self.is_fence(f, RELEASES)]
                for a in begins:
                    for c in ends:
                        sw[a] |= 1 << c
                if self.events[head].kind != "U":
                    break
                head = self.number[self.events[head].source]
        return sw

    def is_fence(self, i, orders):
        return self.events[i].kind == "F" and self.events[i].order in orders


def sum_bits(sets):
    bits = 0
    for s in sets:
        bits |= s
    return bits


def compose(n, first, second):
    return [sum_bits(second[k] for k in range(n) if first[i] >> k & 1) for i in range(n)]


def c11(g):
    if not g.atomic():
        return False
    n = g.n
    hb = closure(n, g.union(g.sb, g.synchronizes()))
    eco = closure(n, g.union(g.rf, g.mo, g.fr))
    if has_loop(n, hb) or has_loop(n, eco) or has_loop(n, compose(n, hb, eco)):
        return False
    sc = [i for i in range(n) if g.events[i].order == "seq_cst"]
    return len(sc) < 2 or sequential(g, sc, hb, eco)


def sequential(g, sc, hb, eco):
    """The condition on seq_cst: the relation psc has no cycle."""
    n = g.n
    other = [mask(n, lambda b, a=a: g.sb[a] >> b & 1 and g.events[a].place != g.events[b].place)
             for a in range(n)]
    same = [mask(n, lambda b, a=a: hb[a] >> b & 1 and g.events[a].place == g.events[b].place)
            for a in range(n)]
    scb = g.union(g.sb, compose(n, compose(n, other, hb), other), same, g.mo, g.fr)
    fences = mask(n, lambda i: g.is_fence(i, {"seq_cst"}))
    events = mask(n, lambda i: i in sc)
    left = [(1 << i if events >> i & 1 else 0) | (hb[i] if fences >> i & 1 else 0)
            for i in range(n)]
    left = [l | (1 << i if fences >> i & 1 else 0) for i, l in enumerate(left)]
    right = [(1 << i) & events | (hb[i] & fences) for i in range(n)]
    base = compose(n, compose(n, left, scb), right)
    between = g.union(hb, compose(n, compose(n, hb, eco), hb))
    by_fences = [between[i] & fences if fences >> i & 1 else 0 for i in range(n)]
    return not has_loop(n, closure(n, g.union(base, by_fences)))


def mask(n, condition):
    return sum(1 << i for i in range(n) if condition(i))


def mca(g):
    """Coherence of each place, and no cycle in the order that all processors agree on."""
    n = g.n
    in_place = [mask(n, lambda b, a=a: g.sb[a] >> b & 1 and g.events[a].place == g.events[b].place)
                for a in range(n)]
    communication = g.union(g.rf, g.mo, g.fr)
    if has_loop(n, closure(n, g.union(in_place, communication))):
        return False
    seen = [mask(n, lambda b, a=a: communication[a] >> b & 1 and not g.same_thread(a, b))
            for a in range(n)]
    return not has_loop(n, closure(n, g.union(seen, kept(g))))


def kept(g):
    """The part of program order that the machine keeps."""
    order = g.empty()
    for a in range(g.n):
        for b in range(g.n):
            if not (g.same_thread(a, b) and g.sb[a] >> b & 1):
                continue
            x, y = g.events[a], g.events[b]
            if "U" in (x.kind, y.kind):
                raise ValueError("mca does not support read-modify-writes")
            between = [f for f in range(g.n) if g.sb[a] >> f & 1 and g.sb[f] >> b & 1]
            if (x.kind == "R" and x.order in ACQUIRES or y.kind == "W" and y.order in RELEASES
                    or any(g.is_fence(f, {"seq_cst"}) for f in between)
                    or x.kind == y.kind == "W" and any(g.is_fence(f, {"wmb"}) for f in between)):
                order[a] |= 1 << b
    return order


MODELS = {"c11": c11, "mca": mca}


def open_operations(thread, events):
    """The next operations of a thread as {position: operation}; or None and its result."""
    generator = thread()
    begin = 0
    try:
        step = next(generator)
        while True:
            steps = step if isinstance(step, list) else [step]
            outstanding = {begin + i: s for i, s in enumerate(steps) if begin + i not in events}
            if outstanding:
                return outstanding, None
            read = [events[begin + i].read for i in range(len(steps))]
            begin += len(steps)
            step = generator.send(read if isinstance(step, list) else read[0])
    except StopIteration as end:
        return None, end.value or {}


def extensions(stores, name, operation, values):
    kind, place, order = operation[:3]
    if kind == "F":
        yield Event("F", None, order), stores
        return
    if kind == "R":
        for source in stores[place]:
            yield Event("R", place, order, values[source], None, source), stores
    elif kind == "W":
        for i in range(1, len(stores[place]) + 1):
            after = stores[place][:i] + (name,) + stores[place][i:]
            yield Event("W", place, order, None, operation[3]), {**stores, place: after}
    else:
        for i, source in enumerate(stores[place]):
            after = stores[place][:i + 1] + (name,) + stores[place][i + 1:]
            read = values[source]
            yield (Event("U", place, order, read, operation[3](read), source),
                   {**stores, place: after})


def executions(program, first, model):
    """Yields (merged results, final memory) of every complete execution."""
    consistent = MODELS[model]
    outstanding = [([{} for _ in program], {place: (("first", place),) for place in first})]
    known = set()
    while outstanding:
        threads, stores = outstanding.pop()
        values = {("first", place): value for place, value in first.items()}
        values |= {(t, i): e.wrote for t, events in enumerate(threads) for i, e in events.items()}
        results, ended = {}, True
        for t, thread in enumerate(program):
            operations, result = open_operations(thread, threads[t])
            if operations is None:
                results |= result
                continue
            ended = False
            for i, operation in operations.items():
                for event, order in extensions(stores, (t, i), operation, values):
                    grown = [{**events, i: event} if u == t else events
                             for u, events in enumerate(threads)]
                    key = (tuple(tuple((j, e.key()) for j, e in sorted(events.items()))
                                 for events in grown), tuple(order.items()))
                    if key not in known:
                        known.add(key)
                        if consistent(Graph(grown, order)):
                            outstanding.append((grown, order))
        if ended:
            yield results, {place: values[order[-1]] for place, order in stores.items()}
