"""`broker backup` and `broker restore`: a copy of everything that the broker needs to go on, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.output import Json, print_fields, print_json, refusing, say, utc

if TYPE_CHECKING:
    from broker.backup import Backup

Folder = Annotated[Path, typer.Argument(help="The backup's folder.", metavar="DIR")]
Config = Annotated[Path | None, typer.Option(help="The configuration file; ./broker.toml when it is there.")]


def backup(
    folder: Folder,
    config: Config = None,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder; ./broker-data by default.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Make none; check the one that is in DIR.")] = False,
    json: Json = False,
) -> None:
    """Copies the embedded database and the keys into a new folder while the broker runs, and checks the copy.

    The backup holds the broker's private keys: keep it where only its owner reads. The configuration and the secrets
    that it names are not copied. Whoever can change a backup can make another that verifies as well: keep the
    checkpoint that is printed somewhere else, too.

    Examples:
        broker backup /var/backups/broker/monday --config /etc/broker.toml
        broker backup --verify /var/backups/broker/monday
    """
    with refusing(json):
        from broker import backup as backups
        from broker import premises
        from broker.assembly import unlock
        from broker.clock import SystemClock
        from broker.settings import load

        settings = load(config, storage__data_dir=data_dir)
        if verify:
            _show(backups.verify(folder, unlock(settings)), json=json)
            return
        if settings.storage.database is not None:
            raise backups.BackupRefused(backups.SERVERS_OWN)
        premises.data_folder(settings)
        made = backups.make(
            settings.storage.data_dir,
            folder,
            now=SystemClock().now(),
            configuration=str(settings.file.resolve()) if settings.file is not None else "",
            secrets=tuple(settings.secrets),
            unlock=unlock(settings),
        )
        _show(made, json=json)


def restore(
    folder: Folder,
    data_dir: Annotated[Path, typer.Option(help="The new data folder: not there yet, or empty.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Makes a data folder of a backup, after checking it whole. The first start records that, for auditors.

    What happened after the backup is lost: records, and with them what was suspended or revoked since; keys that ended
    because they were stolen sign again. Stop the broker that it comes from first, for two of them would sign two
    histories with one key. Sealed keys need the configuration that names what opens them.

    Example: `broker restore /var/backups/broker/monday --data-dir /var/lib/broker`
    """
    with refusing(json):
        from broker import backup as backups
        from broker.assembly import unlock
        from broker.clock import SystemClock
        from broker.settings import load

        restored = backups.restore(folder, data_dir, now=SystemClock().now(), unlock=unlock(load(config)))
        if json:
            print_json({**restored.told(), "data_dir": str(data_dir)})
            return
        _show(restored, json=False)
        say()
        say(f"Restored into {data_dir}. What to do now:", "bold")
        say("  1. See that the broker of which this is a backup is stopped, and stays so.")
        named = restored.manifest["configuration"] or "none; it ran without"
        say(f"  2. Put its configuration in place (it was {named}), and its secrets:")
        say(f"     {', '.join(restored.manifest['secrets']) or 'it named none'}.")
        say(f"  3. broker serve --data-dir {data_dir}")
        say("  4. Suspend and revoke again what was suspended or revoked after the backup: it is active again.")
        say(
            "  5. If a key was replaced as compromised after the backup, replace it again: `broker keys rotate --help`."
        )
        say("  6. Tell your auditors: checkpoints newer than this one are contradicted from here on, and the first")
        say("     record says so: broker audit search --kind BrokerStarted --limit 1")


def _show(found: Backup, *, json: bool) -> None:
    told = found.told()
    if json:
        print_json(told)
        return
    head = found.checked.head
    print_fields(
        {
            "backup": told["folder"],
            "made at": utc(found.manifest["made_at_ms"] / 1000),
            "size": f"{found.manifest['files']['broker.db']['bytes']} bytes of database",
            "records": f"{found.checked.records}, re-verified up to the checkpoint of {head.size}",
            "log key": told["log_key"],
        }
    )
    say()
    say("The checkpoint that it reaches to; keep it somewhere else, too:")
    say(found.checked.note.rstrip())
