"""Fetches the systems that are compared with, all below target: Debian packages with apt-get, Python packages with pip."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from server import HERE, TOP, Failed, environment, psql

FOLDER = TOP / "target" / "bench"
PYTHON_PACKAGES = ("django-pghistory==3.9.2", "postgresql-audit==0.18.0", "psycopg[binary]", "eventsourcing==9.5.6")


def run(command, cwd=None, env=None):
    try:
        done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, check=False, text=True)
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        name, *rest = command[:3]
        raise Failed(f"{' '.join([Path(name).name, *map(str, rest)])}: {last[-1]}")
    return done.stdout.strip()


def pg_config(what):
    return run([os.environ["PG_CONFIG"], what])


def is_private(folder):
    """Whether a folder of the server is in a copy that .ci made below target, or where it put it instead."""
    note = TOP / "target" / "servers.path"
    roots = [str(TOP / "target"), note.read_text().strip() if note.exists() else ""]
    return any(root and folder.startswith(root) for root in roots)


def debian_extension(name, package):
    """Makes extension `name` available to the server, which must be a private copy below target if it is not there yet."""
    if psql(f"SELECT 1 FROM pg_available_extensions WHERE name = '{name}'"):
        return
    major = psql("SELECT current_setting('server_version_num')::int / 10000")[0]
    package = f"postgresql-{major}-{package}"
    library, share = pg_config("--pkglibdir"), pg_config("--sharedir")
    if not is_private(library):
        raise Failed(f"the server is not a copy of ours to add files to: install the Debian package {package}")
    folder = FOLDER / package
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        run(["apt-get", "download", package], cwd=folder)
    except Failed:
        # A bare machine has no package lists yet, and only root may fetch them.
        if os.geteuid() != 0:
            raise
        run(["apt-get", "update"])
        run(["apt-get", "download", package], cwd=folder)
    run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder])
    for source, pattern, destination in (
        (f"usr/lib/postgresql/{major}/lib", "*.so", library), (f"usr/share/postgresql/{major}/extension", "*", f"{share}/extension"),
    ):
        for path in (folder / source).glob(pattern):
            shutil.copy(path, destination)


def python_packages():
    """The folder that holds them, for PYTHONPATH."""
    folder = FOLDER / "python"
    complete = folder / ".complete"
    if complete.exists() and complete.read_text() == " ".join(PYTHON_PACKAGES):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = sys.executable
    try:
        run([python, "-m", "pip", "--version"])
    except Failed:
        python = TOP / "target" / "venv" / "bin" / "python"
        if not python.exists():
            run([sys.executable, "-m", "venv", TOP / "target" / "venv"])
    run([python, "-m", "pip", "install", "--quiet", "--target", folder, *PYTHON_PACKAGES])
    complete.write_text(" ".join(PYTHON_PACKAGES))
    return folder


def python_peer(script, *arguments):
    return run([sys.executable, HERE / script, *arguments], env={**environment(), "PYTHONPATH": str(python_packages())})
