"""Puts every table of schema public under django-pghistory, by that package's own means: its migrations, event models, triggers.

Run by peers.py as a program of its own, with the package on PYTHONPATH: peer_pghistory.py DATABASE row|statement
"""

import os
import sys
import types

import django
from django.apps import AppConfig
from django.conf import settings
from django.core.management import call_command
from django.db import models


class Bench(AppConfig):
    """The application that the models belong to, which the package wants to exist with a module of models."""

    path = os.path.dirname(__file__)
    sys.modules["bench"] = types.ModuleType("bench")
    sys.modules["bench.models"] = types.ModuleType("bench.models")


class Column(models.Field):
    """A column of just the type that the table has: the events' columns are made like it."""

    def __init__(self, *args, kind=None, **options):
        self.kind = kind
        super().__init__(*args, **options)

    def db_type(self, connection):
        return self.kind

    def deconstruct(self):
        name, path, args, options = super().deconstruct()
        return name, path, args, {**options, "kind": self.kind}


def columns(connection):
    """{table: [(column, type, is key)]}"""
    found = {}
    with connection.cursor() as cursor:
        cursor.execute("""
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), coalesce(k.conkey[1] = a.attnum, false)
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY c.relname, a.attnum""")
        for table, *column in cursor.fetchall():
            found.setdefault(table, []).append(column)
    return found


def main():
    database, level = sys.argv[1:]
    settings.configure(
        DATABASES={"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": database, "USER": os.environ["PGUSER"],
            "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "PASSWORD": os.environ.get("PGPASSWORD", ""),
        }},
        INSTALLED_APPS=["pgtrigger", "pghistory", Bench("bench", sys.modules["bench"])],
        MIGRATION_MODULES={"bench": None},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    django.setup()
    import pghistory
    import pgtrigger
    from django.db import connection

    tables = columns(connection)
    call_command("migrate", "pghistory", verbosity=0)
    for table, described in tables.items():
        attributes = {name: Column(kind=kind, primary_key=is_key, null=not is_key) for name, kind, is_key in described}
        attributes["__module__"] = "bench.models"
        attributes["Meta"] = type("Meta", (), {"app_label": "bench", "db_table": table, "managed": False})
        track = pghistory.track(
            pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.DeleteEvent(),
            level=pghistory.Statement if level == "statement" else pghistory.Row,
        )
        track(type(table.title().replace("_", ""), (models.Model,), attributes))
    with connection.schema_editor() as editor:
        for model in django.apps.apps.get_app_config("bench").get_models():
            if hasattr(model, "pgh_tracked_model"):
                editor.create_model(model)
    pgtrigger.install()


if __name__ == "__main__":
    main()
