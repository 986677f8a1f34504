"""The one sandbox in which everything runs that is a tree's, a spec's or an element's.

``box`` starts it, ``profiles`` says what each purpose may do, ``filter`` makes the seccomp filter,
``bounds`` the control groups; ``child`` is the program that makes the sandbox and becomes the
program in it.
"""
