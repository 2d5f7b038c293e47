"""How a VP really runs an attempt: one file per executor, found through entry points.

An executor sees contracts and a control handle only; never the ledger, Peewee or Huey.
"""
