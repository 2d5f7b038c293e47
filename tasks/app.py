"""``huey_consumer vp_queue.tasks.app.huey``: the consumer of the VP named by VP_ID."""

import importlib
import os
import sys
from functools import partial

from vp_queue import missions
from vp_queue.errors import VpError
from vp_queue.keeper.rescue import rescue_the_dead
from vp_queue.ledger import database
from vp_queue.queue.huey import consumer_huey
from vp_queue.queue.signals import on_interrupted
from vp_queue.worker.consumer import MissionWorker

try:
    settings = missions.ready()
    database.check_intact()
    profile = settings.profile(os.environ.get("VP_ID", ""))
    worker = MissionWorker(settings, profile, at_start=partial(rescue_the_dead, settings))
    huey = consumer_huey(profile.vp_id, worker.run, profile.concurrency)
except VpError as error:
    sys.exit(f"This consumer cannot start: {error.message}")

on_interrupted(huey, worker.stop_all)
huey.on_startup()(worker.begin)

# Last, so that these may say `from vp_queue.tasks.app import huey` and `@huey.signal("mission.completed")`.
for module in settings.imports:
    importlib.import_module(module)
