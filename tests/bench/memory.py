"""What one backend's memory does: the peak of a statement of very many rows, and growth over very many statements."""

from server import Session, memory_of
from workloads import COLUMNS, VALUES


def large_statement(place):
    """{statement: bytes of private memory at its peak, above what the session had before; and the peak with shared pages}."""
    rows, found = place.options.memory_rows, {}
    statements = {
        "INSERT": f"INSERT INTO acct ({COLUMNS['acct']}) SELECT {VALUES['acct']} FROM generate_series(1, {rows}) g",
        "UPDATE": "UPDATE acct SET abalance = abalance + 1",
    }
    for name, statement in statements.items():
        with Session(place.database, synchronous_commit="off") as session:
            # The first change loads libraries, plans and catalog caches, which stay.
            session.run(f"INSERT INTO acct ({COLUMNS['acct']}) VALUES (0, 0, 0, '')")
            session.run("UPDATE acct SET abalance = 1 WHERE aid = 0")
            session.run("DELETE FROM acct WHERE aid = 0")
            before = memory_of(session.pid)[0]
            private, with_shared = session.peak(statement)
            found[name] = {"private": private - before, "with_shared": with_shared}
        place.psql("VACUUM acct")
    return found


def many_statements(place):
    """Growth of one session from a tenth of its statements to the last: memory contexts, their number, private memory."""
    count = place.options.leak_statements
    chunk = min(1000, max(1, count // 10))
    seen = []
    with Session(place.database, synchronous_commit="off") as session:
        for done in range(0, count, chunk):
            # A third each of INSERT, UPDATE and DELETE of one row; every statement is a transaction.
            session.run(
                "SELECT CASE g % 3 WHEN 0 THEN 'INSERT INTO acct (aid, bid, abalance) VALUES (' || g / 3 || ', 1, 1)'"
                " WHEN 1 THEN 'UPDATE acct SET abalance = abalance + 1 WHERE aid = ' || g / 3 ELSE 'DELETE FROM acct WHERE aid = ' || g / 3 END"
                f" FROM generate_series({done}, {done + chunk - 1}) g \\gexec"
            )
            if not seen and done + chunk >= count // 10:
                seen.append((*session.contexts(), memory_of(session.pid)[0]))
        seen.append((*session.contexts(), memory_of(session.pid)[0]))
    place.psql("DELETE FROM acct; VACUUM acct")
    names = ("contexts_bytes", "contexts", "private")
    return {"statements": count, **{name: last - first for name, first, last in zip(names, *seen, strict=True)}}
