"""Makes `.venv` from one of the locked lists, once: `setup.py runtime` or `setup.py development`.

The development list holds the runtime list, so either order of calls installs each package once. What was
installed is noted in `.venv/installed.json`, last of all: an interrupted set-up leaves no note and starts
over.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
NOTE = os.path.join(VENV, "installed.json")
PYTHON = os.path.join(VENV, "Scripts", "python.exe") if os.name == "nt" else os.path.join(VENV, "bin", "python")
LISTS = ("runtime", "development")
OLDEST = (3, 11)


def say(text):
    """Tells the person what happens now."""
    print("setup: " + text, flush=True)


def fingerprint(*paths):
    """SHA-256 over the content of files of the checkout."""
    digest = hashlib.sha256()
    for path in paths:
        with open(os.path.join(ROOT, path), "rb") as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def read_note():
    """What is installed; empty when there is no environment, or a set-up did not finish."""
    try:
        with open(NOTE, encoding="utf-8") as file:
            note = json.load(file)
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and os.path.exists(PYTHON) else {}


def write_note(note):
    """Notes what is installed, as a whole or not at all."""
    with open(NOTE + ".new", "w", encoding="utf-8") as file:
        json.dump(note, file, indent=1, sort_keys=True)
    os.replace(NOTE + ".new", NOTE)


def run(*command):
    """Runs a program of the environment; a failure ends the set-up with its exit code."""
    finished = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL)
    if finished.returncode != 0:
        say("FAILED: " + " ".join(command))
        say("nothing is noted as installed; run the same command again once the cause above is mended")
        sys.exit(finished.returncode)


def pip(*arguments):
    """Runs pip inside the environment, with the package index that the person's own pip is set up for."""
    # -I: neither PYTHONPATH nor the user's own site-packages can mix with the locked list.
    run(PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)


def make_venv():
    """A new, empty environment in place of whatever is there."""
    say("making .venv with Python %d.%d.%d" % sys.version_info[:3])
    shutil.rmtree(VENV, ignore_errors=True)
    made = subprocess.run([sys.executable, "-I", "-m", "venv", VENV], cwd=ROOT, stdin=subprocess.DEVNULL)
    if made.returncode != 0:
        sys.exit(
            "setup: this Python cannot make a virtual environment. On Debian and Ubuntu: "
            "apt-get install python3-venv. Or name another Python: make PYTHON=/path/to/python3.12 ..."
        )


def covers(note, name):
    """Whether what is installed holds the named list; the development list holds both."""
    return note.get("installed") in (name, "development")


def install(name, wanted):
    """Installs a locked list, every file checked against its hash, and then the package itself."""
    started = time.monotonic()
    note = read_note()
    if note.get("home") == wanted["home"] and note.get("lists") == wanted["lists"]:
        os.remove(NOTE)
    else:
        make_venv()
        note = {}
    if not covers(note, name):
        lock = os.path.join(".ci", name + ".lock")
        with open(os.path.join(ROOT, lock), encoding="utf-8") as file:
            packages = sum("==" in line for line in file)
        say("installing %s (%d packages, each file checked against its hash)" % (lock, packages))
        pip("install", "-qq", "--require-hashes", "--no-deps", "-r", lock)
        note = {"installed": name}
    say("installing the broker itself, from this folder")
    pip("install", "-qq", "--no-deps", "--no-build-isolation", "--no-index", "--editable", ".")
    pip("check", "--quiet")
    write_note(dict(wanted, installed=note["installed"]))
    say("ready after %.0f s" % (time.monotonic() - started))


def main(arguments):
    """Brings `.venv` to what is asked for; does nothing when it is there already."""
    if len(arguments) != 1 or arguments[0] not in LISTS:
        sys.exit("usage: setup.py runtime|development")
    if sys.version_info < OLDEST:
        sys.exit(
            "setup: Python %d.%d or newer is needed, and %s is %d.%d. "
            "Name another one: make PYTHON=/path/to/python3.12 ..."
            % (OLDEST + (sys.executable,) + sys.version_info[:2])
        )
    wanted = {
        # An environment belongs to one folder and one interpreter; its scripts name both.
        "home": ROOT + " " + sys.version,
        "lists": fingerprint(*(os.path.join(".ci", each + ".lock") for each in LISTS)),
        "package": fingerprint("pyproject.toml"),
    }
    note = read_note()
    if not (covers(note, arguments[0]) and all(note.get(key) == value for key, value in wanted.items())):
        install(arguments[0], wanted)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("setup: stopped; nothing is noted as installed, the next run starts over")
