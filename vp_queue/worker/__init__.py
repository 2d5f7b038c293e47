"""One attempt at one mission: its workspace, its process tree, its lease, its artifacts.

This file imports nothing: the launcher starts in an interpreter without site-packages.
"""
