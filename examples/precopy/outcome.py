#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Breaks the connection in the last exchanges: never may both sides run the guest.

Arguments: precopy, and "every" to cut after every byte or "some" for those that matter most. The
source and the destination talk through this program. It passes on some bytes of one frame (PROOF,
RUN, or RESULT, which answers RUN) and then closes both connections; or it no longer reads what the
source sends after PROOF; or it refuses RUN. Or it passes everything on, but interrupts the source
when a frame comes by.
"""
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

MAGIC = 0x706D4C44
WELCOME, REFUSED, PAGES, PASS_END, PASS_DONE = 2, 3, 4, 6, 7
VCPUS, DEVICE, READY, HASHES, PROVE, PROOF, RUN, RESULT = range(8, 16)
HEADER_BYTES = 24
PROOF_BYTES = HEADER_BYTES + 48
RESULT_BYTES = HEADER_BYTES + 32 + 256
DEAF, REFUSE, INTERRUPT = "deaf", "refuse", "interrupt"  # in place of a number of bytes
MOVED, FAILED, UNKNOWN = 0, 3, 4


def read_whole(peer, count):
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


def close(*peers):
    for peer in peers:
        try:
            peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def break_at(frame, how, source, sink):
    if how == DEAF:
        sink.shutdown(socket.SHUT_RD)
        sink.sendall(frame)
    elif how == REFUSE:
        source.sendall(struct.pack("<IIIIQ", MAGIC, REFUSED, 2, 0, 0) + b"no")
    else:
        sink.sendall(frame[:how])


def pass_on(source, sink, kind, how, process, broken):
    """Passes frames on until the one to break, and says when it has come to that."""
    try:
        while (header := read_whole(source, HEADER_BYTES)) is not None:
            seen, payload_bytes = struct.unpack("<II", header[4:12])
            frame = header + (read_whole(source, payload_bytes) or b"")
            if seen == kind and how == INTERRUPT:
                # A second interrupt would end the program.
                if not broken.is_set():
                    process.send_signal(signal.SIGINT)
                broken.set()
            elif seen == kind:
                broken.set()
                break_at(frame, how, source, sink)
                break
            sink.sendall(frame)
    except OSError:
        pass
    if not broken.is_set() or how != DEAF:
        close(source, sink)


def run_through(folder, precopy, kind, how):
    """One migration. Returns both sides' reports."""
    path, between = folder / "destination", folder / "source"
    with socket.socket(socket.AF_UNIX) as listener:
        between.unlink(missing_ok=True)
        listener.bind(str(between))
        listener.listen(1)
        destination = subprocess.Popen(
            [precopy, "--json", "--backend", "model", "--listen", f"unix:{path}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if "listening" not in destination.stderr.readline():
            sys.exit("the destination does not listen")
        source = subprocess.Popen(
            [precopy, "--json", "--backend", "model", "--memory", "16M", "--vcpus", "1",
             "--bandwidth", "0", "--passes", "1", "--connect", f"unix:{between}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        left, _ = listener.accept()
        right = socket.socket(socket.AF_UNIX)
        right.connect(str(path))
        broken = threading.Event()
        ways = [threading.Thread(target=pass_on, args=(*way, kind, how, source, broken))
                for way in ((left, right), (right, left))]
        for way in ways:
            way.start()
        reports = [json.loads(source.communicate(timeout=120)[0])]
        close(left, right)
        reports.append(json.loads(destination.communicate(timeout=120)[0]))
        for way in ways:
            way.join()
        left.close()
        right.close()
    if not broken.is_set():
        sys.exit(f"no frame {kind} came by")
    return reports


def expected(kind, how):
    """The source's statuses that are right, and whether the guest runs at the destination."""
    if how == INTERRUPT:
        return (FAILED,) if kind < RUN else (MOVED,), kind >= RUN
    if kind == PROOF:
        # Whole, and closed then: the source may have sent RUN before it could notice.
        return (FAILED, UNKNOWN) if how == PROOF_BYTES else (FAILED,), False
    if how == REFUSE:
        return (FAILED,), False
    if kind == RUN:
        return (UNKNOWN,), how == HEADER_BYTES
    return (MOVED,) if how == RESULT_BYTES else (UNKNOWN,), True


def complaint(kind, how, source, destination):
    """What is wrong with the two reports, or None."""
    statuses, runs = expected(kind, how)
    status, ran = source["exit_status"], destination["guest_ran"]
    if source["runs_on_source"] and ran:
        return "both sides ran the guest"
    if status not in statuses:
        return f"the source's status is {status}"
    if ran != runs:
        return f"the destination says that the guest {'ran' if ran else 'did not run'}"
    # At WELCOME the guest may or may not have begun to run.
    if source["runs_on_source"] != (status == FAILED) and kind != WELCOME:
        return f"runs_on_source is {source['runs_on_source']} with status {status}"
    if (status == UNKNOWN) != (source["ran_at_destination"] is None):
        return f"ran_at_destination is {source['ran_at_destination']} with status {status}"
    if (source["guest_healthy"] is None) != (status == UNKNOWN) and kind != WELCOME:
        return f"guest_healthy is {source['guest_healthy']} with status {status}"
    return None


def some(count):
    return [0, 1, HEADER_BYTES, count - 1, count]


def main():
    precopy, which = sys.argv[1:]
    breaks = [(PROOF, DEAF), (RUN, REFUSE)]
    breaks += [(kind, INTERRUPT)
               for kind in (WELCOME, PAGES, PASS_END, PASS_DONE, *range(VCPUS, RESULT + 1))]
    for kind, count in ((PROOF, PROOF_BYTES), (RUN, HEADER_BYTES), (RESULT, RESULT_BYTES)):
        places = range(count + 1) if which == "every" else some(count)
        breaks += [(kind, place) for place in places]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, how in breaks:
            wrong = complaint(kind, how, *run_through(Path(folder), precopy, kind, how))
            if wrong:
                bad += 1
                print(f"failed: frame {kind}, {how}: {wrong}")
    print(f"{len(breaks)} breaks, {bad} failed")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
