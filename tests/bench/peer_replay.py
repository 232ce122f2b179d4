"""Folds the events of a database the way Python programs do, and prints as JSON how long that took and what it found.

Run by peers.py as a program of its own, with the packages on PYTHONPATH: peer_replay.py DATABASE dict|eventsourcing
"""

import json
import os
import sys
import time

import psycopg


def connect(database):
    return psycopg.connect(
        host=os.environ["PGHOST"], port=os.environ["PGPORT"], user=os.environ["PGUSER"], password=os.environ.get("PGPASSWORD"), dbname=database,
    )


def rows(database):
    """(seq, event) in order, through a server-side cursor."""
    with connect(database) as connection, connection.cursor("events") as cursor:
        cursor.itersize = 10_000
        cursor.execute("SELECT seq, event FROM ev ORDER BY seq")
        yield from cursor


def fold_dict(events):
    balances, count, violations, first = {}, 0, 0, None
    for seq, event in events:
        key, amount = event["key"], event["amount"]
        before = balances.get(key, 0)
        balances[key] = after = before + amount
        count += 1
        if after < 0 <= before:
            violations += 1
            first = first or seq
    return count, violations, first


def fold_aggregates(events):
    """One aggregate of the library for each account: its events are made and applied, and not kept."""
    from eventsourcing.domain import Aggregate, event

    class Account(Aggregate):
        @event("Opened")
        def __init__(self):
            self.balance = 0

        @event("Moved")
        def move(self, amount):
            self.balance += amount

    accounts, count, violations, first = {}, 0, 0, None
    for seq, moved in events:
        account = accounts.get(moved["key"])
        if account is None:
            account = accounts[moved["key"]] = Account()
        before = account.balance
        account.move(moved["amount"])
        account.collect_events()
        count += 1
        if account.balance < 0 <= before:
            violations += 1
            first = first or seq
    return count, violations, first


def main():
    database, way = sys.argv[1:]
    if way == "dict":
        fold, events = fold_dict, rows(database)
    else:
        # In memory: reading them is not counted.
        fold, events = fold_aggregates, list(rows(database))
    began = time.perf_counter()
    found = fold(events)
    print(json.dumps({"seconds": time.perf_counter() - began, "answer": "|".join(map(str, found))}))


if __name__ == "__main__":
    main()
