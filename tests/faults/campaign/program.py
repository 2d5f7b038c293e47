"""What every mission of the campaign runs. It imports nothing of vp-queue, and tells on itself.

    python -I -S program.py RECORDS BEHAVIOUR SECONDS

For its life, and that of everything it leaves running, it holds a lock on a file of its mission, outside the
workspace. If it cannot have it, another program of the same mission lives: OVERLAP. It appends to one file per
mission: ``start``, ``end`` and ``overlap``, each with the attempt, the pid and the boot-time clock.
"""

import fcntl
import json
import os
import signal
import sys
import time


def main() -> int:
    records, behaviour, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    mission, attempt = os.environ["VP_MISSION_ID"], int(os.environ["VP_ATTEMPT"])
    notes = os.open(os.path.join(records, mission), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    held = os.open(os.path.join(records, "locks", mission), os.O_RDWR | os.O_CREAT, 0o600)

    def note(what: str, **more: object) -> None:
        record = {"what": what, "attempt": attempt, "pid": os.getpid(), "boottime": boottime(), "wall": time.time()}
        os.write(notes, json.dumps({**record, **more}).encode() + b"\n")

    if behaviour == "stubborn":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("overlap", beside=os.pread(held, 200, 0).decode())
    os.truncate(held, 0)
    os.pwrite(held, f"attempt {attempt}, pid {os.getpid()}".encode(), 0)
    note("start")
    code = behave(behaviour, seconds)
    note("end", code=code)
    return code


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def behave(behaviour: str, seconds: float) -> int:
    """Do what the plan says; the exit status."""
    if behaviour == "printing":
        for _ in range(20):
            print("a line of output " * 500, flush=True)
            time.sleep(seconds / 20)
    elif behaviour == "reporting":
        report = int(os.environ["VP_REPORT_FD"])
        for step in range(10):
            os.write(report, json.dumps({"progress": step / 10, "message": f"step {step}"}).encode() + b"\n")
            time.sleep(seconds / 10)
    elif behaviour == "making":
        for name in ("one.txt", "two.txt"):
            with open(os.path.join(os.environ["VP_WORK_PRODUCTS"], name), "w") as file:
                file.write(name * 1000)
            time.sleep(seconds / 2)
    elif behaviour == "daemon":
        leave_a_daemon()
        time.sleep(seconds)
    else:
        time.sleep(seconds)
    return 3 if behaviour == "failing" else 0


def leave_a_daemon() -> None:
    """A process that left the session and has forgotten its parent; it keeps the lock for as long as it lives."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
