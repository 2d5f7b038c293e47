"""Numbered migrations, applied in order by playhouse.migrations under a lock (see ``ledger.schema``)."""
