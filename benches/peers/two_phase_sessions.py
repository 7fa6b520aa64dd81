"""Transfers between two PostgreSQL servers by two-phase sessions of SQLAlchemy, closed loop.

SQLAlchemy has no log: what is prepared when its process dies stays so until somebody decides.

Arguments: ACCOUNTS CLIENTS[,CLIENTS…] SECONDS WARM_UP_SECONDS PROCESSES; LEFT_URL and RIGHT_URL
name the databases. The clients are threads, dealt among at most PROCESSES processes. Prints one
JSON object a line.
"""

import json
import multiprocessing
import os
import platform
import random
import sys
import threading
import time

import psycopg2
import sqlalchemy
from sqlalchemy import BigInteger, Column, MetaData, String, Table, bindparam, create_engine
from sqlalchemy.orm import Session

AMOUNT = 100
START_SECONDS_MAX = 60  # Until every client has its connections and is warm.


class Side:
    """One server with a pool of as many connections as there are threads."""

    def __init__(self, url, clients):
        url = "postgresql+psycopg2:" + url.split(":", 1)[1]  # "postgres:" is no longer known.
        self.engine = create_engine(url, pool_size=clients, max_overflow=0, future=True)
        self.table = Table(
            "presume_bench",
            MetaData(),
            Column("id", String, primary_key=True),
            Column("balance", BigInteger, nullable=False),
        )


class Bank:
    def __init__(self, clients, accounts):
        self.left = Side(os.environ["LEFT_URL"], clients)
        self.right = Side(os.environ["RIGHT_URL"], clients)
        self.accounts = accounts
        self.told = False
        table = self.left.table
        self.debit = (
            table.update()
            .where(table.c.id == bindparam("account"), table.c.balance >= AMOUNT)
            .values(balance=table.c.balance - AMOUNT)
        )
        table = self.right.table
        self.credit = (
            table.update()
            .where(table.c.id == bindparam("account"))
            .values(balance=table.c.balance + AMOUNT)
        )

    def session(self):
        sides = {side.table: side.engine for side in (self.left, self.right)}
        return Session(binds=sides, twophase=True, future=True)

    def transfer(self):
        """False if the guard declined."""
        source, target = (f"a{random.randrange(self.accounts)}" for _ in range(2))
        with self.session() as session:
            if session.execute(self.debit, {"account": source}).rowcount != 1:
                session.rollback()
                return False
            if session.execute(self.credit, {"account": target}).rowcount != 1:
                raise LookupError(f"no account {target}")
            session.commit()
            return True

    def loop(self, seconds):
        """Latencies of the committed transfers in seconds, counts, and when it ended."""
        latencies, declined, failed = [], 0, 0
        until = time.monotonic() + seconds
        while (started := time.monotonic()) < until:
            try:
                if self.transfer():
                    latencies.append(time.monotonic() - started)
                else:
                    declined += 1
            except Exception as why:
                failed += 1
                if not self.told:
                    self.told = True
                    print(f"sqlalchemy: a transfer failed: {why!r}", file=sys.stderr)
        return latencies, declined, failed, time.monotonic()


def process(clients, accounts, seconds, warm_up, start, answer):
    """A share of the clients, a thread each."""
    bank = Bank(clients, accounts)
    seen = []

    def client():
        bank.loop(warm_up)
        start.wait(START_SECONDS_MAX + warm_up)
        seen.append(bank.loop(seconds))

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.send(seen)


def measure(clients, accounts, seconds, warm_up, processes):
    processes = min(processes, clients)
    shares = [clients // processes + (i < clients % processes) for i in range(processes)]
    start = multiprocessing.Barrier(clients + 1)
    answers = []
    for share in shares:
        answer, theirs = multiprocessing.Pipe(duplex=False)
        arguments = (share, accounts, seconds, warm_up, start, theirs)
        multiprocessing.Process(target=process, args=arguments, daemon=True).start()
        theirs.close()
        answers.append(answer)
    start.wait(START_SECONDS_MAX + warm_up)
    started = time.monotonic()
    seen = [client for answer in answers for client in answer.recv()]
    if len(seen) != clients:
        raise RuntimeError(f"{clients - len(seen)} of {clients} clients died")
    length = max(ended for *_, ended in seen) - started
    latencies = sorted(latency for each, *_ in seen for latency in each)
    return {
        "peer": "sqlalchemy",
        "version": f"{sqlalchemy.__version__}, psycopg2 {psycopg2.__version__.split()[0]}, "
        f"Python {platform.python_version()}",
        "clients": clients,
        "seconds": round(length, 3),
        "committed": len(latencies),
        "declined": sum(declined for _, declined, _, _ in seen),
        "failed": sum(failed for _, _, failed, _ in seen),
        "transfers_per_second": round(len(latencies) / length, 1),
        "p50_ms": quantile(latencies, 0.5),
        "p99_ms": quantile(latencies, 0.99),
    }


def quantile(ordered, share):
    if not ordered:
        return None
    return round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


def main():
    accounts, counts, seconds, warm_up, processes = sys.argv[1:]
    for clients in map(int, counts.split(",")):
        figures = measure(clients, int(accounts), float(seconds), float(warm_up), int(processes))
        print(json.dumps(figures), flush=True)


main()
