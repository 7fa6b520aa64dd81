"""What two PostgreSQL servers give to batches made up beforehand: a ceiling, and no coordinator.

Each client sends batches of MEMBERS transfers between accounts that nobody else touches: work and
PREPARE at one server, then at the other, then COMMIT PREPARED at both. No decline, no log, no
marker, no prediction, no answer to anybody; the batches are text made before the measurement.

Arguments: ACCOUNTS CLIENTS[,CLIENTS…] SECONDS WARM_UP_SECONDS DECLINES MEMBERS; LEFT_URL and
RIGHT_URL name the databases; DECLINES percent of the first accounts have no money, and are left
out. Clients are processes. Prints one JSON object a line.
"""

import json
import multiprocessing
import os
import platform
import random
import sys
import time

import psycopg2

AMOUNT = 100
START_SECONDS_MAX = 60
BATCHES = 40  # Made beforehand for each client, used in turn.
STATEMENTS = {
    "LEFT_URL": f"UPDATE presume_bench b SET balance = b.balance - {AMOUNT} "
    f"FROM unnest($1) v(account) WHERE b.id = v.account AND b.balance >= {AMOUNT}",
    "RIGHT_URL": f"UPDATE presume_bench b SET balance = b.balance + {AMOUNT} "
    "FROM unnest($1) v(account) WHERE b.id = v.account",
}


class Side:
    def __init__(self, name, pool, members):
        self.connection = psycopg2.connect(os.environ[name])
        self.connection.autocommit = True
        self.cursor = self.connection.cursor()
        self.cursor.execute(f"PREPARE work(text[]) AS {STATEMENTS[name]}")
        picked = [random.sample(pool, members) for _ in range(BATCHES)]
        self.batches = ["{" + ",".join(f"a{n}" for n in accounts) + "}" for accounts in picked]

    def prepare(self, n, gid):
        work = f"EXECUTE work('{self.batches[n % BATCHES]}')"
        self.cursor.execute(f"BEGIN; {work}; PREPARE TRANSACTION '{gid}'")

    def commit(self, gid):
        self.cursor.execute(f"COMMIT PREPARED '{gid}'")


def client(number, clients, first, accounts, seconds, warm_up, members, start, answer):
    pool = range(first + number, accounts, clients)
    sides = [Side(name, pool, members) for name in STATEMENTS]
    n, latencies = 0, []

    def loop(until):
        nonlocal n
        while (started := time.monotonic()) < until:
            n += 1
            gids = [f"ceiling:{number}:{os.getpid()}:{n}:{side}" for side in range(2)]
            for side, gid in zip(sides, gids):
                side.prepare(n, gid)
            for side, gid in zip(sides, gids):
                side.commit(gid)
            latencies.append(time.monotonic() - started)

    loop(time.monotonic() + warm_up)
    latencies.clear()
    start.wait(START_SECONDS_MAX + warm_up)
    cpu = time.process_time()
    loop(time.monotonic() + seconds)
    answer.send((latencies, time.process_time() - cpu, time.monotonic()))


def machine():
    """Busy processor seconds of the machine since it started."""
    with open("/proc/stat", encoding="ascii") as file:
        spent = [int(field) for field in file.readline().split()[1:8]]
    return (sum(spent) - spent[3] - spent[4]) / os.sysconf("SC_CLK_TCK")


def measure(clients, accounts, seconds, warm_up, declines, members):
    start = multiprocessing.Barrier(clients + 1)
    answers = []
    first = -(-accounts * declines // 100)
    for number in range(clients):
        answer, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (number, clients, first, accounts, seconds, warm_up, members, start, theirs)
        multiprocessing.Process(target=client, args=arguments, daemon=True).start()
        theirs.close()
        answers.append(answer)
    start.wait(START_SECONDS_MAX + warm_up)
    started, busy = time.monotonic(), machine()
    seen = [answer.recv() for answer in answers]
    busy = machine() - busy
    length = max(ended for *_, ended in seen) - started
    own = sum(cpu for _, cpu, _ in seen)
    latencies = sorted(latency for each, *_ in seen for latency in each)
    committed = members * len(latencies)
    return {
        "peer": "ceiling",
        "version": f"psycopg2 {psycopg2.__version__.split()[0]}, "
        f"Python {platform.python_version()}, batches of {members}",
        "clients": clients,
        "seconds": round(length, 3),
        "committed": committed,
        "declined": 0,
        "failed": 0,
        "transfers_per_second": round(committed / length, 1),
        "p50_ms": round(1e3 * latencies[len(latencies) // 2], 3),
        "p99_ms": round(1e3 * latencies[int(len(latencies) * 0.99)], 3),
        "cpu_ms_own": round(1e3 * own / committed, 5),
        "cpu_ms_others": round(1e3 * (busy - own) / committed, 5),
    }


def main():
    accounts, counts, seconds, warm_up, declines, members = sys.argv[1:]
    for clients in map(int, counts.split(",")):
        measured = measure(
            clients, int(accounts), float(seconds), float(warm_up), int(declines), int(members)
        )
        print(json.dumps(measured), flush=True)


main()
