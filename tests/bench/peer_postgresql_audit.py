"""Puts every table of schema public under postgresql-audit, by that package's own means: its tables, functions and triggers.

Run by peers.py as a program of its own, with the package on PYTHONPATH: peer_postgresql_audit.py DATABASE
"""

import os
import sys

import sqlalchemy
from postgresql_audit import VersioningManager
from sqlalchemy.orm import declarative_base


def main():
    address = sqlalchemy.URL.create(
        "postgresql+psycopg", os.environ["PGUSER"], os.environ.get("PGPASSWORD"), database=sys.argv[1],
        query={"host": os.environ["PGHOST"], "port": os.environ["PGPORT"]},
    )
    engine = sqlalchemy.create_engine(address)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    manager = VersioningManager()
    base = declarative_base()
    manager.init(base)
    sqlalchemy.orm.configure_mappers()
    with engine.begin() as connection:
        base.metadata.create_all(connection)
        for table in tables.sorted_tables:
            connection.execute(manager.build_audit_table_query(table))


if __name__ == "__main__":
    main()
