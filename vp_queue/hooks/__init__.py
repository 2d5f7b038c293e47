"""What an agent's host adds to a conversation by itself: the inbox at a prompt, at a start, before a stop.

A host calls a hook and takes what it prints into the conversation. ``block`` makes that text, ``protocol`` knows the
hosts' JSON, ``inbox`` decides what is told and when it counts as acknowledged, ``memory`` remembers between two calls
what was shown, and ``process`` is the hook as a program, which must never hold up its host.
"""
