"""Commands that look at the teachers' stored outputs, check them, make room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.app import Quiet, Trust
from limbeck.core.errors import UserError

cache = typer.Typer(help="Look at the teachers' stored outputs, check them, make room.", no_args_is_help=True)

Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY", help="These only, by the beginning of their keys; see `limbeck cache ls`.", show_default=False
    ),
]


@cache.command("ls")
def cache_ls() -> None:
    """List what is stored: of which teacher and data, how large, when it was last used."""
    import time

    from limbeck.distill.cache import store

    found = store.entries()
    for entry in found:
        days = (time.time() - entry.used) / 86400
        used = "in use" if entry.in_use else "used today" if days < 1 else f"used {days:.0f} days ago"
        what = entry.damage or f"{entry.label['what']}, {entry.label['data']} ({entry.label['recipe']})"
        state = "" if entry.complete else ", not finished"
        size = f"{entry.rows:,} rows x {entry.views}, {store.in_words(entry.bytes)}{state}"
        print(f"{entry.key}  {what}\n{'':18}{size}, {used}")
    print(f"{store.in_words(sum(entry.bytes for entry in found))} in {store.outputs_dir()}")


@cache.command("verify")
def cache_verify(
    keys: Keys = None,
    run: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Ask the teachers of this finished run again, too.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Rows to ask each teacher for.", min=1)] = 64,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Hold what is stored against its checksums, and with --run against the teachers themselves."""
    from limbeck.core.progress import Progress
    from limbeck.distill.cache import store

    progress, wrong, known = Progress(quiet=quiet), 0, store.entries()
    for key in keys or ():
        if not any(entry.key.startswith(key) for entry in known):
            raise UserError(f"nothing is stored as '{key}'", hint="see `limbeck cache ls`")
    chosen = [entry for entry in known if not keys or entry.key.startswith(tuple(keys))]
    with progress.bar("checksums", len(chosen)) as advance:
        for number, entry in enumerate(chosen, start=1):
            faults = store.verify(entry)
            wrong += len(faults)
            print(f"{entry.key}: {'sound' if not faults else '; '.join(faults)}")
            advance(number, entry.key)
    if run is not None:
        from limbeck.pipeline import doctor

        for name, found in doctor.recheck(run, sample=sample, trust=trust, progress=progress).items():
            print(
                f"{name}: asked again for {found.samples} rows, largest difference {found.worst:.3g}, "
                f"{found.disagreements} with another prediction"
            )
            wrong += found.disagreements
    if wrong:
        hint = "what is damaged is asked anew by the next run that needs it"
        raise UserError(f"{wrong} fault{'' if wrong == 1 else 's'}", hint=hint)


@cache.command("prune")
def cache_prune(
    keys: Keys = None,
    older_than: Annotated[float | None, typer.Option(metavar="DAYS", help="What was not used for so long.")] = None,
    to_gb: Annotated[
        float | None, typer.Option(metavar="GB", help="The least recently used, until the rest takes no more.")
    ] = None,
    incomplete: Annotated[bool, typer.Option("--incomplete", help="What was never finished, or is damaged.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove stored outputs. Those a run is using stay; what is removed can be asked for again."""
    from limbeck.distill.cache import store

    if not (keys or everything or incomplete or older_than is not None or to_gb is not None):
        raise UserError(
            "say what shall go",
            where="limbeck cache prune",
            hint="KEY..., --older-than DAYS, --to-gb GB, --incomplete or --all",
        )
    gone = store.prune(
        None if everything else keys or [],
        older_than_days=older_than,
        to_bytes=None if to_gb is None else int(to_gb * 1e9),
        incomplete=incomplete,
        dry_run=dry_run,
        say=print,
    )
    for entry in gone:
        print(f"{entry.key}: {'would be removed' if dry_run else 'removed'}, {entry.bytes / 1e6:,.1f} MB")
    print(f"{sum(entry.bytes for entry in gone) / 1e6:,.1f} MB")
