"""Makes a sandbox and becomes the program in it; run by ``imagekit.host.sandbox.box``.

A program of its own, of the standard library alone: nothing that imagekit loads (libraries with
files and threads of their own) is in the process that becomes somebody else's program.
"""
