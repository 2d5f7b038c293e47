"""``python -m tests.faults.campaign``: run one campaign, print its figures, and say whether the promise held."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import conduct, figures, plan, verdict
from tests.faults.campaign.fleet import Fleet
from tests.faults.campaign.notes import Folder, Notes


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.campaign", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long faults are injected (60)")
    parser.add_argument("--seed", type=int, help="replays a campaign's missions and faults (drawn, and printed)")
    parser.add_argument("--lease-seconds", type=float, help="of the leases (drawn from the seed)")
    parser.add_argument("--only", default="", help="faults to choose from: kill:consumer,stop:keeper,…")
    parser.add_argument(
        "--faults-per-second", type=float, default=plan.FAULTS_PER_SECOND, help=f"({plan.FAULTS_PER_SECOND})"
    )
    parser.add_argument("--direct", action="store_true", help="two consumers per VP, without supervisord (else drawn)")
    parser.add_argument("--mutants", default="", help="guards to remove in every process (tests.mutants); --direct")
    parser.add_argument(
        "--quiet-seconds", type=float, default=conduct.QUIET_SECONDS, help="what counts as a stall (30)"
    )
    parser.add_argument(
        "--folder", type=Path, help="work in this new folder and keep it (a temporary one, if clean gone)"
    )
    parser.add_argument("--json", type=Path, dest="document", help="also write the figures to this file")
    parser.add_argument("--plan", action="store_true", help="print the plan of the seed and do nothing")
    return parser.parse_args()


def main() -> int:
    args = parse()
    seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    made = plan.make(
        seed,
        args.seconds,
        lease_seconds=args.lease_seconds,
        direct=args.direct or bool(args.mutants),
        only=[pair for pair in args.only.split(",") if pair],
        faults_per_second=args.faults_per_second,
    )
    if args.plan:
        print(json.dumps(made.as_dict(), indent=1))
        return 0
    path = args.folder or Path(tempfile.mkdtemp(prefix="vp-campaign-"))
    folder = Folder(path.resolve())
    folder.make()
    how = "started directly" if made.direct else "under supervisord"
    print(
        f"Campaign of seed {seed}: {args.seconds:g} s of faults, {how}, leases of {made.lease_seconds:g} s, in {path}",
        flush=True,
    )
    fleet = Fleet(folder, Notes(folder.journal, synced=False), made.direct, args.mutants)
    seen = conduct.Campaign(folder, made, fleet, quiet_seconds=args.quiet_seconds).run()
    evidence, anomalies = verdict.judge(folder, made, seen, fleet)
    told = figures.gather(folder, made, seen, evidence, anomalies)
    print(figures.table(told))
    if args.document:
        args.document.write_text(json.dumps(told, indent=1) + "\n")
    if anomalies:
        print(f"The promise did not hold. Everything is in {path}; --seed {seed} replays it.")
        return 1
    if args.folder is None:
        shutil.rmtree(path)
    print("The promise held.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
