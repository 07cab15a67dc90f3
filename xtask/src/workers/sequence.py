"""Four worker processes and their parent compute one long chain of digests.

Every block travels through a pipe that is kept full, every worker has two threads and a timer, and the parent folds the
workers' answers in order: one byte lost, doubled or reordered anywhere, and the result is another.
"""

import fcntl
import hashlib
import os
import queue
import signal
import sys
import threading

WORKERS = 4
BLOCK = 4096
ROUNDS = int(sys.argv[1])
LATE = ROUNDS * 9 // 10  # behind every interruption: from here on the timers must have run

ticks = 0


def tick(_signal, _frame):
    global ticks
    ticks += 1


def block(worker, number):
    return hashlib.shake_128(b"%d:%d" % (worker, number)).digest(BLOCK)


def read_whole(descriptor, size):
    data = b""
    while len(data) < size:
        part = os.read(descriptor, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def write_whole(descriptor, data):
    while data:
        data = data[os.write(descriptor, data):]


def work(requests, answers):
    """Digests every block; one thread reads, the other computes and answers."""
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    blocks = queue.Queue(4)

    def read():
        for _ in range(ROUNDS):
            blocks.put(read_whole(requests, BLOCK))

    reader = threading.Thread(target=read)
    reader.start()
    state = b""
    for number in range(ROUNDS):
        if number == LATE:
            before = ticks
        data = blocks.get()
        for _ in range(400):
            state = hashlib.sha256(state + data).digest()
        write_whole(answers, state)
    reader.join()
    os._exit(0 if ticks > before else 1)


def feed(worker, requests):
    for number in range(ROUNDS):
        write_whole(requests, block(worker, number))


def main():
    answers, pids, feeders = [], [], []
    for worker in range(WORKERS):
        ours, theirs = os.pipe(), os.pipe()
        # So small that no worker can be done long before its parent.
        fcntl.fcntl(theirs[1], fcntl.F_SETPIPE_SZ, 4096)
        pid = os.fork()
        if pid == 0:
            os.close(ours[1])
            os.close(theirs[0])
            work(ours[0], theirs[1])
        os.close(ours[0])
        os.close(theirs[1])
        pids.append(pid)
        answers.append(theirs[0])
        feeders.append(threading.Thread(target=feed, args=(worker, ours[1])))
    signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    for feeder in feeders:
        feeder.start()
    chain = b""
    for number in range(1, ROUNDS + 1):
        if number == LATE:
            before = ticks
        for answer in answers:
            chain = hashlib.sha256(chain + read_whole(answer, 32)).digest()
        if number % 10 == 0:
            print("round", number, chain.hex(), flush=True)
    for feeder in feeders:
        feeder.join()
    for pid in pids:
        if os.waitpid(pid, 0) != (pid, 0):
            sys.exit(f"worker {pid} failed")
    if ticks == before:
        sys.exit("the timer does not run")
    print("result", chain.hex(), flush=True)
    # Python gives signals back to the system before it ends.
    signal.setitimer(signal.ITIMER_REAL, 0)


main()
